"""Whether a database needs migrating, asked without Alembic, which takes as long to load as all else in a process."""

from __future__ import annotations

from importlib.resources import files

import asyncpg

from adapters.postgres.errors import UNAVAILABLE

CURRENT = "SELECT version_num FROM alembic_version"


async def is_newest(dsn: str) -> bool:
    """Whether the database is at this version's revision; not so where it cannot be asked: `migrate` will say why."""
    try:
        # Without a cache nothing is left behind in the session, which may be a pooler's.
        connection = await asyncpg.connect(dsn, timeout=5, statement_cache_size=0)
        try:
            return bool(await connection.fetchval(CURRENT) == newest())
        finally:
            await connection.close()
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError):
        return False


def newest() -> str:
    """This version's revision; the names of the files begin with theirs."""
    return max(file.name.partition("_")[0] for file in files("migrations.versions").iterdir() if file.name[0].isdigit())
