"""Hands the text of running jobs to those who read along in this process.

Whatever is lost on its way, a reader notices by the offsets and asks for; and one who reads slowly is kept a bounded
part of it, and asks for the rest.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b

from msgspec import Struct

from domain.job import JobId
from domain.texts import TextPiece

MOST_KEPT = 256 << 10
"""Characters that wait for a slow reader."""


class Text(Struct, frozen=True):
    """What a reader gets next."""

    number: int
    """The change of the job's state that began its run."""
    offset: int
    text: str

    @property
    def end(self) -> int:
        return self.offset + len(self.text)


class Reader:
    """Somebody who reads the text of one job, from one event loop.

    Args:
        wake: called when there is something to take, or something is missing.
        number: the run whose text is known up to `offset` characters.
    """

    def __init__(self, wake: Callable[[], object], number: int = 0, offset: int = 0) -> None:
        self.number = number
        """That of the run that is read."""
        self.end = offset
        """How much of its text was taken."""
        self.missing = False
        """Whether some of it did not come: somebody has to ask for it."""
        self._wake = wake
        self._kept: list[str] = []
        self._size = 0
        # Of a text whose beginning was read by somebody else nothing can be told.
        self._digest = blake2b() if not offset else None

    def hear(self, piece: TextPiece) -> None:
        if piece.number < self.number:
            return
        if piece.number > self.number:
            self.begin(piece.number)
        known = self.end + self._size
        if piece.offset > known:
            self.missing = True
        elif piece.end > known:
            self._keep(piece.text[known - piece.offset :])
        self._wake()

    def begin(self, number: int) -> None:
        """Read this run from its beginning, if that is not what is read already."""
        if number != self.number:
            self.number, self.end, self.missing, self._digest = number, 0, False, blake2b()
            self._kept, self._size = [], 0

    def take(self) -> Text | None:
        """What has come since the last time; None where nothing has."""
        if not self._size:
            return None
        taken = Text(self.number, self.end, "".join(self._kept))
        self._kept, self._size = [], 0
        self._took(taken.text)
        return taken

    def rest(self, number: int, content: str) -> Text | None:
        """What is missing of a whole text, that of this run; None where nothing is.

        All of it, from 0, where what was taken was the beginning of another text.
        """
        self.begin(number)
        self._kept, self._size = [], 0
        if not self.fits(content):
            self.end, self._digest = 0, blake2b()
        text = content[self.end :]
        if not text:
            return None
        taken = Text(number, self.end, text)
        self._took(text)
        return taken

    def fits(self, content: str) -> bool:
        """Whether what was taken is the beginning of this, as far as one can tell."""
        if self._digest is None:
            return True
        return self.end <= len(content) and blake2b(_bytes(content[: self.end])).digest() == self._digest.digest()

    def _keep(self, text: str) -> None:
        room = MOST_KEPT - self._size
        self.missing = len(text) > room
        if kept := text[:room]:
            self._kept.append(kept)
            self._size += len(kept)

    def _took(self, text: str) -> None:
        self.end += len(text)
        if self._digest:
            self._digest.update(_bytes(text))


@dataclass
class Readers:
    """Those of all jobs of a process."""

    _readers: dict[JobId, set[Reader]] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _heard: list[TextPiece] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def read(self, job_id: JobId, reader: Reader) -> Iterator[None]:
        """Within this, the reader hears what comes of this job's text."""
        self._loop = asyncio.get_running_loop()
        self._readers.setdefault(job_id, set()).add(reader)
        try:
            yield
        finally:
            readers = self._readers[job_id]
            readers.discard(reader)
            if not readers:
                del self._readers[job_id]

    @property
    def reading(self) -> int:
        """How many jobs are read."""
        return len(self._readers)

    def heard(self, pieces: Sequence[TextPiece]) -> None:
        """Pieces came. May be called from any thread."""
        # Most of them concern nobody here: those cost the event loop nothing.
        about = [piece for piece in pieces if piece.job_id in self._readers]
        if not about or self._loop is None:
            return
        with self._lock:
            first, self._heard = not self._heard, self._heard + about
        if first:
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        with self._lock:
            pieces, self._heard = self._heard, []
        for piece in pieces:
            for reader in tuple(self._readers.get(piece.job_id, ())):
                reader.hear(piece)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
