"""Declares what the service needs. What somebody else declared in another way under that name is used as it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from pika import BlockingConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

log = structlog.get_logger()

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406

HINT = "delete it to have it declared anew as configured, within seconds; or give its queue type in RABBITMQ_QUEUE_TYPE"

Declare = Callable[[BlockingChannel, bool], object]
"""Declares on a channel; passively, which only asks whether it is there, where the second argument says so."""


class Declarations:
    """Warns once of each thing that is not what was asked for. May be used by several threads."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def make(self, connection: BlockingConnection, name: str, declare: Declare) -> None:
        """See that it is there.

        Raises:
            ChannelClosedByBroker: it is not there and we may not declare it, or another connection has it for itself.
        """
        try:
            _on_its_own_channel(connection, declare, passive=False)
        except ChannelClosedByBroker as refusal:
            if refusal.reply_code not in (ACCESS_REFUSED, PRECONDITION_FAILED):
                raise
            _look_for(connection, declare, refusal)
            self._warn(name, refusal.reply_text)

    def keep(self, connection: BlockingConnection, name: str, declare: Declare) -> None:
        """See that it is still there: quieter than `make` where it is not what was asked for.

        Raises:
            ChannelClosedByBroker: as `make`.
        """
        try:
            _on_its_own_channel(connection, declare, passive=True)
        except ChannelClosedByBroker as refusal:
            if refusal.reply_code != NOT_FOUND:
                raise
            self.make(connection, name, declare)

    def _warn(self, name: str, reason: str) -> None:
        with self._lock:
            known, self._warned = name in self._warned, self._warned | {name}
        if not known:
            log.warning("declared otherwise: used as it is", name=name, reason=reason, hint=HINT)


def _look_for(connection: BlockingConnection, declare: Declare, refusal: ChannelClosedByBroker) -> None:
    """See whether somebody else declared it. Where nobody did, what was refused is what an operator can mend."""
    try:
        _on_its_own_channel(connection, declare, passive=True)
    except ChannelClosedByBroker as absent:
        raise (refusal if absent.reply_code == NOT_FOUND else absent) from None


def _on_its_own_channel(connection: BlockingConnection, declare: Declare, *, passive: bool) -> None:
    """A refusal closes the channel, and with it whatever else it is used for."""
    channel = connection.channel()
    declare(channel, passive)
    channel.close()
