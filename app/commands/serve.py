"""`ai-service serve`: the API."""

from __future__ import annotations

import typer

from app.bootstrap import build, migrate_if_wanted
from app.commands.process import configured, run
from app.serve import serve
from app.server import bind

cli = typer.Typer(add_completion=False)


@cli.command("serve")
def serve_command() -> None:
    """Run the API, with a scheduler that stands by. Needs DATABASE_URL; AMQP_URL wakes workers at once."""
    settings = configured()
    application = build(settings)
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")

    async def migrate_and_serve() -> None:
        await migrate_if_wanted(application)
        await serve(application, listener)

    run(migrate_and_serve())
