"""A PgBouncer of the tests' own before their PostgreSQL: transaction mode, and few enough connections to be shared."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.rabbitmq import LEASH, Say, apt_installs, free_ports, release

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
READY_SECONDS = 10.0
SERVER_CONNECTIONS = 3
"""Of each database; fewer than the clients of any test that is about sharing them."""

INI = """\
[databases]
* = host={host} port={port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
admin_users = {user}
user = {run_as}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {clients}
server_login_retry = 1
"""


class PgBouncerNotFoundError(Exception):
    def __init__(self) -> None:
        super().__init__("PgBouncer is needed for these tests: install it with 'sudo apt-get install pgbouncer'")


class PgBouncer:
    """Before the PostgreSQL of this DSN, for all its databases, until `stop`."""

    def __init__(
        self, dsn: str, *, pool_size: int = SERVER_CONNECTIONS, clients: int = 200, settings: str = ""
    ) -> None:
        self._binary = binary()
        self._server = urlsplit(dsn)
        [self.port] = free_ports(1)
        self._folder = Path(tempfile.mkdtemp(prefix="ai-service-pgbouncer-"))
        self._folder.chmod(0o755)  # as root it becomes nobody, who has to read this
        self._leash: subprocess.Popen[bytes] | None = None
        self._configure(pool_size, clients, settings)

    def dsn(self, dsn: str) -> str:
        """The same database, through here."""
        url = urlsplit(dsn)
        return f"postgresql://{url.username}@127.0.0.1:{self.port}{url.path}"

    def start(self) -> None:
        """Return when it answers."""
        with (self._folder / "log").open("ab") as log:
            self._leash = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), self._binary, str(self._folder / "pgbouncer.ini")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._leash.poll() is not None:
                raise RuntimeError(f"PgBouncer does not answer on port {self.port}:\n{self.said[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash does; what was under way is cut off on both sides."""
        release(self._leash)
        self._leash = None

    def restart(self) -> None:
        """Start it again, on the same port."""
        self.kill()
        self.start()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _configure(self, pool_size: int, clients: int, settings: str) -> None:
        ini = INI.format(
            host=self._server.hostname,
            port=self._server.port,
            user=self._server.username,
            password=self._server.password,
            listen_port=self.port,
            run_as="nobody" if os.geteuid() == 0 else "",
            pool_size=pool_size,
            clients=clients,
        )
        (self._folder / "pgbouncer.ini").write_text(f"{ini}{settings}\n")

    def _answers(self) -> bool:
        """Whether it says so itself; a port that is only open could be another's."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(SSL_REQUEST)
                return connection.recv(1) == b"N"
        except OSError:
            return False


def binary() -> str:
    """Where PgBouncer is: Debian puts it where an ordinary user's PATH does not lead.

    Raises:
        PgBouncerNotFoundError: nowhere.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("pgbouncer", path=path)
    if found is None:
        raise PgBouncerNotFoundError
    return found


def find_pgbouncer(say: Say = print) -> str:
    """Where PgBouncer is. As root on Debian it is installed where it is missing, and that is said.

    Raises:
        PgBouncerNotFoundError: it is not there and cannot be had.
    """
    try:
        return binary()
    except PgBouncerNotFoundError:
        apt_installs("pgbouncer", say)
        return binary()
