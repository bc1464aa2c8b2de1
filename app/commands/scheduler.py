"""`ai-service scheduler`: due retries, rescues, tickets."""

from __future__ import annotations

import asyncio

import typer

from app.bootstrap import build, migrate_if_wanted
from app.commands.process import configured, run
from app.signals import stop_requested

cli = typer.Typer(add_completion=False)


@cli.command("scheduler")
def scheduler_command() -> None:
    """Run a scheduler: due retries, rescues, tickets. Several may run; one leads. Needs DATABASE_URL."""
    application = build(configured())

    async def schedule() -> None:
        await migrate_if_wanted(application)
        stop = stop_requested()
        async with application.core(hears=False) as core:
            scheduling = asyncio.create_task(core.scheduler.run())
            await stop.wait()
            scheduling.cancel()
            await asyncio.gather(scheduling, return_exceptions=True)

    run(schedule())
