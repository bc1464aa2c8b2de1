"""An HTTP server on a port that was bound before anything else started."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from app.connection import PATIENCE, Connection, Patience
from domain.errors import StartupError

if TYPE_CHECKING:
    from litestar.types import ASGIApp


def bind(host: str, port: int, variable: str) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        StartupError: the port is taken or the address is not ours; names the variable to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that no DNS could know
        listener.close()
        raise StartupError(_not_bound(error, host, port, variable)) from error
    listener.set_inheritable(True)
    return listener


def _not_bound(error: OSError | UnicodeError, host: str, port: int, variable: str) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) in {errno.EADDRINUSE, errno.EACCES}:
        return f"{variable}: cannot listen on {host}:{port} ({reason}). Choose another port."
    variable = f"{variable.removesuffix('PORT')}HOST"
    return f"{variable}: cannot listen on {host!r} ({reason}). Give an address of this machine, or 0.0.0.0 for all."


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # recognised, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


MOST_CONNECTIONS = 10_000

SPARE_FILES = 256
"""Open files that connections leave for everything else: PostgreSQL, RabbitMQ, model servers."""

KEEP_ALIVE = 75
"""Seconds that a connection may idle between two requests: longer than load balancers keep theirs, usually 60."""


class Server(uvicorn.Server):
    """Leaves signals to the process that runs it. Set `should_exit` to stop it."""

    _draining = False

    def __init__(
        self, app: ASGIApp, *, grace: timedelta, patience: Patience = PATIENCE, most: int = MOST_CONNECTIONS
    ) -> None:
        """
        Args:
            most: connections at once; fewer where the system allows this process fewer open files.
        """
        most = min(most, max(allow_files(most + SPARE_FILES) - SPARE_FILES, SPARE_FILES))
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("Any", partial(Connection, most=most, patience=patience)),
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(grace.total_seconds())),
            )
        )

    def drain(self) -> None:
        """From now on each answer closes its connection: callers connect anew, elsewhere once the port is closed."""
        if self._draining:
            return
        self._draining = True
        # Those of this second, and those that uvicorn makes from the configuration each second.
        for headers in (self.server_state.default_headers, self.config.encoded_headers):
            headers.append((b"connection", b"close"))

    def close_port(self) -> None:
        """Take no more connections. Those that are open go on; what was sent over them is answered."""
        if self.started:
            for server in self.servers:
                server.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # ten ticks are a second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("Connection", connection).look(now)
        return await super().on_tick(counter)


def allow_files(wanted: int) -> int:
    """Let this process have so many files open, where it may; how many it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft
