"""Lines out of the pieces of a response, none longer than anything sensible."""

from __future__ import annotations

from collections.abc import Iterator

LONGEST_LINE = 1 << 20


class LineTooLong(Exception):
    """A line is longer than any sensible one."""


class LineReader:
    """Fed with pieces as they arrive."""

    def __init__(self) -> None:
        # Joined when the line ends: what grows with every piece would be copied with every piece.
        self._begun: list[bytes] = []
        self._size = 0

    @property
    def rest(self) -> bytes:
        """What came after the last line's end."""
        return b"".join(self._begun)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that this piece completes, without their ends.

        Raises:
            LineTooLong: a line exceeds a mebibyte.
        """
        *lines, rest = piece.split(b"\n")
        for line in lines:
            yield (self._line(line)).removesuffix(b"\r")
        self._add(rest)

    def _line(self, end: bytes) -> bytes:
        self._add(end)
        line = self.rest
        self._begun, self._size = [], 0
        return line

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LONGEST_LINE:
            raise LineTooLong
        self._begun.append(part)
