"""Ask a chat model from the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from app.client import Client
from app.commands import output
from app.commands.connection import service

cli = typer.Typer()


@cli.command()
def chat(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[
        str | None, typer.Option(help="A profile, or a profile's model; else the service's active one.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before.")] = None,
    *,
    stream: Annotated[bool, typer.Option(help="Show the answer as it is written, or only when it is whole.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which it is given up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Show the whole answer as one line of JSON.")] = False,
) -> None:
    """Ask a chat model, and show its answer. Ctrl-C cancels the question."""
    with service() as ai:
        if as_json:
            output.as_json(ai.chat(question, model=model, system=system, timeout=timeout).raw)
        elif stream:
            _stream(ai, question, model, system, timeout)
        else:
            typer.echo(ai.chat(question, model=model, system=system, timeout=timeout).content)


def _stream(ai: Client, question: str, model: str | None, system: str | None, timeout: float | None) -> None:
    begun = False
    try:
        for text in ai.chat_stream(question, model=model, system=system, timeout=timeout):
            begun = True
            typer.echo(text, nl=False)
    finally:
        if begun:
            typer.echo()
