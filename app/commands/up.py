"""`ai-service up`: everything in one process."""

from __future__ import annotations

import json
import sys

import typer

from app.bootstrap import Application
from app.commands.process import configured, run
from app.commands.terminal import console
from app.server import bind, url_of
from app.signals import stop_requested
from app.up import database, everything

cli = typer.Typer(add_completion=False)


@cli.command("up")
def up_command() -> None:
    """Run everything in one process; without DATABASE_URL with an embedded PostgreSQL in DATA_DIR."""
    settings = configured()
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")
    worker_listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")

    async def up(dsn: str) -> None:
        async with everything(settings, dsn, listener, worker_listener) as application:
            # Not before: a signal while it waits for PostgreSQL ends it at once.
            stop = stop_requested()
            _greet(application, url_of(listener))
            await stop.wait()
            console.print("Stopping: running jobs may finish; the rest goes back to its place.")

    with database(settings) as dsn:
        run(up(dsn))


def _greet(application: Application, url: str) -> None:
    profile, http = application.routes.profiles[0], application.settings.http
    body = {
        "owner_service": "me",
        "task_type": "llm_chat",
        "model_profile": profile,
        "input": {"user": "Hello!"},
    }
    variable = "AI_SERVICE_TOKEN" if http.token else "TOKEN" if http.tokens else None
    header = f' -H "Authorization: Bearer ${variable}"' if variable else ""
    console.print(
        f"""AI Service runs at {url}
Docs:  {url}/schema
Try:   curl -s {url}/api/v1/jobs{header} -H 'Content-Type: application/json' -d '{json.dumps(body)}'
       curl -s '{url}/api/v1/jobs/ID?wait=10'{header}
Stop:  Ctrl-C""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    sys.stdout.flush()  # it may be a file, and the hints are for now
