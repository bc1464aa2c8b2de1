"""How RabbitMQ is connected to, so that a connection that is dead is found out, and what is told of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from copy import copy

import structlog
from dramatiq.errors import BrokerConnectionError
from pika import BlockingConnection, URLParameters
from pika.exceptions import AMQPError

from domain.errors import StartupError

log = structlog.get_logger()

HEARTBEAT = 10
"""Seconds. pika gives a connection up on which nothing came for 15 s to 30 s then, RabbitMQ after 20 s."""

TCP_OPTIONS = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
"""A host that is gone without a word is found out within some ten seconds, whatever the heartbeat."""

BLOCKED_TIMEOUT = 30.0

TOLD_EVERY = 60.0
"""Seconds between two words about the loss of a connection that comes and goes."""

AWAY = (AMQPError, BrokerConnectionError, OSError)
"""What is raised where RabbitMQ cannot be reached, breaks off, or does not let us."""


NAME, UNNAMED = "connection_name", "ai-service"

LONGEST_LABEL = 150
"""Characters: the name of a queue has 255 at most."""


def connection_parameters(url: str, process: str = UNNAMED) -> list[URLParameters]:
    """How to connect: to the first of the servers, separated by `;`, that answers. What the URL says itself holds.

    Args:
        process: whose connections these are, as operators know it: `ai-service worker gpu-1/3f9a01bc`.

    Raises:
        StartupError: it says what cannot be used.
    """
    try:
        servers = [URLParameters(server) for server in url.split(";")]
    except (ValueError, TypeError, SyntaxError):  # its text may hold a part of the URL
        raise StartupError(
            "AMQP_URL: what was given cannot be used; expected a URL such as amqp://user:password@host:5672/vhost, "
            "with options such as ?heartbeat=10&blocked_connection_timeout=30."
        ) from None
    for server in servers:
        if server.heartbeat is None:
            server.heartbeat = HEARTBEAT
        if server.tcp_options is None:
            server.tcp_options = TCP_OPTIONS
        if server.blocked_connection_timeout is None:
            # RabbitMQ blocks publishers when its disk or memory is short; without this they would wait for ever.
            server.blocked_connection_timeout = BLOCKED_TIMEOUT
        server.client_properties = {NAME: process, **(server.client_properties or {})}
    return servers


def named(servers: Sequence[URLParameters], purpose: str) -> list[URLParameters]:
    """The same for a connection that shows its purpose where RabbitMQ's connections are listed."""
    purposeful = [copy(server) for server in servers]
    for server in purposeful:
        server.client_properties = {**server.client_properties, NAME: f"{server.client_properties[NAME]}: {purpose}"}
    return purposeful


def label(servers: Sequence[URLParameters]) -> str:
    """Whose connections these are, as a part of names in RabbitMQ: `worker-gpu-1-3f9a01bc`."""
    process = str(servers[0].client_properties[NAME]).removeprefix(f"{UNNAMED} ")
    return re.sub(r"[^A-Za-z0-9_-]+", "-", process)[:LONGEST_LABEL]


def trouble(url: str) -> str | None:
    """Why the broker cannot be used, or None when it can."""
    servers = named(connection_parameters(url), "doctor")
    for server in servers:
        server.socket_timeout = server.stack_timeout = server.blocked_connection_timeout = 5
    try:
        BlockingConnection(servers).close()
    except (AMQPError, OSError) as error:
        return type(error).__name__
    return None


class Tidings:
    """Tells in the log when a connection is there and when it is lost: once each, however often it is tried."""

    def __init__(self, link: str) -> None:
        self._link = link
        self._there: bool | None = None
        self._told_at = -TOLD_EVERY

    def connected(self) -> None:
        if not self._there:
            self._there = True
            log.info("broker connected", link=self._link)

    def lost(self, error: BaseException) -> None:
        """To be called at every try that fails: of a connection that came and went too soon it is told later."""
        now = time.monotonic()
        if self._there is not False and now - self._told_at >= TOLD_EVERY:
            self._there, self._told_at = False, now
            log.warning("broker is away", link=self._link, reason=reason(error))


def reason(error: BaseException) -> str:
    """What RabbitMQ said, or the kind of error: texts of other errors may hold the URL."""
    while isinstance(error, BrokerConnectionError) and error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]  # as Dramatiq wraps it
    said = getattr(error, "reply_text", None)
    return said if isinstance(said, str) else type(error).__name__
