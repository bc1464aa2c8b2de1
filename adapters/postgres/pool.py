"""Connections to PostgreSQL, and the statements that travel over them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import asyncpg

ACQUIRE_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 30.0
"""Seconds after which a statement counts as lost; the hot ones take milliseconds."""


def create_pool(dsn: str, *, max_size: int, application_name: str) -> asyncpg.Pool:
    """A pool bound to the running event loop. It connects at first use: PostgreSQL may come up later than we do."""
    return asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_size,
        command_timeout=STATEMENT_TIMEOUT,
        timeout=ACQUIRE_TIMEOUT,
        reset=_keep_as_it_is,
        server_settings={"application_name": application_name},
    )


async def _keep_as_it_is(connection: asyncpg.Connection) -> None:
    """We never change a session's state, and the default reset is a second round trip after every statement."""


@cache
def query(name: str) -> str:
    """The statement in `queries/NAME.sql`."""
    return (Path(__file__).parent / "queries" / f"{name}.sql").read_text(encoding="utf-8")
