"""How the service fares, part by part: a word for each, the figures behind it, and what is wrong in particular."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

Figure = int | float | None


class Word(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    """It works, but somebody should look."""
    DOWN = "down"
    """It does nothing that it is for."""


class Finding(Struct, frozen=True):
    """Something that is wrong. Names what is configured, so it is not for everybody."""

    about: str
    """The queue, profile, target or part."""
    text: str


class Component(Struct, frozen=True):
    """A part of the service. Its figures have the same names whatever its word; None: not known now."""

    status: Word
    figures: Mapping[str, Figure]
    findings: tuple[Finding, ...] = ()


POSTGRES = "postgres"


class Diagnosis(Struct, frozen=True):
    components: Mapping[str, Component]

    @property
    def status(self) -> Word:
        """Down where PostgreSQL is, for nothing goes on without it; whatever else is not well degrades the service."""
        if self.components[POSTGRES].status is Word.DOWN:
            return Word.DOWN
        well = all(component.status is Word.OK for component in self.components.values())
        return Word.OK if well else Word.DEGRADED
