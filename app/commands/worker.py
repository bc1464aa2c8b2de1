"""`ai-service worker`: runs jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from app import worker
from app.bootstrap import build, migrate_if_wanted
from app.commands.process import configured
from app.server import bind
from app.signals import Stop

cli = typer.Typer(add_completion=False)


@cli.command("worker")
def worker_command(
    queues: Annotated[
        list[str] | None, typer.Option("--queues", "-Q", help="A queue to serve; may be repeated. All by default.")
    ] = None,
) -> None:
    """Run jobs: WORKER_CLAIM_LIMIT at once from each queue that is served. Needs DATABASE_URL."""
    stop = Stop()
    settings = configured()
    application = build(settings, role="worker")
    listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")
    stop.run(stop.unless(migrate_if_wanted(application)))
    names = [name for given in queues or () for name in given.split(",") if name]
    worker.run(application, names, listener, stop)
