"""`ai-service scheduler`: due retries, rescues, tickets."""

from __future__ import annotations

import asyncio

import typer

from app.bootstrap import build, migrate_if_wanted
from app.commands.process import configured
from app.parts import Parts
from app.signals import Stop

cli = typer.Typer(add_completion=False)


@cli.command("scheduler")
def scheduler_command() -> None:
    """Run a scheduler: due retries, rescues, tickets. Several may run; one leads. Needs DATABASE_URL."""
    stop = Stop()
    application = build(configured(), role="scheduler")

    async def schedule() -> None:
        await stop.unless(migrate_if_wanted(application))
        async with application.core(hears=False) as core:
            parts = Parts(stop.ask)
            scheduling = parts.start("the scheduler", core.scheduler.run())
            await stop.asked()
            parts.leaving = True
            scheduling.cancel()
            await asyncio.wait({scheduling})

    stop.run(schedule())
    stop.verdict()
