"""Who brings the schema up to date at the start of a process."""

from __future__ import annotations

import pytest

from app.bootstrap import build, migrate_if_wanted
from app.migrating import revision
from app.settings import from_env


@pytest.mark.parametrize(("wanted", "migrated"), [("true", True), ("false", False)])
async def test_a_process_migrates_its_database_where_it_is_told_to(wanted: str, migrated: bool, empty_database: str):
    settings = from_env({"DATABASE_URL": empty_database, "MIGRATE_ON_START": wanted})
    await migrate_if_wanted(build(settings))

    found, needed = await revision(empty_database)
    assert found == (needed if migrated else None)


async def test_an_embedded_database_is_always_migrated(empty_database: str):
    await migrate_if_wanted(build(from_env({"MIGRATE_ON_START": "false"}), dsn=empty_database))

    found, needed = await revision(empty_database)
    assert found == needed
