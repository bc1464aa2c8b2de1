"""Errors of PostgreSQL quote what they refuse; ours do not."""

from __future__ import annotations

import traceback

import asyncpg
import pytest

from adapters.postgres.pool import create_pool, fetch

PLANTED = "pl4nted-4f7d20b1"

REFUSED: tuple[tuple[str, object], ...] = (
    ("SELECT $1::int", PLANTED),
    ("SELECT $1::int", {PLANTED: 1}),
    ("SELECT $1::text::json", f"[{PLANTED}"),
    ("INSERT INTO planted VALUES ($1)", PLANTED),
    ("DO $$ BEGIN RAISE EXCEPTION 'refused' USING DETAIL = current_setting('planted.value'); END $$", None),
)


@pytest.mark.parametrize(("statement", "value"), REFUSED)
async def test_an_error_of_the_storage_quotes_no_value(database: str, statement: str, value: object):
    async with create_pool(database, max_size=1, application_name="test") as pool:
        await fetch(pool, "CREATE TABLE planted (text text CHECK (text IS NULL))", [])
        await fetch(pool, "SELECT set_config('planted.value', $1, false)", [PLANTED])
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)) as refused:
            await fetch(pool, statement, [] if value is None else [value])
    shown = "".join(traceback.format_exception(refused.value))
    assert PLANTED not in shown
