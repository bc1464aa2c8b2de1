"""`ai-service up`: everything in one process."""

from __future__ import annotations

import json
import os
import sys
from contextlib import AsyncExitStack

import typer

from app.bootstrap import Application
from app.commands.process import configured
from app.commands.terminal import console
from app.server import bind, url_of
from app.signals import Stop
from app.up import database, everything

cli = typer.Typer(add_completion=False)


@cli.command("up")
def up_command() -> None:
    """Run everything in one process; without DATABASE_URL with an embedded PostgreSQL in DATA_DIR."""
    stop = Stop()
    settings = configured()
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")
    worker_listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")

    async def up(dsn: str) -> None:
        async with AsyncExitStack() as stack:
            service = everything(settings, dsn, listener, worker_listener, stop.ask)
            application = await stop.unless(stack.enter_async_context(service))
            _greet(application, url_of(listener))
            await stop.asked()
            _say("Stopping: running jobs may finish; the rest goes back to its place.")

    with database(settings, stop.ask) as dsn:
        stop.run(up(dsn))
    stop.verdict()


def _say(text: str) -> None:
    try:
        console.print(text)
        sys.stdout.flush()
    except OSError:  # its terminal is gone, which must not fail the process when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _greet(application: Application, url: str) -> None:
    profile, http = application.routes().profiles[0], application.settings.http
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
