"""Carries what runs answer to the API processes, through a fanout exchange. What is lost, readers ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import structlog
from msgspec import Struct
from pika import URLParameters

from adapters.rabbitmq.declare import Declarations
from adapters.rabbitmq.hints import LAST_WAIT, Exchange, Publisher, Subscriber
from domain.job import JobId
from domain.texts import TextPiece

log = structlog.get_logger()

EXCHANGE = "ai.tokens"

MOST_PENDING = 8 << 20
"""Characters that are kept for a broker that is away or slow; of more, whole texts are dropped."""

MOST_PER_MESSAGE = 64 << 10
"""Characters."""

PAUSE = 0.02
"""Seconds between two rounds of messages: what comes meanwhile goes along; sooner than eyes can tell."""

Listener = Callable[[Sequence[TextPiece]], None]


class Body(Struct, frozen=True):
    """The body of a message, as JSON."""

    pieces: list[TextPiece]


_bodies = msgspec.json.Decoder(Body)


class Merged:
    """Pieces that wait to be sent: those of one text that follow each other become one."""

    def __init__(self) -> None:
        self._texts: dict[tuple[JobId, int], list[TextPiece]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pieces: Sequence[TextPiece]) -> int:
        """Keep these. Returns how many texts were dropped: those that have waited longest."""
        for piece in pieces:
            self._texts.setdefault((piece.job_id, piece.number), []).append(piece)
            self._size += len(piece.text)
        dropped = 0
        while self._size > MOST_PENDING and self._texts:
            oldest = next(iter(self._texts))
            self._size -= sum(len(piece.text) for piece in self._texts.pop(oldest))
            dropped += 1
        return dropped

    def take(self) -> list[TextPiece]:
        texts, self._texts, self._size = self._texts, {}, 0
        return [piece for pieces in texts.values() for piece in merged(pieces)]


class RabbitTexts:
    """`start` it before use and `stop` it after; sending never blocks and never raises.

    It has a connection for each of what it is there for: to send, and to listen, if somebody asked for it before the
    start.
    """

    def __init__(self, parameters: Sequence[URLParameters], *, sends: bool = True) -> None:
        self._parameters = parameters
        self._declarations = Declarations()
        self._exchange = Exchange(EXCHANGE, "fanout")
        self._sends = sends
        self._publisher = Publisher(
            "text",
            parameters,
            self._declarations,
            self._exchange,
            outbox=Merged(),
            messages=messages,
            pause=lambda _: PAUSE,
        )
        self._subscriber: Subscriber | None = None
        self._listeners: list[Listener] = []

    def start(self) -> None:
        if self._sends:
            self._publisher.link.start()
        if self._listeners:
            self._subscriber = Subscriber(
                "text",
                self._parameters,
                self._declarations,
                self._exchange,
                patterns=[""],
                hear=self._hear,
            )
            self._subscriber.link.start()

    def stop(self) -> None:
        """Send what is pending if the broker is there, then end."""
        self._publisher.request_stop()
        if self._subscriber:
            self._subscriber.link.request_stop()
            self._subscriber.link.join(LAST_WAIT)
        self._publisher.link.join(LAST_WAIT)

    def send(self, pieces: Sequence[TextPiece]) -> None:
        if self._sends:
            self._publisher.publish(pieces)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def _hear(self, body: bytes) -> None:
        try:
            pieces = _bodies.decode(body).pieces
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.debug("text not understood", reason=type(error).__name__)  # anybody may publish here
            return
        for listener in self._listeners:
            try:
                listener(pieces)
            except Exception:  # the next one, and the next piece, want to be heard
                log.exception("listener failed")


def merged(pieces: Sequence[TextPiece]) -> Iterator[TextPiece]:
    """The same pieces of one text, as few as can be: each ends where the next does not begin."""
    together: list[TextPiece] = []
    for piece in pieces:
        if together and together[-1].end != piece.offset:
            yield _joined(together)
            together = []
        together.append(piece)
    if together:
        yield _joined(together)


def _joined(pieces: Sequence[TextPiece]) -> TextPiece:
    first = pieces[0]
    return TextPiece(first.job_id, first.number, first.offset, "".join(piece.text for piece in pieces))


def messages(pieces: Sequence[TextPiece]) -> Iterator[tuple[str, bytes]]:
    """The routing key and body of each message that carries them; a long text goes in parts."""
    group: list[TextPiece] = []
    room = MOST_PER_MESSAGE
    for part in (part for piece in pieces for part in _parts(piece)):
        if group and len(part.text) > room:
            yield "", msgspec.json.encode(Body(group))
            group, room = [], MOST_PER_MESSAGE
        group.append(part)
        room -= len(part.text)
    if group:
        yield "", msgspec.json.encode(Body(group))


def _parts(piece: TextPiece) -> Iterator[TextPiece]:
    for start in range(0, len(piece.text), MOST_PER_MESSAGE):
        text = piece.text[start : start + MOST_PER_MESSAGE]
        yield TextPiece(piece.job_id, piece.number, piece.offset + start, text)
