"""Uploads that are pruned while jobs come to use them."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from adapters.postgres.pool import create_pool, query, transaction
from adapters.postgres.store import PostgresJobStore
from adapters.postgres.uploads import PostgresUploadStore
from domain.errors import NoSuchUpload, UploadInUse
from domain.job import JobStatus
from domain.upload import KEPT_UNUSED, Upload
from tests.factories import new_id
from tests.moves import cancel, one

LONG_AGO = "UPDATE uploads SET created_at = now() - interval '2 days'"


async def uploaded(uploads: PostgresUploadStore) -> Upload:
    upload_id = new_id()
    await uploads.append(upload_id, 0, b"abc")
    return await uploads.finish(upload_id, "beeline", chunks=1, size=3)


async def test_a_job_that_comes_between_the_two_looks_keeps_its_upload(database: str):
    async with create_pool(database, max_size=3, application_name="test") as pool:
        jobs, uploads = PostgresJobStore(pool), PostgresUploadStore(pool)
        upload = await uploaded(uploads)
        await pool.execute(LONG_AGO)
        async with transaction(pool) as run:
            # The first look has found it unused; the job is stored before its lock is taken.
            await one(jobs, upload_id=upload.id)
            await run(query("lock_upload"), [upload.id])
            assert await run(query("remove_uploads"), [[upload.id], KEPT_UNUSED]) == []
        assert (await uploads.get(upload.id)).bytes == 3


async def test_a_job_waits_for_a_removal_and_finds_nothing_then(database: str):
    async with create_pool(database, max_size=3, application_name="test") as pool:
        jobs, uploads = PostgresJobStore(pool), PostgresUploadStore(pool)
        upload = await uploaded(uploads)
        async with transaction(pool) as run:
            await run(query("lock_upload"), [upload.id])
            coming = asyncio.create_task(one(jobs, upload_id=upload.id))
            async with asyncio.timeout(10):
                while not await pool.fetch("SELECT FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert len(await run(query("remove_uploads"), [[upload.id], None])) == 1
        with pytest.raises(NoSuchUpload):
            await coming


async def test_pruning_waits_for_nobody(database: str):
    async with create_pool(database, max_size=3, application_name="test") as pool:
        jobs, uploads = PostgresJobStore(pool), PostgresUploadStore(pool)
        busy, erased = await uploaded(uploads), await uploaded(uploads)
        job = await one(jobs, upload_id=erased.id)
        await cancel(jobs, job.id)
        await pool.execute(LONG_AGO)
        connection = await asyncpg.connect(database)
        async with connection.transaction():
            await connection.execute("SELECT FROM uploads WHERE id = $1 FOR KEY SHARE", busy.id)
            await connection.execute("DELETE FROM jobs WHERE id = $1", job.id)
            assert await uploads.prune() == 0
        await connection.close()
        assert await uploads.prune() == 2


async def test_jobs_that_come_and_go_and_pruning_never_stand_in_each_others_way(database: str):
    async with create_pool(database, max_size=8, application_name="test") as pool:
        jobs, uploads = PostgresJobStore(pool), PostgresUploadStore(pool)
        over = asyncio.Event()

        async def prune() -> None:
            while not over.is_set():
                await uploads.prune()

        async def use() -> None:
            for _ in range(10):
                upload = await uploaded(uploads)
                users = [await one(jobs, upload_id=upload.id) for _ in range(2)]
                for job in users:
                    assert (await jobs.get(job.id)).status is JobStatus.PENDING
                with pytest.raises(UploadInUse):
                    await uploads.remove(upload.id)
                await cancel(jobs, *(job.id for job in users))
                await jobs.erase([job.id for job in reversed(users)])

        pruning = [asyncio.create_task(prune()) for _ in range(2)]
        await asyncio.gather(*(use() for _ in range(4)))
        over.set()
        await asyncio.gather(*pruning)
        await uploads.prune()
        assert await pool.fetchval("SELECT count(*) FROM uploads") == 0
        assert await pool.fetchval("SELECT count(*) FROM upload_chunks") == 0
