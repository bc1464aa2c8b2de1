"""`INFRA_TARGETS`: what is asked about the machines behind the model servers. Its URLs may hold passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from app.endpoint import http_url
from app.secret import Secret
from domain.infra import TargetKind

MOST = 100

EXPECTED = (
    f"name=kind+url, separated by ',', such as gpu-1=dcgm+http://gpu-1:9400/metrics; "
    f"the kind is one of: {', '.join(TargetKind)}"
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

_BEGINNING = re.compile(r"[A-Za-z0-9._-]{1,63}=[A-Za-z0-9_-]{0,40}")
_URL = re.compile(r"(https?://)(?:[^@/?#\s]*@)?(.*)", re.DOTALL)


class InfraTarget(Struct, frozen=True):
    name: str
    kind: TargetKind
    url: Secret

    def __repr__(self) -> str:
        return f"{self.name}={self.kind}+{self.url}"


class EntryUnusable(ValueError):
    """An entry cannot be used. Names it as far as no password can stand there, and what is expected."""


def parse_targets(given: str) -> tuple[InfraTarget, ...]:
    """What the operator wrote.

    Raises:
        EntryUnusable: the first that cannot be used.
    """
    targets = tuple(_each(given))
    if len(targets) > MOST:
        raise EntryUnusable(f"there are {len(targets)} entries; expected {MOST} at most")
    return targets


def _each(given: str) -> Iterator[InfraTarget]:
    seen: set[str] = set()
    for number, entry in enumerate(filter(None, (each.strip() for each in given.split(","))), start=1):
        name, _, rest = entry.partition("=")
        kind, _, url = rest.partition("+")
        if not NAME.fullmatch(name) or kind not in {*TargetKind}:
            raise EntryUnusable(f"{_named(number, entry)} cannot be used; expected {EXPECTED}")
        if not _can_be_asked(url):
            expected = "an http:// or https:// URL with a host, special characters in a password percent-encoded"
            raise EntryUnusable(f"{_named(number, entry)} cannot be used; expected after its + {expected}")
        if name in seen:
            raise EntryUnusable(f"{_named(number, entry)} cannot be used; expected a name that no other entry has")
        seen.add(name)
        yield InfraTarget(name, TargetKind(kind), Secret(url))


def _named(number: int, entry: str) -> str:
    """Where a comma or an equals sign stands in a password, what follows it looks like an entry of its own."""
    beginning, _, rest = entry.partition("+")
    may_be_secret = "@" in entry and not rest.startswith(("http://", "https://"))
    if may_be_secret or not _BEGINNING.fullmatch(beginning):
        return f"entry {number}"
    return f"entry {number} ({beginning}+...)"


def _can_be_asked(url: str) -> bool:
    parts = _URL.fullmatch(url)
    try:
        return bool(parts and http_url(parts[1] + parts[2]))
    except ValueError:
        return False
