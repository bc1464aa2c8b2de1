"""Files that operators write, JSON or TOML: how one is read, and read again when it has changed.

What is said of a file that cannot be used holds nothing of it: secrets may stand anywhere in it.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from domain.errors import StartupError

log = structlog.get_logger()

T = TypeVar("T")

LOOK_EVERY = 1.0
"""Seconds that a changed file may go unnoticed."""


class Unusable(Exception):
    """Says what was expected of a file, and where in it."""


class Missing(Unusable):
    """There is no such file."""


def document(path: Path) -> Any:
    """What the file holds; its name tells whether it is JSON or TOML.

    Raises:
        Unusable: it cannot be read, or is not what its name says; `Missing` where there is none.
    """
    parse = {".json": _parse_json, ".toml": _parse_toml}.get(path.suffix.lower())
    if parse is None:
        raise Unusable("a file whose name ends in .json or .toml")
    return parse(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise (Missing if gone else Unusable)(f"a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Unusable("text in UTF-8") from None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise Unusable(f"valid JSON (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise Unusable("valid JSON") from None


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    # Otherwise the last one would win in silence.
    known = dict(members)
    if len(known) < len(members):
        raise Unusable("every key once in its table")
    return known


def _parse_toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Its own words may quote the file.
        place = re.search(r" \(at (line \d+, column \d+|end of document)\)$", str(error))
        where = f" ({place[1]})" if place else ""
        raise Unusable(f"valid TOML with every key once{where}") from None


class Watched(Generic[T]):
    """A file that may change while the service runs. Make it before the first reading: no change falls between then."""

    def __init__(
        self, path: Path, read: Callable[[Path], T], *, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            path: of the file; it need not exist yet.
            read: what the file says; raises StartupError where it cannot be used.
            what: it holds, as the log calls it.
            clock: monotonic, in seconds.
        """
        self._path = path
        self._read = read
        self._what = what
        self._clock = clock
        self._look_at = clock() + LOOK_EVERY
        self._version = _version(path)
        self._trouble = ""

    def look(self) -> T | None:
        """What a changed file says, or None: it has not changed, or was looked at less than a second ago.

        A version that cannot be used, or a file that has gone, is logged once, and is None too.
        """
        now = self._clock()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY
        version = _version(self._path)
        if version == self._version and not self._trouble:
            return None
        try:
            content = self._read(self._path)
        except StartupError as error:
            if str(error) != self._trouble:
                log.error(f"{self._what} refused", reason=str(error), hint="what was read before stays in force")
            self._trouble = str(error)
            return None
        self._version, self._trouble = version, ""
        return content


def _version(path: Path) -> tuple[int, ...] | None:
    """Differs between any two versions of a file. Taken before it is read, so that no change falls between."""
    try:
        found = path.stat()
    except OSError:
        return None
    # The time of change too: it tells when a file became readable.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
