"""The command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console

from app import demo as demonstration
from app import doctor as examination
from app import logs, up, worker
from app.bootstrap import MIGRATION_PATIENCE, Application, build, migrate, migrate_if_wanted
from app.commands.jobs import jobs
from app.commands.queues import queues
from app.http import openapi_document
from app.serve import serve
from app.server import bind, url_of
from app.settings import Settings, from_env
from app.signals import stop_requested
from domain.errors import ServiceError

cli = typer.Typer(
    name="ai-service",
    help="A durable, fair, priority-aware job service in front of your own AI model servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

T = TypeVar("T")

console = Console() if sys.stdout.isatty() else Console(width=120)


def main() -> None:
    """Run a command; what its user can mend ends it with one line."""
    try:
        cli()
    except ServiceError as error:
        Console(stderr=True).print(f"ai-service: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


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


@cli.command("up")
def up_command() -> None:
    """Run everything in one process; without DATABASE_URL with an embedded PostgreSQL in DATA_DIR."""
    settings = _settings()
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")
    worker_listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")

    async def run(dsn: str) -> None:
        async with up.everything(settings, dsn, listener, worker_listener) as application:
            # Not before: a signal while it waits for PostgreSQL ends it at once.
            stop = stop_requested()
            _greet(application, url_of(listener))
            await stop.wait()
            console.print("Stopping: running jobs may finish; the rest goes back to its place.")

    with up.database(settings) as dsn:
        _run(run(dsn))


@cli.command("serve")
def serve_command() -> None:
    """Run the API, with a scheduler that stands by. Needs DATABASE_URL; AMQP_URL wakes workers at once."""
    settings = _settings()
    application = build(settings)
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")

    async def run() -> None:
        await migrate_if_wanted(application)
        await serve(application, listener)

    _run(run())


@cli.command("worker")
def worker_command(
    queues: Annotated[
        list[str] | None, typer.Option("--queues", "-Q", help="A queue to serve; may be repeated. All by default.")
    ] = None,
) -> None:
    """Run jobs: WORKER_CLAIM_LIMIT at once from each queue that is served. Needs DATABASE_URL."""
    settings = _settings()
    application = build(settings)
    listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")
    _run(migrate_if_wanted(application))
    names = [name for given in queues or () for name in given.split(",") if name]
    worker.run(application, names, listener)


@cli.command("scheduler")
def scheduler_command() -> None:
    """Run a scheduler: due retries, rescues, tickets. Several may run; one leads. Needs DATABASE_URL."""
    application = build(_settings())

    async def run() -> None:
        await migrate_if_wanted(application)
        stop = stop_requested()
        async with application.core(hears=False) as core:
            scheduling = asyncio.create_task(core.scheduler.run())
            await stop.wait()
            scheduling.cancel()
            await asyncio.gather(scheduling, return_exceptions=True)

    _run(run())


@cli.command("migrate")
def migrate_command() -> None:
    """Bring the database's schema to this version. Safe to run at any time and by several at once."""
    dsn = _settings().database_direct_url
    revision = _run(migrate(dsn, patience=MIGRATION_PATIENCE))
    console.print(f"The database is at revision {revision}.")


@cli.command("openapi")
def openapi_command() -> None:
    """Print the API's description (OpenAPI 3.1). Needs no configuration and no database."""
    sys.stdout.buffer.write(openapi_document() + b"\n")


@cli.command("demo")
def demo_command() -> None:
    """Start an embedded service, send real jobs through it with the practice provider, and show what happened."""
    logs.set_up(from_env(demonstration.ENVIRONMENT).logs)
    sys.exit(_run(demonstration.run(console)))


@cli.command("doctor")
def doctor_command() -> None:
    """Show what is configured, what can be reached and what is migrated. Secrets stay hidden."""
    sys.exit(_run(examination.run(_settings(), console)))


cli.add_typer(jobs)
cli.add_typer(queues)


def _settings() -> Settings:
    settings = from_env(os.environ)
    logs.set_up(settings.logs)
    return settings


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


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
