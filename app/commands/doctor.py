"""`ai-service doctor`: what is configured, reachable and migrated."""

from __future__ import annotations

import sys

import typer

from app import doctor
from app.commands.process import configured, run
from app.commands.terminal import console

cli = typer.Typer(add_completion=False)


@cli.command("doctor")
def doctor_command() -> None:
    """Show what is configured, what can be reached and what is migrated. Secrets stay hidden."""
    sys.exit(run(doctor.run(configured(), console)))
