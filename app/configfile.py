"""The configuration file: JSON or TOML, how an installation shares its GPUs.

Read here are its `queues`, `owners` and `task_types`. What it says of providers is let through unread: their keys stand
there, so what is said of a file that cannot be used names places in it and never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from app.datafile import Missing, Unusable, document
from app.durations import positive_duration
from domain.errors import StartupError
from domain.identity import NAME
from domain.policy import LARGEST_SHARE, OwnerPolicy, Policies, QueuePolicy, TaskPolicy

VARIABLE = "AI_SERVICE_CONFIG"
DEFAULT = Path("/config/ai_service_config.json")

P = TypeVar("P")

PARTS = ("queues", "owners", "task_types")
UNREAD = ("profiles", "provider", "lmstudio", "ollama", "anthropic")
"""Of providers."""

MOST_SLOTS, MOST_JOBS = 10_000, 1_000_000_000


def read(path: Path, *, required: bool = True) -> Policies:
    """What the file says of queues, owners and task types.

    Args:
        path: of the file.
        required: whether there must be one; where there need not, none says nothing.

    Raises:
        StartupError: it cannot be read or used; one line for its operator, which holds no value of the file.
    """
    try:
        return _policies(document(path))
    except Unusable as error:
        if isinstance(error, Missing) and not required:
            return Policies()
        raise StartupError(f"{VARIABLE}: {str(path)!r} cannot be used; expected {error}.") from None


Field = Callable[[Any], Any]
"""What a value means; raises ValueError, which says what was expected."""


def _whole(most: int) -> Field:
    def parsed(given: Any) -> int:
        if type(given) is not int or not 1 <= given <= most:
            raise ValueError(f"a whole number from 1 to {most}")
        return given

    return parsed


def _number(least: float, most: float) -> Field:
    def parsed(given: Any) -> float:
        if type(given) not in (int, float) or not least <= given <= most:
            raise ValueError(f"a number from {least} to {most}")
        return float(given)

    return parsed


def _boolean(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError("true or false")
    return given


def _duration(given: Any) -> timedelta:
    if not isinstance(given, str):
        raise ValueError('a duration in quotes, such as "30s", "5m" or "1h30m"')
    return positive_duration(given)


QUEUE: Mapping[str, Field] = {
    "concurrency": _whole(MOST_SLOTS),
    "preempt": _boolean,
    "reserved_share": _number(0, LARGEST_SHARE),
    "ageing": _duration,
    "adaptive": _boolean,
}
OWNER: Mapping[str, Field] = {
    "weight": _number(0.001, 1_000_000),
    "max_pending": _whole(MOST_JOBS),
    "max_running": _whole(MOST_JOBS),
}
TASK: Mapping[str, Field] = {"max_run_time": _duration}


def _policies(given: Any) -> Policies:
    if not isinstance(given, Mapping):
        raise Unusable(f"a table of any of {', '.join(PARTS)}")
    for place, key in enumerate(given, start=1):
        if key not in PARTS + UNREAD:
            raise Unusable(f"{_shown(key) or f'key {place}'} to be {_one_of(PARTS + UNREAD, key)}")
    return Policies(
        queues=_entries(given, "queues", QUEUE, QueuePolicy),
        owners=_entries(given, "owners", OWNER, OwnerPolicy),
        task_types=_entries(given, "task_types", TASK, TaskPolicy),
    )


def _entries(
    document: Mapping[str, Any], part: str, fields: Mapping[str, Field], policy: Callable[..., P]
) -> dict[str, P]:
    given = document.get(part, {})
    if not isinstance(given, Mapping):
        raise Unusable(f"{part} to be a table that has a table for each name")
    return {
        _name(name, part, place): policy(**_fields(entry, f"{part}.{name}", fields))
        for place, (name, entry) in enumerate(given.items(), start=1)
    }


def _name(given: str, part: str, place: int) -> str:
    if not re.fullmatch(NAME, given):
        raise Unusable(f"name {place} of {part} to be a letter or digit, then up to 99 letters, digits or ._:/@+-")
    if part == "queues" and "/" in given:  # a queue is a step of a path, where a slash cannot be sent
        raise Unusable(f"name {place} of {part} to have no slash in it")
    return given


def _fields(given: Any, pointer: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise Unusable(f"{pointer} to be a table of any of {', '.join(fields)}")
    found = {}
    for place, (name, value) in enumerate(given.items(), start=1):
        if name not in fields:
            raise Unusable(_unknown_field(pointer, name, place, value, fields))
        if value is None:
            continue
        try:
            found[name] = fields[name](value)
        except ValueError as error:
            raise Unusable(f"{pointer}.{name} to be {error}") from None
    return found


def _unknown_field(pointer: str, name: str, place: int, value: Any, fields: Mapping[str, Field]) -> str:
    shown = _shown(name)
    subject = f"{pointer}.{shown}" if shown else f"field {place} of {pointer}"
    if not isinstance(value, Mapping):
        return f"{subject} to be {_one_of(fields, name)}"
    # TOML takes [queues.gpu.llm] for a table `llm` in a table `gpu`.
    part, _, first = pointer.partition(".")
    return f'{subject} to be a field; a name with a dot is quoted: [{part}."{first}.{shown or "…"}"]'


def _one_of(known: Collection[str], given: str) -> str:
    meant = get_close_matches(given, known, n=1)
    return f"one of {', '.join(known)}" + (f" (did you mean {meant[0]}?)" if meant else "")


def _shown(key: str) -> str:
    """A key that nobody knows, if it can hardly be a secret in the wrong place; else nothing."""
    return key if re.fullmatch(r"[A-Za-z_-]{1,40}", key) else ""
