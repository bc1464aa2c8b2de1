"""Migrations: up, down and up again, several at once, and what stops them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection
from structlog.testing import capture_logs

import adapters.postgres
from adapters.postgres.migrate import _config, _newest, _on_connection, migrate, revision
from adapters.postgres.pool import create_pool
from adapters.postgres.revision import is_newest, newest
from adapters.postgres.store import PostgresJobStore
from domain.errors import StartupError
from tests.moves import one

FUNCTIONS = sorted((Path(adapters.postgres.__file__).parent / "functions").glob("*.sql"))

OBJECTS = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ '^alembic_version'
    UNION ALL
    SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


def downgrade(connection: Connection) -> None:
    with connection.begin():
        command.downgrade(_config(connection), "base")


async def fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_an_empty_database_is_brought_to_the_newest_revision(empty_database: str):
    assert await revision(empty_database) == (None, _newest())
    assert await migrate(empty_database) == _newest()
    assert await revision(empty_database) == (_newest(), _newest())


async def test_a_start_knows_without_alembic_whether_there_is_anything_to_migrate(empty_database: str):
    assert newest() == _newest()
    assert not await is_newest(empty_database)
    await migrate(empty_database)
    assert await is_newest(empty_database)
    await fetch(empty_database, "UPDATE alembic_version SET version_num = '9999'")
    assert not await is_newest(empty_database)


async def test_a_database_that_cannot_be_asked_is_left_to_the_migration_to_complain_of(unused_tcp_port: int):
    assert not await is_newest(f"postgresql://127.0.0.1:{unused_tcp_port}/nowhere")
    assert not await is_newest("not a DSN")


async def test_migrating_again_changes_nothing_and_keeps_every_job(database: str):
    async with create_pool(database, max_size=1, application_name="test") as pool:
        job = await one(PostgresJobStore(pool))
        with capture_logs() as events:
            await migrate(database)
        assert await PostgresJobStore(pool).get(job.id) == job
    assert events == []


async def test_the_way_down_leaves_nothing_and_the_way_up_works_again(empty_database: str):
    await migrate(empty_database)
    created = await fetch(empty_database, OBJECTS)
    await _on_connection(empty_database, downgrade)
    assert await fetch(empty_database, OBJECTS) == []
    await migrate(empty_database)
    assert {row[0] for row in await fetch(empty_database, OBJECTS)} == {row[0] for row in created}


async def test_of_five_that_migrate_at_once_one_does_and_all_return(empty_database: str):
    with capture_logs() as events:
        revisions = await asyncio.gather(*(migrate(empty_database) for _ in range(5)))
    assert revisions == [_newest()] * 5
    assert [event["event"] for event in events] == ["database migrated"]


async def test_a_database_of_a_newer_version_is_left_alone(database: str):
    await fetch(database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartupError) as stopped:
        await migrate(database)
    assert "9999" in str(stopped.value)
    assert "\n" not in str(stopped.value)


async def test_where_no_postgresql_answers_patience_ends_with_one_line(unused_tcp_port: int):
    with pytest.raises(StartupError) as stopped:
        await migrate(f"postgresql://someone:hunter2@127.0.0.1:{unused_tcp_port}/nowhere", patience=0)
    assert re.fullmatch(r"DATABASE_URL: .*", str(stopped.value))
    assert "hunter2" not in str(stopped.value)


async def test_patience_lasts_until_the_database_is_there(empty_database: str):
    later = f"{empty_database.rpartition('/')[2]}_later"
    with capture_logs() as events:
        migrating = asyncio.create_task(migrate(re.sub(r"[^/]+$", later, empty_database), patience=30))
        async with asyncio.timeout(10):
            while not events:  # noqa: ASYNC110  # a log line has no event
                await asyncio.sleep(0.01)
        await fetch(empty_database, f"CREATE DATABASE {later}")
        revision = await migrating
    await fetch(empty_database, f"DROP DATABASE {later}")
    assert revision == _newest()
    assert events[0]["event"] == "waiting for postgresql"


async def test_a_wrong_password_is_told_in_one_line(empty_database: str):
    with pytest.raises(StartupError) as stopped:
        await migrate(re.sub(r"//[^@]*@", "//nobody_known:hunter2@", empty_database))
    assert "Password" in str(stopped.value)
    assert "hunter2" not in str(stopped.value)


async def test_a_dsn_that_cannot_be_read_is_not_quoted():
    with pytest.raises(StartupError) as stopped:
        await migrate("postgresql://someone:hun/ter2@127.0.0.1:x/nowhere")
    assert "hun" not in str(stopped.value)
    assert "ter2" not in str(stopped.value)


async def test_a_missing_right_is_told_in_one_line(empty_database: str):
    name = empty_database.rpartition("/")[2]
    await fetch(empty_database, f"CREATE ROLE poor_{name} LOGIN PASSWORD 'poor'")
    try:
        poor = re.sub(r"//[^@]*@", f"//poor_{name}:poor@", empty_database)
        with pytest.raises(StartupError) as stopped:
            await migrate(poor)
    finally:
        await fetch(empty_database, f"DROP ROLE poor_{name}")
    assert "permission denied" in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("file", FUNCTIONS, ids=lambda file: file.stem)
async def test_the_revision_installs_the_function_of_the_file(database: str, file: Path):
    definition = f"SELECT pg_get_functiondef('{file.stem}'::regproc)"
    text = file.read_text(encoding="utf-8")  # noqa: ASYNC240  # small
    connection = await asyncpg.connect(database)
    try:
        installed = await connection.fetchval(definition)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(text)
        written = await connection.fetchval(definition)
        await transaction.rollback()
    finally:
        await connection.close()
    assert installed == written


async def test_every_function_has_a_file(database: str):
    rows = await fetch(database, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    assert sorted(row["proname"] for row in rows) == [file.stem for file in FUNCTIONS]
