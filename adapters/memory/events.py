"""Events within one process, and the silence between several that have no broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from domain.events import JobEvent

log = structlog.get_logger()

Listener = Callable[[Sequence[JobEvent]], None]


class InProcessEvents:
    """Calls its listeners at once, in the publisher's thread."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def publish(self, events: Sequence[JobEvent]) -> None:
        for listener in self._listeners:
            try:
                listener(events)
            except Exception:  # the publisher must not feel it
                log.exception("listener failed")

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)


class NoEvents:
    """Nobody hears anything: whoever waits looks for himself."""

    def publish(self, events: Sequence[JobEvent]) -> None:
        pass

    def listen(self, listener: Listener) -> None:
        pass
