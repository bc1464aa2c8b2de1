"""An HTTP server on a port that was bound before anything else started."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import uvicorn
from litestar.types import ASGIApp

from domain.errors import StartupError


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


class Server(uvicorn.Server):
    """Leaves signals to the process that runs it. Set `should_exit` to stop it."""

    _draining = False

    def __init__(self, app: ASGIApp, *, grace: timedelta) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
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
