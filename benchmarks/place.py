"""Where it is measured: a PostgreSQL with its usual durability and a RabbitMQ, both private, on this machine."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from adapters.embedded.postgres import EmbeddedPostgres
from tests.servers.rabbitmq import Broker, find_rabbitmq


@dataclass(frozen=True)
class Place:
    folder: Path
    """For files of the run; gone after it."""
    postgres: str
    """The DSN of the server's own database, which no contestant uses."""
    rabbit: Broker

    def database(self, name: str) -> str:
        """The DSN of a contestant's own database, made when first asked for."""
        asyncio.run(_create(self.postgres, name))
        return re.sub(r"/[^/]*$", f"/{name}", self.postgres)

    def execute(self, dsn: str, statement: str) -> None:
        asyncio.run(_execute(dsn, statement))

    def fetch(self, dsn: str, statement: str) -> list[asyncpg.Record]:
        return asyncio.run(_fetch(dsn, statement))


@contextmanager
def place() -> Iterator[Place]:
    rabbit = find_rabbitmq()
    rabbit.start()
    try:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "data") as postgres:
            yield Place(Path(folder), postgres.dsn, rabbit)
    finally:
        rabbit.stop()


def tell(line: str) -> None:
    """Progress, beside the figures and never among them."""
    print(line, file=sys.stderr, flush=True)


def load() -> float:
    """What the machine did besides, in processes that wanted to run during the last minute."""
    return os.getloadavg()[0]


class Busy:
    """How busy the processors have been since this was made, whoever made them: 1 is all of them, all the time."""

    def __init__(self) -> None:
        self._began = _ticks()

    @property
    def share(self) -> float:
        idle, total = (now - then for now, then in zip(_ticks(), self._began, strict=True))
        return 1 - idle / max(1, total)


def _ticks() -> tuple[int, int]:
    """Idle, and all."""
    first, _, _ = Path("/proc/stat").read_text().partition("\n")
    ticks = [int(field) for field in first.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


async def _create(server: str, name: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()
