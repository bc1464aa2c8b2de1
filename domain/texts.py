"""The text of an answer while it is being written, for those who read along: a hint that may be lost, never the truth.

What counts is the result. A reader who missed a piece asks for all of it, or takes the rest from the result.
"""

from __future__ import annotations

from msgspec import Struct

from domain.job import JobId


class TextPiece(Struct, frozen=True):
    """A part of what a run has answered so far."""

    job_id: JobId
    number: int
    """The change of the job's state that began the run."""
    offset: int
    """Where it stands in the run's answer, in characters."""
    text: str

    @property
    def end(self) -> int:
        return self.offset + len(self.text)
