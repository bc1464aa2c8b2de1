"""Tells other processes what happens to jobs, through a topic exchange, and hears it from them.

Events are hints: they are sent without confirms, and those that cannot be sent are dropped. Whoever waits looks at the
job itself now and then.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import structlog
from msgspec import Struct
from pika import URLParameters

from adapters.rabbitmq.declare import Declarations
from adapters.rabbitmq.hints import LAST_WAIT, Exchange, Publisher, Subscriber
from domain.events import JobEvent

log = structlog.get_logger()

EXCHANGE = "ai.events"

MOST_PENDING = 50_000
"""Events that are kept for a broker that is away or slow; more are dropped."""

MOST_PER_MESSAGE = 500

NAME_LENGTH = 100
"""Names have no more; so a routing key keeps within its 255 bytes."""

PAUSE_EACH, LONGEST_PAUSE = 0.001, 0.05
"""Seconds between two rounds of messages, for each event of the first: what comes meanwhile goes along.

Somebody may wait for a single one; a busy worker is not to be disturbed so often.
"""

Listener = Callable[[Sequence[JobEvent]], None]


class Body(Struct, frozen=True):
    """The body of a message, as JSON; all of its events have one routing key."""

    events: list[JobEvent]


_bodies = msgspec.json.Decoder(Body)


class Queue(list[JobEvent]):
    """Events that wait to be sent, in their order."""

    def add(self, events: Sequence[JobEvent]) -> int:
        kept = events[: MOST_PENDING - len(self)]
        self.extend(kept)
        return len(events) - len(kept)

    def take(self) -> Sequence[JobEvent]:
        taken = tuple(self)
        self.clear()
        return taken


class RabbitEvents:
    """`start` it before use and `stop` it after; publishing never blocks and never raises.

    It listens, with a connection of its own for that, only if somebody asked for it before the start; and its queue is
    bound to the kinds of events that somebody asked for, so that the broker keeps all others away from this process.
    """

    def __init__(self, parameters: Sequence[URLParameters]) -> None:
        self._parameters = parameters
        self._declarations = Declarations()
        self._exchange = Exchange(EXCHANGE, "topic")
        self._publisher = Publisher(
            "event",
            parameters,
            self._declarations,
            self._exchange,
            outbox=Queue(),
            messages=messages,
            pause=lambda events: min(PAUSE_EACH * events, LONGEST_PAUSE),
        )
        self._subscriber: Subscriber | None = None
        self._listeners: list[tuple[Listener, Collection[str] | None]] = []

    def start(self) -> None:
        self._publisher.link.start()
        if self._listeners:
            self._subscriber = Subscriber(
                "event",
                self._parameters,
                self._declarations,
                self._exchange,
                patterns=patterns([kinds for _, kinds in self._listeners]),
                hear=self._hear,
            )
            self._subscriber.link.start()

    def stop(self) -> None:
        """Publish what is pending if the broker is there, then end."""
        self._publisher.request_stop()
        if self._subscriber:
            self._subscriber.link.request_stop()
            self._subscriber.link.join(LAST_WAIT)
        self._publisher.link.join(LAST_WAIT)

    def publish(self, events: Sequence[JobEvent]) -> None:
        self._publisher.publish(events)

    def listen(self, listener: Listener, kinds: Collection[str] | None = None) -> None:
        self._listeners.append((listener, kinds))

    def _hear(self, body: bytes) -> None:
        try:
            events = _bodies.decode(body).events
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.debug("event not understood", reason=type(error).__name__)  # anybody may publish here
            return
        for listener, kinds in self._listeners:
            wanted = events if kinds is None else [event for event in events if event.kind in kinds]
            try:
                if wanted:
                    listener(wanted)
            except Exception:  # the next one, and the next event, want to be heard
                log.exception("listener failed")


def messages(events: Sequence[JobEvent]) -> Iterator[tuple[str, bytes]]:
    """The routing key and body of each message that carries them: one per key, or per `MOST_PER_MESSAGE` of it."""
    grouped: defaultdict[tuple[str, str, str], list[JobEvent]] = defaultdict(list)
    for event in events:
        grouped[event.owner_service, event.task_type, event.kind].append(event)
    for words, group in grouped.items():
        key = routing_key(*words)
        for start in range(0, len(group), MOST_PER_MESSAGE):
            yield key, msgspec.json.encode(Body(group[start : start + MOST_PER_MESSAGE]))


def patterns(wanted: Sequence[Collection[str] | None]) -> list[str]:
    """What a queue is bound to so that all of these kinds come in; None stands for every kind."""
    named = {kind for kinds in wanted for kind in kinds or ()}
    return ["#"] if None in wanted else [f"*.*.{kind}" for kind in sorted(named)]


def routing_key(owner_service: str, task_type: str, kind: str) -> str:
    """A topic of three words: what would part or match words becomes `_`."""
    return f"{_word(owner_service)}.{_word(task_type)}.{kind}"


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_:@+-]", "_", name)[:NAME_LENGTH]
