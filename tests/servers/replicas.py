"""A PostgreSQL with a synchronous standby, to fail over from the one to the other.

with Replicas(folder) as servers:
    ... servers.primary.port ...
    servers.fail_over()
    ... servers.standby.port ...
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import asyncpg

from adapters.embedded.account import ENVIRONMENT, Program, choose_program
from adapters.embedded.cluster import give
from tests.servers import leash
from tests.servers.rabbitmq import free_ports

READY_WITHIN = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "synchronous_commit": "remote_apply",
    "wal_receiver_status_interval": "1s",
    "fsync": "off",  # no machine fails here
}


@dataclass
class Server:
    folder: Path
    program: Program
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as who will own its folder, in it."""
        self.folder.mkdir(exist_ok=True)
        give(self.folder, self.program.account)
        done = self.program.account.run([self.program.binaries / program, *arguments], cwd=self.folder)
        assert done.returncode == 0, done.stderr

    @property
    def here(self) -> str:
        return self.program.account.here(self.folder)

    def start(self) -> None:
        account = self.program.account
        command = [*account.prefix, str(self.program.binaries / "postgres"), "-D", self.here]
        for name, value in {**SETTINGS, "port": str(self.port)}.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder.parent / f"{self.folder.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=ENVIRONMENT,
                user=account.uid if account.must_switch else None,
                group=account.gid if account.must_switch else None,
            )
        self.says("SELECT 1", 1)

    def kill(self) -> None:
        """All of it, at once."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()

    def says(self, statement: str, expected: object) -> None:
        """Block until it answers this so."""
        deadline = time.monotonic() + READY_WITHIN
        seen: object = "nothing yet"
        while seen != expected:
            assert time.monotonic() < deadline, f"not within {READY_WITHIN:g} s: {statement} is {expected}: {seen}"
            with suppress(OSError, asyncpg.PostgresError):
                seen = asyncio.run(_ask(self.dsn, statement))
            time.sleep(0.02)


async def _ask(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn, ssl=False)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@dataclass
class Replicas:
    folder: Path
    primary: Server = field(init=False)
    standby: Server = field(init=False)

    def __enter__(self) -> Replicas:
        self.folder.mkdir()
        program = choose_program(self.folder, None, None)
        first, second = free_ports(2)
        self.primary = Server(self.folder / "primary", program, first)
        self.standby = Server(self.folder / "standby", program, second)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def fail_over(self) -> None:
        """Kill the primary and promote the standby: when this returns, it takes writes."""
        self.primary.kill()
        self.standby.says("SELECT pg_promote()", True)
        self.standby.says("SELECT pg_is_in_recovery()", False)

    def _start(self) -> None:
        primary, standby = self.primary, self.standby
        primary.run("initdb", "-D", primary.here, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        primary.start()
        source = f"host=127.0.0.1 port={primary.port} user=postgres"
        standby.run("pg_basebackup", "-D", standby.here, "-d", source, "-R", "--checkpoint=fast", "--no-sync")
        standby.start()
        primary.says("ALTER SYSTEM SET synchronous_standby_names = '*'", None)
        primary.says("SELECT pg_reload_conf()", True)
        primary.says("SELECT sync_state FROM pg_stat_replication", "sync")

    def _stop(self) -> None:
        self.primary.kill()
        self.standby.kill()
        if copy := self.primary.program.copy:
            subprocess.run(["rm", "-rf", str(copy)], check=True)
