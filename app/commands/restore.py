"""`ai-service restore`: an embedded PostgreSQL, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.bootstrap import restore
from app.commands.process import configured, embedded
from app.commands.terminal import console

cli = typer.Typer(add_completion=False)


@cli.command("restore")
def restore_command(file: Annotated[Path, typer.Argument(help="What `ai-service backup` wrote.")]) -> None:
    """Fill a new DATA_DIR with the jobs of a backup; then start `ai-service up` on it.

    It runs again what had not ended when the backup was made: read docs/backup.md before the first service goes on
    beside it.
    """
    data_dir = embedded(configured())
    restore(data_dir, file)
    console.print(f"{data_dir} holds what was in {file}.", highlight=False, soft_wrap=True)
