"""Server-sent events out of the pieces of a response, as model servers really send them.

More lenient than the standard where a server in use needs it: the last event may lack its blank line. A last line
without an end was cut off and is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from adapters.providers.lines import LONGEST_LINE, LineReader, LineTooLong

LONGEST_EVENT = LONGEST_LINE


class ServerSentEvent(Struct, frozen=True):
    data: bytes
    name: bytes = b""


class EventReader:
    """Fed with pieces as they arrive. Comments and keep-alives are passed over."""

    def __init__(self) -> None:
        self._lines = LineReader()
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that this piece completes.

        Raises:
            LineTooLong: an event exceeds a mebibyte.
        """
        for line in self._lines.feed(piece):
            if line:
                self._field(line)
            else:
                yield from self.end()

    def end(self) -> Iterator[ServerSentEvent]:
        """The event whose blank line comes now, or, at the stream's end, will not come."""
        if self._data:
            yield ServerSentEvent(b"\n".join(self._data), self._name)
        self._name, self._data, self._size = b"", [], 0

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value
        elif name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > LONGEST_EVENT:
                raise LineTooLong
