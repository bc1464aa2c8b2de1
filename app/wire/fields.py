"""What the fields of requests and answers are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from domain.errors import BadInput, Problem
from domain.identity import NAME
from domain.job import Priority

# `$` alone would let a newline follow.
NAME_PATTERN = rf"^{NAME}$(?!\n)"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
OwnerRef = Annotated[str, Meta(max_length=500)]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object", "additionalProperties": True})]
Moment = Annotated[datetime, Meta(tz=True)]
PriorityName = Literal["high", "normal", "low"]
LabelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$(?!\n)")]
LabelValue = Annotated[str, Meta(max_length=200)]

MOST_LABELS = 16

PRIORITIES: dict[PriorityName, Priority] = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}
PRIORITY_NAMES = {priority: name for name, priority in PRIORITIES.items()}

_object = msgspec.json.Decoder(dict[str, Raw])


def in_utc(moment: datetime, pointer: str) -> datetime:
    """The same moment as the storage keeps it.

    Raises:
        BadInput: pointing here: it is beyond the calendar.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadInput([Problem(pointer, "The time is beyond the calendar.")]) from None


def must_be_object(data: Raw, pointer: str) -> None:
    """
    Raises:
        BadInput: pointing here: it is other JSON.
    """
    try:
        _object.decode(data)
    except msgspec.ValidationError:
        raise BadInput([Problem(pointer, "Expected `object`")]) from None
