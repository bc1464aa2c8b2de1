"""`ai-service scheduler`: due retries, rescues, tickets."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import typer

from app.bootstrap import Core, build, migrate_if_wanted
from app.commands.process import configured
from app.pages import DOWN, OK, Answer, Pages, always, scraped
from app.parts import Parts
from app.server import Server, bind
from app.signals import Stop

cli = typer.Typer(add_completion=False)


@cli.command("scheduler")
def scheduler_command() -> None:
    """Run a scheduler: due retries, rescues, tickets. Several may run; one leads. Needs DATABASE_URL."""
    stop = Stop()
    settings = configured()
    application = build(settings, role="scheduler")
    listener = bind(settings.scheduler.http_host, settings.scheduler.http_port, "SCHEDULER_HTTP_PORT")

    async def schedule() -> None:
        await stop.unless(migrate_if_wanted(application))
        async with application.core(hears=False) as core:
            parts = Parts(stop.ask)
            server = Server(_pages(core, parts), grace=timedelta(seconds=1))
            scheduling = parts.start("the scheduler", core.scheduler.run())
            serving = parts.start("the HTTP server", server.serve(sockets=[listener]))
            await stop.asked()
            parts.leaving = True
            scheduling.cancel()
            server.should_exit = True
            await asyncio.wait({scheduling, serving})

    stop.run(schedule())
    stop.verdict()


def _pages(core: Core, parts: Parts) -> Pages:
    async def ready(accept: str) -> Answer:
        readiness = await core.services.report.readiness()
        return OK if readiness.storage and not parts.leaving else DOWN

    return Pages({"/healthz": always(OK), "/readyz": ready, "/metrics": scraped(core.scrape)})
