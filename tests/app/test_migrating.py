"""Who brings the schema up to date at the start of a process."""

from __future__ import annotations

import pytest

from app.bootstrap import build, migrate_if_wanted
from app.migrating import revision
from app.settings import from_env
from domain.errors import StartupError


async def test_a_process_migrates_its_database(empty_database: str):
    await migrate_if_wanted(build(from_env({"DATABASE_URL": empty_database})))

    found, needed = await revision(empty_database)
    assert found == needed


async def test_a_process_that_may_not_migrate_says_who_has_to(empty_database: str):
    application = build(from_env({"DATABASE_URL": empty_database, "MIGRATE_ON_START": "false"}))
    with pytest.raises(StartupError, match="run 'ai-service migrate'"):
        await migrate_if_wanted(application, patience=0)

    found, _ = await revision(empty_database)
    assert found is None


async def test_an_embedded_database_is_always_migrated(empty_database: str):
    await migrate_if_wanted(build(from_env({"MIGRATE_ON_START": "false"}), dsn=empty_database))

    found, needed = await revision(empty_database)
    assert found == needed
