"""`ai-service backup`: the embedded PostgreSQL, to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.bootstrap import backup
from app.commands.process import configured, embedded
from app.commands.terminal import console

cli = typer.Typer(add_completion=False)


@cli.command("backup")
def backup_command(file: Annotated[Path, typer.Argument(help="Where to write it; replaced if it is there.")]) -> None:
    """Write all jobs of the embedded PostgreSQL in DATA_DIR to a file, whether the service runs or not.

    The file is one of pg_dump's. A PostgreSQL of your own has its own ways: docs/backup.md.
    """
    size = backup(embedded(configured()), file)
    console.print(f"{file}: {size:,} bytes.", highlight=False, soft_wrap=True)
