"""A PostgreSQL server that belongs to one service process: started with it, and never alive without it.

Durable like any other server (fsync stays on); it listens on 127.0.0.1 alone, on a port that changes with every start.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
import structlog

from adapters.embedded import watcher
from adapters.embedded.account import ENVIRONMENT, Program, RunAs, choose_program
from adapters.embedded.cluster import FOLDER_SETTING, USER, Cluster, last_lines
from domain.errors import StartupError

logger = structlog.get_logger()

DATABASE = "ai_service"
READY_WITHIN = 120.0  # recovery after a crash replays its log first
PREDECESSOR_GONE_WITHIN = 15.0
STOPPED_WITHIN = 5.0 + sum(patience for _, patience in watcher.STOPPING)
POLL = 0.02

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "unix_socket_permissions": "0700",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_checkpoints": "off",
    # Details and statements may quote a job's input.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
# Another process took the port first; a killed server's last processes are still going.
PASSING_TROUBLES = ("Address already in use", "pre-existing shared memory block")
LONGEST_SOCKET_FOLDER = 90


class EmbeddedPostgres:
    """The server of one data folder. Hold on to it for as long as the service lives: to drop it is to stop it."""

    def __init__(self, data_dir: Path, *, bin_dir: Path | None = None, run_as: RunAs | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.dsn = ""
        """Where to connect; it holds the password, so never log it. Empty while the server is not running."""
        self._bin_dir = bin_dir
        self._run_as = run_as
        self._lock: int | None = None
        self._program: Program | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server and return its DSN; a StartupError says in its first line what the operator can do."""
        if self.alive():
            return self.dsn
        self.stop()
        began = time.monotonic()
        try:
            with self._explaining_trouble():
                self._lock = hold(self.data_dir)
                self._program = choose_program(self.data_dir, self._bin_dir, self._run_as)
                cluster = Cluster(self.data_dir, self._program)
                wait_for_predecessor(cluster)
                cluster.prepare()
                port = self._launch(cluster)
                self.dsn = dsn(cluster.password, port)
                create_database(cluster.password, port)
        except BaseException:
            self.stop()
            raise
        logger.info(
            "embedded postgres started",
            data_dir=str(self.data_dir),
            port=port,
            run_as=self._program.account.run_as,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        return self.dsn

    def stop(self) -> None:
        """Stop the server, its watcher with it, and free the folder. Harmless when nothing runs."""
        self.dsn = ""
        if self._watcher is not None:
            end(self._watcher)
            self._watcher = None
            logger.info("embedded postgres stopped", data_dir=str(self.data_dir))
        if self._program is not None and self._program.copy is not None:
            shutil.rmtree(self._program.copy, ignore_errors=True)
        self._program = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def alive(self) -> bool:
        """Whether the server still runs. Once False it stays so: nothing here starts it again."""
        return self._watcher is not None and self._watcher.poll() is None

    @property
    def _log(self) -> Path:
        return self.data_dir / "postgres.log"

    @contextmanager
    def _explaining_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.data_dir
            raise StartupError(
                f"The embedded PostgreSQL cannot use {where}: {error.strerror}. "
                "Make it writable, or set DATA_DIR to another folder."
            ) from error

    def _launch(self, cluster: Cluster) -> int:
        """Start the server on a free port, again while what hinders it will pass."""
        if self._log.exists():
            self._log.replace(self.data_dir / "postgres.log.1")
        deadline = time.monotonic() + PREDECESSOR_GONE_WITHIN
        while True:
            port = free_port()
            self._watcher = spawn(cluster, port, self._log)
            if self._becomes_ready(cluster):
                return port
            trouble = last_lines(self._log.read_text(errors="replace"))
            if time.monotonic() > deadline or not any(phrase in trouble for phrase in PASSING_TROUBLES):
                raise StartupError(f"The embedded PostgreSQL did not start; the end of {self._log}:\n{trouble}")
            end(self._watcher)
            time.sleep(POLL)

    def _becomes_ready(self, cluster: Cluster) -> bool:
        deadline = time.monotonic() + READY_WITHIN
        while self.alive() and time.monotonic() < deadline:
            server = cluster.server()
            if server is not None and server.ready:
                return True
            time.sleep(POLL)
        return False


def hold(data_dir: Path) -> int:
    """Take the folder for this process: the lock goes when the process does, and no child has it."""
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = os.open(data_dir / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StartupError(
            f"{data_dir} is in use by another service process (pid {holder}): stop it, or set another DATA_DIR."
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def wait_for_predecessor(cluster: Cluster) -> None:
    """The server of a service that was killed needs a moment to go."""
    deadline = time.monotonic() + PREDECESSOR_GONE_WITHIN
    while (server := cluster.server()) is not None:
        if time.monotonic() > deadline:
            raise StartupError(
                f"{cluster.folder} is in use by a PostgreSQL server (pid {server.pid}), not started by this service: "
                "stop it, or set another DATA_DIR."
            )
        time.sleep(POLL)


def spawn(cluster: Cluster, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the watcher, which starts the server. Only we hold the other end of its standard input."""
    program, account = cluster.program, cluster.program.account
    here = account.here(cluster.folder)
    settings = {
        **SETTINGS,
        "port": str(port),
        "unix_socket_directories": here if len(here) < LONGEST_SOCKET_FOLDER else "",
        FOLDER_SETTING: str(cluster.folder),
    }
    command = [*account.prefix, str(program.binaries / "postgres"), "-D", here]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    switch = [str(account.uid), str(account.gid)] if account.must_switch else ["-", "-"]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), "ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own programs, no shell
            [sys.executable, "-I", "-S", watcher.__file__, str(os.getpid()), *switch, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=cluster.folder,
            env=ENVIRONMENT,
            # Killing the service's process group must not take the watcher along.
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Let go of the watcher's standard input: it stops the server, then itself."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        logger.exception("embedded postgres did not stop", pid=process.pid)
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def dsn(password: str, port: int, database: str = DATABASE) -> str:
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"


def create_database(password: str, port: int) -> None:
    """Create the service's database unless it is there. A thread of its own: the caller may be inside an event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, _create_database(password, port)).result()


async def _create_database(password: str, port: int) -> None:
    try:
        connection = await asyncpg.connect(dsn(password, port, "postgres"), ssl=False, timeout=30)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()
    except asyncpg.InvalidPasswordError as error:
        raise StartupError(
            "The embedded PostgreSQL does not accept the password in postgres.password: "
            "remove that file, and the next start makes a new one."
        ) from error
    except (asyncpg.PostgresError, OSError) as error:
        raise StartupError(f"The embedded PostgreSQL could not create its database: {error}") from error
