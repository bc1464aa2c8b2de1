"""`ai-service queues …`: how full the queues are, who serves them, and what holds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from msgspec import Struct
from rich.live import Live

from app.client import Client, Queue, QueueStatus
from app.commands import output
from app.commands.connection import service
from app.commands.options import Json

REFRESHED = 2.0
"""Seconds between two looks; the service's own figures are as old as that."""

cli = typer.Typer(
    name="queues",
    help="Show every queue: its jobs, its workers, its limit and what holds it. Or hold queues, and let them go.",
    epilog="Example: ai-service queues --watch",
    invoke_without_command=True,
    add_completion=False,
)

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Queues by their names.", show_default=False)]
Everything = Annotated[bool, typer.Option("--all", help="Every queue.")]


class Verb(Struct, frozen=True):
    """What is done to queues."""

    one: Callable[[Client, str], Queue]
    all: Callable[[Client], QueueStatus]


PAUSE = Verb(Client.pause_queue, Client.pause_all)
RESUME = Verb(Client.resume_queue, Client.resume_all)
STOP = Verb(Client.stop_queue, Client.stop_all)
START = Verb(Client.start_queue, Client.start_all)


@cli.callback()
def queues_command(
    context: typer.Context,
    machine: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until Ctrl-C.")] = False,
) -> None:
    if context.invoked_subcommand:
        if machine or watch:
            raise typer.BadParameter(f"options of '{context.invoked_subcommand}' come after its name.")
        return
    with service() as client:
        if not watch:
            _tell(client.queues(), machine=machine)
            return
        try:
            _show_on(client, machine=machine)
        except KeyboardInterrupt:
            raise typer.Exit from None


@cli.command("pause", epilog="Example: ai-service queues pause gpu.llm")
def pause_command(names: Names = None, everything: Everything = False, machine: Json = False) -> None:
    """Start nothing any more: what runs goes on, what waits keeps its place. Restarts do not change it."""
    _steer(PAUSE, names, everything=everything, machine=machine)


@cli.command("resume", epilog="Example: ai-service queues resume --all")
def resume_command(names: Names = None, everything: Everything = False, machine: Json = False) -> None:
    """Let paused queues go on; what was stopped stays stopped."""
    _steer(RESUME, names, everything=everything, machine=machine)


@cli.command("stop", epilog="Example: ai-service queues stop --all")
def stop_command(names: Names = None, everything: Everything = False, machine: Json = False) -> None:
    """The same as pause by a second flag, which only start clears."""
    _steer(STOP, names, everything=everything, machine=machine)


@cli.command("start", epilog="Example: ai-service queues start gpu.llm gpu.speech")
def start_command(names: Names = None, everything: Everything = False, machine: Json = False) -> None:
    """Let stopped queues go on; what was paused stays paused."""
    _steer(START, names, everything=everything, machine=machine)


@cli.command("close-circuit", epilog="Example: ai-service queues close-circuit gpu.llm")
def close_circuit_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Queues by their names.")], machine: Json = False
) -> None:
    """Let jobs start again whose model server was found sick; the circuit opens anew if it still is."""
    with service() as client:
        _tell([client.close_circuit(name) for name in names], machine=machine)


def _steer(verb: Verb, names: Sequence[str] | None, *, everything: bool, machine: bool) -> None:
    if bool(names) == everything:
        raise typer.BadParameter("say which queues: their names, or --all.")
    with service() as client:
        steered = [verb.one(client, name) for name in names] if names else verb.all(client).queues
        _tell(steered, machine=machine)


def _tell(told: Sequence[Queue], *, machine: bool) -> None:
    if machine:
        for queue in told:
            output.as_json(queue.raw)
    else:
        output.out().print(output.queues_table(told))


def _show_on(client: Client, *, machine: bool) -> None:
    console = output.out()
    if machine or not console.is_terminal:
        while True:
            _tell(client.queues(), machine=machine)
            time.sleep(REFRESHED)
    with Live(output.queues_table(client.queues()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESHED)
            live.update(output.queues_table(client.queues()), refresh=True)
