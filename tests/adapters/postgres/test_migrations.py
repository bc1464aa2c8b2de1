"""Migrations: up, down and up again, several at once, and what stops them."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.script import Script
from sqlalchemy import Connection
from structlog.testing import capture_logs

import adapters.postgres
from adapters.postgres.migrate import (
    _config,
    _known,
    _newest,
    _on_connection,
    _scripts_newest_first,
    losses,
    migrate,
    migrate_back,
    require_migrated,
    revision,
)
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


def up_to(connection: Connection, *, revision: str) -> None:
    with connection.begin():
        command.upgrade(_config(connection), revision)


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


async def make_newer(dsn: str, oldest_program: str | None) -> None:
    """Leave the database as a program of the future does that names this one the oldest that can use it."""
    await fetch(dsn, f"UPDATE alembic_version SET version_num = '9999', oldest_program = {oldest_program or 'NULL'}")


@pytest.mark.parametrize("oldest_program", [None, "'9998'"])
async def test_a_database_that_needs_a_newer_version_is_left_alone(database: str, oldest_program: str | None):
    await make_newer(database, oldest_program)
    for refused in (migrate(database), require_migrated(database), revision(database)):
        with pytest.raises(StartupError) as stopped:
            await refused
        assert "9999" in str(stopped.value)
        assert f"ai-service migrate --to {_newest()}" in str(stopped.value)
        assert "\n" not in str(stopped.value)
    [(found,)] = await fetch(database, "SELECT version_num FROM alembic_version")
    assert found == "9999"


async def test_a_newer_database_is_used_where_it_names_this_version_or_one_before_it(database: str):
    await make_newer(database, f"'{_newest()}'")
    assert await migrate(database) == "9999"
    await require_migrated(database)


async def test_a_database_says_which_programs_can_use_it(database: str):
    [(oldest,)] = await fetch(database, "SELECT oldest_program FROM alembic_version")
    assert oldest in _known()


@pytest.mark.parametrize("script", _scripts_newest_first(), ids=lambda script: script.revision)
def test_a_revision_says_who_can_use_it_and_what_its_way_back_takes_along(script: Script):
    before = script.down_revision or script.revision
    assert script.module.oldest_program in {before, script.revision}
    assert re.fullmatch(r"[a-z].*[^.]", script.module.loses)


async def test_a_version_that_may_not_migrate_waits_for_who_may(empty_database: str):
    with capture_logs() as events:
        waiting = asyncio.create_task(require_migrated(empty_database, patience=30))
        async with asyncio.timeout(10):
            while not events:  # noqa: ASYNC110  # a log line has no event
                await asyncio.sleep(0.01)
        await migrate(empty_database)
        await waiting
    assert events[0]["event"] == "waiting for the database to be migrated"


async def test_a_table_in_use_stops_a_migration_but_nobody_behind_it_for_long(empty_database: str):
    await _on_connection(empty_database, partial(up_to, revision="0002"))
    dump = await asyncpg.connect(empty_database)
    worker = await asyncpg.connect(empty_database)
    reading = dump.transaction()
    await reading.start()
    await dump.fetch("SELECT FROM jobs")
    migrating = asyncio.create_task(migrate(empty_database))
    async with asyncio.timeout(10):
        while not await worker.fetch("SELECT FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await worker.execute("UPDATE jobs SET due = true")  # it waits no longer than the migration does
        with pytest.raises(StartupError, match="held by another transaction"):
            await migrating
    await reading.rollback()
    assert await migrate(empty_database) == _newest()
    await worker.close()
    await dump.close()


async def test_the_way_back_names_what_it_takes_along_and_goes_no_further(database: str):
    assert list(await losses(database, "0002")) == sorted(_known() - {"0001", "0002"}, reverse=True)
    assert await migrate_back(database, "0002") == "0002"
    assert await revision(database) == ("0002", _newest())
    assert await losses(database, "0002") == {}
    [(oldest,)] = await fetch(database, "SELECT oldest_program FROM alembic_version")
    assert oldest == "0002"


@pytest.mark.parametrize(("to", "line"), [("0000", "no revision 0000; known: 0001, "), ("0003", "below 0003")])
async def test_a_way_back_to_somewhere_else_is_refused(empty_database: str, to: str, line: str):
    await _on_connection(empty_database, partial(up_to, revision="0002"))
    for refused in (losses(empty_database, to), migrate_back(empty_database, to)):
        with pytest.raises(StartupError, match=line):
            await refused


async def test_only_a_newer_version_takes_its_database_back(database: str):
    await make_newer(database, f"'{_newest()}'")
    with pytest.raises(StartupError, match="9999: only the newer version"):
        await migrate_back(database, "0002")


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
    # Of several with its name the newest: the others are for processes of the version before.
    definition = f"SELECT pg_get_functiondef(max(oid)) FROM pg_proc WHERE proname = '{file.stem}'"
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
    assert sorted({row["proname"] for row in rows}) == [file.stem for file in FUNCTIONS]
