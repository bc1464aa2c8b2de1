"""`ai-service queues`: how full the queues are, and who serves them."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.live import Live

from app.client import Client
from app.commands import output
from app.commands.connection import service
from app.commands.options import Json

REFRESHED = 2.0
"""Seconds between two looks; the service's own figures are as old as that."""


def queues_command(
    machine: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until Ctrl-C.")] = False,
) -> None:
    """Show every queue: jobs that wait and run, workers, and slots that are idle."""
    with service() as client:
        if not watch:
            _show(client, machine=machine)
            return
        try:
            _show_on(client, machine=machine)
        except KeyboardInterrupt:
            raise typer.Exit from None


def _show(client: Client, *, machine: bool) -> None:
    queues = client.queues()
    if machine:
        for queue in queues:
            output.as_json(queue.raw)
    else:
        output.out().print(output.queues_table(queues))


def _show_on(client: Client, *, machine: bool) -> None:
    console = output.out()
    if machine or not console.is_terminal:
        while True:
            _show(client, machine=machine)
            time.sleep(REFRESHED)
    with Live(output.queues_table(client.queues()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESHED)
            live.update(output.queues_table(client.queues()), refresh=True)
