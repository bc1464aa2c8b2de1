"""Uploads in PostgreSQL, in pieces: no statement holds more of a file than one of them, no transaction a whole file.

Lock order: a submission locks an upload last, for its reference, and pruning waits for nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from uuid import UUID

import asyncpg
import structlog

from adapters.postgres.pool import STATEMENT_TIMEOUT, fetch, query, transaction
from domain.errors import UploadInUse, UploadNotFound
from domain.upload import KEPT_UNFINISHED, KEPT_UNUSED, Upload

log = structlog.get_logger()

PRUNED_AT_ONCE = 100
"""Uploads that one transaction takes away at most."""

CHUNKS_AT_ONCE = 32
"""Pieces that one statement removes at most: 16 MiB."""

MOST_STATEMENTS = 256
"""Of one pruning, each removing pieces: 4 GiB."""


class PostgresUploadStore:
    """Beside a `PostgresJobStore`, in the same database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def append(self, upload_id: UUID, place: int, data: bytes) -> None:
        await self._run(query("append_chunk"), [upload_id, place, data, KEPT_UNFINISHED])

    async def finish(self, upload_id: UUID, owner_service: str, *, chunks: int, size: int) -> Upload:
        return _one(await self._run(query("finish_upload"), [upload_id, owner_service, size, chunks]))

    async def discard(self, upload_id: UUID) -> None:
        await self._run(query("discard_upload"), [upload_id])

    async def get(self, upload_id: UUID) -> Upload:
        return _one(await self._run(query("get_uploads"), [[upload_id]]))

    async def read(self, upload: Upload) -> AsyncIterator[bytes]:
        left = upload.bytes
        for place in count():
            if left <= 0:
                return
            rows = await self._run(query("read_chunk"), [upload.id, place])
            if not rows:
                raise UploadNotFound
            data: bytes = rows[0]["data"]
            left -= len(data)
            yield data

    async def remove(self, upload_id: UUID) -> None:
        async with transaction(self._pool) as run:
            if not await run(query("lock_upload"), [upload_id]):
                raise UploadNotFound
            if not await run(query("remove_uploads"), [[upload_id], None]):
                raise UploadInUse

    async def prune(self) -> int:
        pruned = await self._prune_unneeded()
        if pruned:
            log.info("uploads pruned", uploads=pruned)
        for _ in range(MOST_STATEMENTS):
            if not await self._run(query("remove_chunks"), [CHUNKS_AT_ONCE]):
                break
        return pruned

    async def _prune_unneeded(self) -> int:
        unneeded = [KEPT_UNUSED, PRUNED_AT_ONCE]
        if not await self._run(query("lock_unneeded_uploads"), unneeded):  # as nearly always
            return 0
        async with transaction(self._pool) as run:
            locked = [row["id"] for row in await run(query("lock_unneeded_uploads"), unneeded)]
            # A second look, with the locks held: a job may have come to use one after the first had begun.
            return len(await run(query("remove_uploads"), [locked, KEPT_UNUSED])) if locked else 0

    async def _run(self, statement: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
        return await fetch(self._pool, statement, arguments, within=STATEMENT_TIMEOUT)


def _one(rows: Sequence[asyncpg.Record]) -> Upload:
    if not rows:
        raise UploadNotFound
    [row] = rows
    return Upload(row["id"], row["owner_service"], row["bytes"], row["created_at"])
