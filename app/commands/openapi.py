"""`ai-service openapi`: the API's description."""

from __future__ import annotations

import sys

import typer

from app.http import openapi_document

cli = typer.Typer(add_completion=False)


@cli.command("openapi")
def openapi_command() -> None:
    """Print the API's description (OpenAPI 3.1). Needs no configuration and no database."""
    sys.stdout.buffer.write(openapi_document() + b"\n")
