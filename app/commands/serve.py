"""`ai-service serve`: the API."""

from __future__ import annotations

import typer

from app.bootstrap import build, migrate_if_wanted
from app.commands.process import configured
from app.serve import serve
from app.server import bind
from app.signals import Stop

cli = typer.Typer(add_completion=False)


@cli.command("serve")
def serve_command() -> None:
    """Run the API, with a scheduler that stands by. Needs DATABASE_URL; AMQP_URL wakes workers at once."""
    stop = Stop()
    settings = configured()
    application = build(settings, role="api")
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")

    async def migrate_and_serve() -> None:
        await stop.unless(migrate_if_wanted(application))
        await serve(application, listener, stop)

    stop.run(migrate_and_serve())
    stop.verdict()
