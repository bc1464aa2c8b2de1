"""One caller's connection: HTTP/1.1 whose heads are bounded, and in which nothing takes for ever.

uvicorn bounds neither. Without this, whoever sends a byte a minute, or reads nothing of what was asked for, keeps a
connection and what belongs to it for as long as they like.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from http import HTTPStatus
from itertools import islice
from math import inf
from typing import Any

from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.wire.problem import MEDIA_TYPE, plain

MOST_HEAD = 32 << 10
"""Bytes of a request's line and its fields."""

MOST_FIELDS = 100

MOST_PIPELINED = 16
"""Requests that wait for the answer to one that came before them on the same connection."""

LOOKED_AT = 64
"""Connections among which the one is chosen that makes room for a new one."""


class Patience(Struct, frozen=True):
    """How long a caller may take, in seconds."""

    head: float = 10.0
    """For a whole head, from the connection's beginning or its own first byte on."""
    body: float = 30.0
    """For each further `least` bytes of a body, or its end."""
    answer: float = 60.0
    """To take each further `least` bytes of what is ready for it."""
    least: int = 32 << 10


PATIENCE = Patience()


class Phase(StrEnum):
    """What the service waits for."""

    NEXT = "next"
    HEAD = "head"
    BODY = "body"
    WORK = "work"
    READER = "reader"


class Stretch(Struct, frozen=True):
    """The time since a phase of a request began, or last went on well."""

    phase: Phase
    request: int
    since: float
    done: int
    """Bytes."""


class _Refused(Exception):
    """The request is not taken further."""


class Connection(HttpToolsProtocol):
    """`look` at it about once a second: it ends itself when its caller takes too long."""

    def __init__(self, *args: Any, most: int, patience: Patience, **kwargs: Any) -> None:
        """
        Args:
            most: connections that the server may have at once; one more makes an idle one go, or goes itself.
        """
        super().__init__(*args, **kwargs)
        self._most = most
        self._patience = patience
        self._requests = 0
        self._expected = True
        """Something has come, or the caller has just come, and the request is not complete."""
        self._in_head = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._chunk_is_shared = False
        """Its first bytes belonged to the request before."""
        self._refusal = HTTPStatus.BAD_REQUEST
        self._stretch = Stretch(Phase.HEAD, 0, self.loop.time(), 0)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._most and not _make_room(self.connections - {self}):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._expected, self._chunk_is_shared = True, False
        super().data_received(data)
        if self._in_head and not self._chunk_is_shared:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # after a chunked body: they would pass for fields that came before the guard
            raise _Refused
        if len(self.headers) >= MOST_FIELDS:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _Refused
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MOST_HEAD:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _Refused
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _Refused
        super().on_headers_complete()
        self._in_head = False
        self._requests += 1

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.more_body = False  # also where the answer was complete before
        self._expected, self._chunk_is_shared = False, True

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    @property
    def phase(self) -> Phase:
        if self.transport.get_write_buffer_size():
            return Phase.READER
        if self.cycle is None or self.cycle.response_complete:
            return Phase.HEAD if self._expected else Phase.NEXT
        return Phase.BODY if self.cycle.more_body else Phase.WORK

    def look(self, now: float) -> None:
        """End the connection if its caller has been too slow for too long."""
        before, phase = self._stretch, self.phase
        patience, least = self._allowed(phase)
        done = -self.transport.get_write_buffer_size() if phase is Phase.READER else self._body_bytes
        if (before.phase, before.request) != (phase, self._requests) or done - before.done >= least:
            self._stretch = Stretch(phase, self._requests, now, done)
        elif now - before.since >= patience:
            self._give_up(phase)

    def _allowed(self, phase: Phase) -> tuple[float, float]:
        """Seconds within which so many bytes must go on, or the phase end."""
        match phase:
            case Phase.HEAD:
                return self._patience.head, inf
            case Phase.BODY if not self.flow.read_paused:
                return self._patience.body, self._patience.least
            case Phase.READER:
                return self._patience.answer, self._patience.least
            case _:
                return inf, inf

    def _give_up(self, phase: Phase) -> None:
        if phase is Phase.READER:
            self.transport.abort()
        elif self._in_head or phase is Phase.BODY:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer and hang up; only hang up where an answer would be taken for that to another request."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            awaited = cycle.more_body and not cycle.response_started and not self.pipeline
            cycle.disconnected = True
            cycle.message_event.set()
            if not awaited:
                self.transport.abort()
                return
        self.transport.write(_answer(status))
        self.transport.close()


def _make_room(connections: Iterable[Any]) -> bool:
    """End one that asks for nothing, or has not finished asking; whether there was one."""
    idle = [each for each in islice(connections, LOOKED_AT) if each.phase in {Phase.NEXT, Phase.HEAD}]
    if not idle:
        return False
    oldest = min(idle, key=lambda each: each._stretch.since)
    oldest.transport.abort()
    return True


DETAILS = {
    HTTPStatus.BAD_REQUEST: "This is not HTTP/1.1 as it is spoken here.",
    HTTPStatus.REQUEST_TIMEOUT: "The request did not arrive in time.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"The request's line and fields may have {MOST_FIELDS} lines and {MOST_HEAD} bytes."
    ),
}


def _answer(status: HTTPStatus) -> bytes:
    body = plain(status, DETAILS[status], "/")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
