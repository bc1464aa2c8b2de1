"""The file of tokens: JSON or TOML, from each token to the owner it stands for, or to a table of what it is good for.

What is said of a file that cannot be used holds nothing of it: its tokens may stand anywhere, even where names belong.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NoReturn

import msgspec
from msgspec import Meta, Struct, ValidationError

from app.datafile import Unusable, document
from domain.access import Caller, Right
from domain.errors import Problem, StartupError
from domain.identity import NAME
from domain.job import Priority

VARIABLE = "AI_SERVICE_TOKENS"
SHORTEST_TOKEN = 8
ALL_OWNERS = "*"

Digest = NewType("Digest", bytes)
"""What is kept of a token: enough to know it again, and no more."""

Amount = Annotated[float, Meta(ge=0.001, le=1_000_000)]


class Grant(Struct, frozen=True, forbid_unknown_fields=True):
    """What a token is good for, as the file says it."""

    owner: Annotated[str, Meta(pattern=rf"^(?:\*|{NAME})$(?!\n)")]
    """The only owner that it may act for, or `*`: all."""
    rights: Annotated[frozenset[Right], Meta(min_length=1)] = frozenset({Right.SUBMIT, Right.READ})
    priority: Literal["high", "normal", "low"] = "normal"
    """Of jobs that name none."""
    weight: Amount = 1.0
    rate: Amount | None = None
    """Requests a second; None: as many as it likes."""

    def caller(self) -> Caller:
        """Who sends this token."""
        return Caller(
            owner=None if self.owner == ALL_OWNERS else self.owner,
            rights=self.rights,
            priority=Priority[self.priority.upper()],
            weight=self.weight,
        )


EXPECTED = {
    "": "an owner's name, or a table of owner and any of rights, priority, weight and rate",
    "owner": "a letter or digit, then up to 99 letters, digits or ._:/@+-; or * for all owners",
    "rights": f"a list of at least one of {', '.join(Right)}",
    "priority": "high, normal or low",
    "weight": "a number from 0.001 to 1000000",
    "rate": "requests a second, a number from 0.001 to 1000000",
}
"""Of an entry, and of each field of one."""


def digest_of(token: bytes) -> Digest:
    return Digest(hashlib.sha256(token).digest())


def read(path: Path) -> dict[Digest, Grant]:
    """What the file grants, by the digests of its tokens.

    Raises:
        StartupError: it cannot be read or used; one line for its operator, which holds nothing of the file.
    """
    try:
        return _grants(document(path))
    except Unusable as error:
        raise StartupError(f"{VARIABLE}: {str(path)!r} cannot be used; expected {error}.") from None


def _grants(given: Any) -> dict[Digest, Grant]:
    if not isinstance(given, Mapping) or not given:
        raise Unusable("a table of tokens, at least one")
    return {_digest(token, place): _grant(entry, place) for place, (token, entry) in enumerate(given.items(), start=1)}


def _digest(token: str, place: int) -> Digest:
    # What every client sends as it is: a header's other characters are encoded by some so and by some otherwise.
    if not re.fullmatch(rf"[!-~]{{{SHORTEST_TOKEN},}}", token):
        raise Unusable(
            f"token {place} to be at least {SHORTEST_TOKEN} characters of ASCII without spaces: "
            "`openssl rand -hex 32` makes a good one"
        )
    return digest_of(token.encode())


def _grant(given: Any, place: int) -> Grant:
    entry = {"owner": given} if isinstance(given, str) else given
    try:
        return msgspec.convert(entry, Grant)
    except ValidationError as error:
        _refuse(Problem.of(error).pointer, entry, place)


def _refuse(pointer: str, entry: Any, place: int) -> NoReturn:
    named = pointer.partition("/")[2].partition("/")[0]
    # A field that is missing or unknown is the entry's fault; and what is unknown may be a token in the wrong place.
    field = named if named in EXPECTED and isinstance(entry, Mapping) and named in entry else ""
    subject = f"{field} of token {place}" if field else f"token {place}"
    raise Unusable(f"{subject} to be {EXPECTED[field]}")
