"""The PostgreSQL of the tests: one embedded server per session, a database per test."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from adapters.embedded.postgres import EmbeddedPostgres
from adapters.postgres.migrate import migrate

TEMPLATE = "template_of_tests"


class Databases:
    """Makes and drops databases that are migrated already: a copy of a template takes a tenth of migrating."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder)

    def start(self) -> None:
        self._server.start()
        self._trust_the_system()
        self._run(f"CREATE DATABASE {TEMPLATE}")
        _apart(migrate(self._dsn(TEMPLATE)))

    def _trust_the_system(self) -> None:
        """No test's database outlives a crash of the machine; killing the server takes nothing that it has written."""
        for setting in ("fsync", "full_page_writes"):
            self._run(f"ALTER SYSTEM SET {setting} = off")
        self._run("SELECT pg_reload_conf()")

    def stop(self) -> None:
        self._server.stop()

    @property
    def server(self) -> str:
        """The DSN of the server's own database, which is nobody's."""
        return self._server.dsn

    def create(self, *, migrated: bool = True) -> str:
        """The DSN of a fresh database."""
        name = f"test_{uuid4().hex}"
        template = TEMPLATE if migrated else "template1"
        # Without fsync, files are copied in half the time that it takes to log them.
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self._dsn(name)

    def drop(self, dsn: str) -> None:
        self._run(f"DROP DATABASE {dsn.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, dsn: str, statements: str) -> None:
        _apart(_execute(dsn, statements))

    def _dsn(self, name: str) -> str:
        return re.sub(r"/[^/]*$", f"/{name}", self._server.dsn)

    def _run(self, statement: str) -> None:
        _apart(_execute(self._server.dsn, statement))


def _apart(work: Coroutine[Any, Any, object]) -> None:
    """On a loop of its own: a fixture may be asked for while another loop runs."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
