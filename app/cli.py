"""The command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console

from app import demo as demonstration
from app import doctor as examination
from app import dumps, logs, up, worker
from app.bootstrap import (
    MIGRATION_PATIENCE,
    Application,
    backup,
    build,
    losses,
    migrate,
    migrate_back,
    migrate_if_wanted,
    restore,
)
from app.commands.jobs import jobs
from app.commands.queues import queues
from app.http import openapi_document
from app.serve import Parts, serve
from app.server import bind, url_of
from app.settings import Settings, from_env
from app.signals import Stop, Stopped
from domain.errors import ServiceError, StartupError

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
    dumps.forbid()
    try:
        cli()
    except ServiceError as error:
        Console(stderr=True).print(f"ai-service: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except Stopped:
        sys.exit(0)


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
    stop = Stop()
    settings = _settings()
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")
    worker_listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")

    async def run(dsn: str) -> None:
        async with AsyncExitStack() as stack:
            service = up.everything(settings, dsn, listener, worker_listener, stop.ask)
            application = await stop.unless(stack.enter_async_context(service))
            _greet(application, url_of(listener))
            await stop.asked()
            _say("Stopping: running jobs may finish; the rest goes back to its place.")

    with up.database(settings, stop.ask) as dsn:
        stop.run(run(dsn))
    stop.verdict()


@cli.command("serve")
def serve_command() -> None:
    """Run the API, with a scheduler that stands by. Needs DATABASE_URL; AMQP_URL wakes workers at once."""
    stop = Stop()
    settings = _settings()
    application = build(settings)
    listener = bind(settings.http.host, settings.http.port, "HTTP_PORT")

    async def run() -> None:
        await stop.unless(migrate_if_wanted(application))
        await serve(application, listener, stop)

    stop.run(run())
    stop.verdict()


@cli.command("worker")
def worker_command(
    queues: Annotated[
        list[str] | None, typer.Option("--queues", "-Q", help="A queue to serve; may be repeated. All by default.")
    ] = None,
) -> None:
    """Run jobs: WORKER_CLAIM_LIMIT at once from each queue that is served. Needs DATABASE_URL."""
    stop = Stop()
    settings = _settings()
    application = build(settings)
    listener = bind(settings.worker.http_host, settings.worker.http_port, "WORKER_HTTP_PORT")
    stop.run(stop.unless(migrate_if_wanted(application)))
    names = [name for given in queues or () for name in given.split(",") if name]
    worker.run(application, names, listener, stop)


@cli.command("scheduler")
def scheduler_command() -> None:
    """Run a scheduler: due retries, rescues, tickets. Several may run; one leads. Needs DATABASE_URL."""
    stop = Stop()
    application = build(_settings())

    async def run() -> None:
        await stop.unless(migrate_if_wanted(application))
        async with application.core(hears=False) as core:
            parts = Parts(stop.ask)
            scheduling = parts.start("the scheduler", core.scheduler.run())
            await stop.asked()
            parts.leaving = True
            scheduling.cancel()
            await asyncio.wait({scheduling})

    stop.run(run())
    stop.verdict()


@cli.command("migrate")
def migrate_command(
    to: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Go back to a former version's revision instead.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really go back; without it, only what would be lost is told.")
    ] = False,
) -> None:
    """Bring the database's schema to this version. Safe to run at any time and by several at once.

    With --to it goes back, for a former version: stop every process of this version before, make a backup, then start
    the former one. Jobs, their inputs, results and runs are kept; what only newer versions know is lost.
    """
    dsn = _settings().database_direct_url
    if to is None:
        console.print(f"The database is at revision {_run(migrate(dsn, patience=MIGRATION_PATIENCE))}.")
        return
    lost = _run(losses(dsn, to))
    if lost and not yes:
        for revision, what in lost.items():
            console.print(f"Without revision {revision} is lost: {what}.", highlight=False, soft_wrap=True)
        raise StartupError("Nothing was changed: say --yes as well to go back.")
    console.print(f"The database is at revision {_run(migrate_back(dsn, to, patience=MIGRATION_PATIENCE))}.")


@cli.command("backup")
def backup_command(file: Annotated[Path, typer.Argument(help="Where to write it; replaced if it is there.")]) -> None:
    """Write all jobs of the embedded PostgreSQL in DATA_DIR to a file, whether the service runs or not.

    The file is one of pg_dump's. A PostgreSQL of your own has its own ways: docs/backup.md.
    """
    size = backup(_embedded(_settings()), file)
    console.print(f"{file}: {size:,} bytes.", highlight=False, soft_wrap=True)


@cli.command("restore")
def restore_command(file: Annotated[Path, typer.Argument(help="What `ai-service backup` wrote.")]) -> None:
    """Fill a new DATA_DIR with the jobs of a backup; then start `ai-service up` on it.

    It runs again what had not ended when the backup was made: read docs/backup.md before the first service goes on
    beside it.
    """
    data_dir = _embedded(_settings())
    restore(data_dir, file)
    console.print(f"{data_dir} holds what was in {file}.", highlight=False, soft_wrap=True)


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


def _embedded(settings: Settings) -> Path:
    if settings.storage.database_url:
        raise StartupError("DATABASE_URL is set: this is for the embedded PostgreSQL only; use pg_dump and pg_restore.")
    return settings.storage.data_dir


def _settings() -> Settings:
    settings = from_env(os.environ)
    logs.set_up(settings.logs)
    return settings


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _say(text: str) -> None:
    try:
        console.print(text)
        sys.stdout.flush()
    except OSError:  # its terminal is gone, which must not fail the process when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
