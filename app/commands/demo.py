"""`ai-service demo`: what it is, shown."""

from __future__ import annotations

import sys

import typer

from app import demo, logs
from app.commands.process import run
from app.commands.terminal import console
from app.settings import from_env

cli = typer.Typer(add_completion=False)


@cli.command("demo")
def demo_command() -> None:
    """Start an embedded service, send real jobs through it with the practice provider, and show what happened."""
    logs.set_up(from_env(demo.ENVIRONMENT).logs)
    sys.exit(run(demo.run(console)))
