"""The command line. A command's module is loaded when it is asked for: `jobs` needs nothing of the service itself."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.main import get_command

from app import dumps
from app.commands.terminal import console
from app.signals import Stopped
from domain.errors import ServiceError

COMMANDS = (
    "up",
    "serve",
    "worker",
    "scheduler",
    "migrate",
    "backup",
    "restore",
    "prune",
    "openapi",
    "demo",
    "doctor",
    "chat",
    "jobs",
    "queues",
)
"""As `--help` lists them. Each is the `cli` of its module in `app/commands`."""


class Commands(TyperGroup):
    """Finds a command in its module."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Their names are enough for all that does not show or run one.
        self.commands.update(dict.fromkeys(COMMANDS, cast("Any", None)))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"app.commands.{cmd_name}")
        gc.freeze()  # else each look for garbage goes over all of it again: a fifth of what a large batch computes
        gc.enable()  # app/start.py loads without it
        return get_command(module.cli)


cli = typer.Typer(
    cls=Commands,
    name="ai-service",
    help="A durable, fair, priority-aware job service in front of your own AI model servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Run a command; what its user can mend ends it with one line."""
    dumps.forbid()
    try:
        cli()
    except ServiceError as error:
        Console(stderr=True).print(f"ai-service: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except Stopped:
        sys.exit(0)


def _tell_version(wanted: bool) -> None:
    if wanted:
        console.print(f"ai-service {version('ai-service')}", highlight=False)
        raise typer.Exit


@cli.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Settings come from environment variables; docs/configuration.md lists them."""
