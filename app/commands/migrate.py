"""`ai-service migrate`: the database's schema."""

from __future__ import annotations

import typer

from app.bootstrap import MIGRATION_PATIENCE
from app.commands.process import configured, run
from app.commands.terminal import console
from app.migrating import migrate

cli = typer.Typer(add_completion=False)


@cli.command("migrate")
def migrate_command() -> None:
    """Bring the database's schema to this version. Safe to run at any time and by several at once."""
    dsn = configured().database_url
    revision = run(migrate(dsn, patience=MIGRATION_PATIENCE))
    console.print(f"The database is at revision {revision}.")
