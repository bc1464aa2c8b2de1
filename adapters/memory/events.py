"""Events within one process, and the silence between several that have no broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import structlog

from domain.events import JobEvent

log = structlog.get_logger()

Listener = Callable[[Sequence[JobEvent]], None]


class InProcessEvents:
    """Calls its listeners at once, in the publisher's thread."""

    def __init__(self) -> None:
        self._listeners: list[tuple[Listener, Collection[str] | None]] = []

    def publish(self, events: Sequence[JobEvent]) -> None:
        for listener, kinds in self._listeners:
            wanted = events if kinds is None else [event for event in events if event.kind in kinds]
            if not wanted:
                continue
            try:
                listener(wanted)
            except Exception:  # the publisher must not feel it
                log.exception("listener failed")

    def listen(self, listener: Listener, kinds: Collection[str] | None = None) -> None:
        self._listeners.append((listener, kinds))


class NoEvents:
    """Nobody hears anything: whoever waits looks for himself."""

    def publish(self, events: Sequence[JobEvent]) -> None:
        pass

    def listen(self, listener: Listener, kinds: Collection[str] | None = None) -> None:
        pass
