"""Answers' texts within one process, and the silence between several that have no broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from domain.texts import TextPiece

log = structlog.get_logger()

Listener = Callable[[Sequence[TextPiece]], None]


class InProcessTexts:
    """Calls its listeners at once, in the sender's thread."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def send(self, pieces: Sequence[TextPiece]) -> None:
        for listener in self._listeners:
            try:
                listener(pieces)
            except Exception:  # the sender must not feel it
                log.exception("listener failed")

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)


class NoTexts:
    """Nobody reads along: texts come with the results."""

    def send(self, pieces: Sequence[TextPiece]) -> None:
        pass

    def listen(self, listener: Listener) -> None:
        pass
