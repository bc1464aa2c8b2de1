"""Tells other processes what happens to jobs, through a topic exchange, and hears it from them.

Events are hints: they are sent without confirms, and those that cannot be sent are dropped. Whoever waits looks at the
job itself now and then.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from uuid import uuid4

import msgspec
import structlog
from msgspec import Struct
from pika import BasicProperties, BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.delivery_mode import DeliveryMode

from adapters.rabbitmq.declare import Declarations
from adapters.rabbitmq.link import Link
from domain.events import JobEvent

log = structlog.get_logger()

EXCHANGE = "ai.events"

MOST_PENDING = 50_000
"""Events that are kept for a broker that is away or slow; more are dropped."""

MOST_PER_MESSAGE = 500

NAME_LENGTH = 100
"""Names have no more; so a routing key keeps within its 255 bytes."""

TOLD_EVERY = 60.0
"""Seconds between two words about dropped events."""

PAUSE = 0.05
"""Seconds between two rounds of messages: what comes meanwhile goes along, and a busy worker is disturbed less."""

IDLE = 0.5
"""Seconds after which an idle connection answers RabbitMQ's heartbeats: in time for heartbeats of two seconds."""

LAST_WAIT = 1.0
"""Seconds that `stop` waits for a broker that takes its time: no hint is worth more."""

BOUND_ANEW = 10.0
"""Seconds after which a listener binds its queue again, in case somebody deleted the exchange."""

QUEUE_LIMITS = {"x-max-length": 10_000, "x-max-length-bytes": 64 << 20, "x-overflow": "drop-head"}
"""What a process that hears too slowly may pile up in the broker; then the oldest go."""

TRANSIENT = BasicProperties(content_type="application/json", delivery_mode=DeliveryMode.Transient)

Listener = Callable[[Sequence[JobEvent]], None]


class Body(Struct, frozen=True):
    """The body of a message, as JSON; all of its events have one routing key."""

    events: list[JobEvent]


class RabbitEvents:
    """`start` it before use and `stop` it after; publishing never blocks and never raises.

    It listens, with a connection of its own for that, only if somebody asked for it before the start; and its queue is
    bound to the kinds of events that somebody asked for, so that the broker keeps all others away from this process.
    """

    def __init__(self, parameters: Sequence[URLParameters]) -> None:
        self._parameters = parameters
        self._declarations = Declarations()
        self._publisher = Publisher(parameters, self._declarations)
        self._subscriber: Subscriber | None = None
        self._listeners: list[tuple[Listener, Collection[str] | None]] = []

    def start(self) -> None:
        self._publisher.link.start()
        if self._listeners:
            self._subscriber = Subscriber(self._parameters, self._declarations, self._listeners)
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


class Publisher:
    """Sends what it is handed, as few messages as can be: each costs 50 µs."""

    def __init__(self, parameters: Sequence[URLParameters], declarations: Declarations) -> None:
        self._declarations = declarations
        self.link = Link("event-publisher", parameters, self._publish_on)
        self._pending: list[JobEvent] = []
        self._changed = threading.Condition()
        self._dropped = 0
        self._told_at = -TOLD_EVERY

    def publish(self, events: Sequence[JobEvent]) -> None:
        if not events:
            return
        with self._changed:
            kept = events[: MOST_PENDING - len(self._pending)]
            self._pending.extend(kept)
            self._changed.notify()
        if len(kept) < len(events):
            self._drop(len(events) - len(kept))

    def request_stop(self) -> None:
        self.link.request_stop()
        with self._changed:
            self._changed.notify()

    def _drop(self, count: int) -> None:
        with self._changed:
            self._dropped += count
            dropped, now = self._dropped, time.monotonic()
            if now - self._told_at < TOLD_EVERY:
                return
            self._dropped, self._told_at = 0, now
        log.warning("events dropped", count=dropped, pending=MOST_PENDING)

    def _publish_on(self, connection: BlockingConnection) -> None:
        self._declarations.make(connection, EXCHANGE, declare)
        channel = connection.channel()
        self.link.ready.set()
        # Its channel is closed when somebody deleted the exchange.
        while channel.is_open and (self._pending or not self.link.stopping.is_set()):
            # What the connection breaks over is lost, not sent again and again.
            for key, body in messages(self._take()):
                channel.basic_publish(EXCHANGE, key, body, TRANSIENT)
            connection.process_data_events(0)
            self.link.stopping.wait(PAUSE)

    def _take(self) -> list[JobEvent]:
        """All that is pending, or nothing after a while in which nothing came."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self.link.stopping.is_set(), timeout=IDLE)
            taken, self._pending = self._pending, []
        return taken


class Subscriber:
    """Hears what its listeners asked for, through a queue that is gone with its connection."""

    def __init__(
        self,
        parameters: Sequence[URLParameters],
        declarations: Declarations,
        listeners: Sequence[tuple[Listener, Collection[str] | None]],
    ) -> None:
        self._declarations = declarations
        self.link = Link("event-listener", parameters, self._listen_on)
        self._listeners = listeners
        self._patterns = patterns([kinds for _, kinds in listeners])
        self._decoder = msgspec.json.Decoder(Body)

    def _listen_on(self, connection: BlockingConnection) -> None:
        channel = connection.channel()
        # Named anew each time: the broker may not have noticed yet that the former connection is gone.
        queue = f"{EXCHANGE}.{uuid4().hex[:12]}"
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=QUEUE_LIMITS)
        self._declarations.make(connection, EXCHANGE, declare)
        bound = self._bind(channel, queue)
        channel.basic_consume(queue, lambda *delivery: self._hear(delivery[-1]), auto_ack=True)
        self.link.ready.set()
        # Without a consumer its queue was deleted.
        while not self.link.stopping.is_set() and channel.consumer_tags:
            connection.process_data_events(IDLE)
            if time.monotonic() - bound > BOUND_ANEW:
                self._declarations.keep(connection, EXCHANGE, declare)
                bound = self._bind(channel, queue)

    def _bind(self, channel: BlockingChannel, queue: str) -> float:
        for pattern in self._patterns:
            channel.queue_bind(queue, EXCHANGE, pattern)
        return time.monotonic()

    def _hear(self, body: bytes) -> None:
        try:
            events = self._decoder.decode(body).events
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


def declare(channel: BlockingChannel, passive: bool) -> None:
    channel.exchange_declare(EXCHANGE, "topic", durable=True, passive=passive)


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
