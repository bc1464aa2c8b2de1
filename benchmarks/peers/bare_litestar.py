"""The least that an HTTP service with a durable answer does: a Litestar handler, one INSERT, 202."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uvicorn
from litestar import Litestar, post
from litestar.datastructures import State
from msgspec import Struct, json

SETTINGS = (
    f"Litestar {version('litestar')}, uvicorn {version('uvicorn')} with uvloop and httptools, one process, "
    f"asyncpg {version('asyncpg')}, a pool of 10 without its reset statement"
)
TABLE = "CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, input bytea NOT NULL)"
INSERT = "INSERT INTO bare (id, input) VALUES ($1, $2)"
CONNECTIONS = 10
DSN = "BENCHMARK_DSN"


class NewJob(Struct):
    owner_service: str
    task_type: str
    model_profile: str
    input: dict[str, Any]


class Taken(Struct):
    id: UUID


@post("/jobs", status_code=202)
async def submit(data: NewJob, state: State) -> Taken:
    taken = Taken(uuid4())
    await state.pool.execute(INSERT, taken.id, json.encode(data.input))
    return taken


async def _as_it_is(connection: asyncpg.Connection) -> None:
    pass


@asynccontextmanager
async def _pool(app: Litestar) -> AsyncIterator[None]:
    async with asyncpg.create_pool(
        os.environ[DSN], min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_as_it_is
    ) as app.state.pool:
        yield


def serve(port: int) -> None:
    app = Litestar([submit], lifespan=[_pool], openapi_config=None, logging_config=None)
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", ws="none", access_log=False, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
