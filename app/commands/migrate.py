"""`ai-service migrate`: the database's schema."""

from __future__ import annotations

from typing import Annotated

import typer

from app.bootstrap import MIGRATION_PATIENCE
from app.commands.process import configured, run
from app.commands.terminal import console
from app.migrating import losses, migrate, migrate_back
from domain.errors import StartupError

cli = typer.Typer(add_completion=False)


@cli.command("migrate")
def migrate_command(
    to: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Go back to a former version's revision instead.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really go back; without it, only what would be lost is told.")
    ] = False,
) -> None:
    """Bring the database's schema to this version. Safe to run at any time and by several at once.

    With --to it goes back, for a former version: stop every process of this version before, make a backup, then start
    the former one. Jobs, their inputs, results and runs are kept; what only newer versions know is lost.
    """
    dsn = configured().database_direct_url
    if to is None:
        console.print(f"The database is at revision {run(migrate(dsn, patience=MIGRATION_PATIENCE))}.")
        return
    lost = run(losses(dsn, to))
    if lost and not yes:
        for revision, what in lost.items():
            console.print(f"Without revision {revision} is lost: {what}.", highlight=False, soft_wrap=True)
        raise StartupError("Nothing was changed: say --yes as well to go back.")
    console.print(f"The database is at revision {run(migrate_back(dsn, to, patience=MIGRATION_PATIENCE))}.")
