"""`ai-service prune`: remove old jobs now, or see which would go."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich import box
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.bootstrap import prune_now, retention_of, storage
from app.commands import output
from app.commands.options import Json, Yes
from app.commands.process import configured, run
from app.commands.steering import confirm
from app.durations import duration
from domain.job import JobStatus
from domain.retention import FINAL, Retention
from domain.usecases.prune import Pruned

cli = typer.Typer(add_completion=False)


def _age(given: str) -> timedelta:
    try:
        return duration(given)
    except ValueError as error:
        raise typer.BadParameter(f"{given!r} cannot be used; expected {error}.") from None


@cli.command("prune", epilog="Example: ai-service prune --dry-run")
def prune_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    owner: Annotated[list[str] | None, typer.Option("--owner", help="Only of this owner_service; repeatable.")] = None,
    status: Annotated[
        list[JobStatus] | None,
        typer.Option("--status", "-s", metavar="STATE", help="Only completed, failed or cancelled ones; repeatable."),
    ] = None,
    older_than: Annotated[
        timedelta | None,
        typer.Option(
            "--older-than",
            parser=_age,
            metavar="AGE",
            help="Those final for so long (7d), instead of what is configured. What is kept forever stays.",
        ),
    ] = None,
    machine: Json = False,
    yes: Yes = False,
) -> None:
    """Remove final jobs that are older than configured, with all that belongs to them.

    The leading scheduler does that all the time; this is for a full disk, and for a look at what would go. It may run
    beside the service, stop at any moment and begin again.
    """
    if unfit := [each for each in status or () if each not in FINAL]:
        raise typer.BadParameter(f"{unfit[0]} jobs are never removed: only {', '.join(FINAL)} ones.")
    settings = configured()
    kept = retention_of(settings).only(owner or (), status or ())
    with storage(settings) as dsn:
        if older_than is not None:
            kept = kept.at(older_than)
            if not dry_run and not yes:
                _ask(run(_prune(dsn, kept, dry_run=True)))
        pruned = run(_prune(dsn, kept, dry_run=dry_run))
    _tell(pruned, dry_run=dry_run, machine=machine)


def _ask(would_go: Pruned) -> None:
    if would_go:
        confirm(f"Remove {_jobs(would_go)}?")


async def _prune(dsn: str, kept: Retention, *, dry_run: bool) -> Pruned:
    pruned = Pruned()
    console = output.remarks()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Looking for old jobs", total=None)
        async for step, looked_at in prune_now(dsn, kept, dry_run=dry_run):
            pruned += step
            verb = "to go" if dry_run else "gone"
            progress.update(task, description=f"{looked_at:,} looked at, {pruned.total():,} {verb}")
    return pruned


def _tell(pruned: Pruned, *, dry_run: bool, machine: bool) -> None:
    if machine:
        for (owner, status), jobs in sorted(pruned.jobs.items()):
            output.as_json({"owner_service": owner, "status": status, "jobs": jobs, "dry_run": dry_run})
        return
    if pruned:
        output.out().print(_table(pruned))
    typer.echo(f"{_jobs(pruned)} would be removed." if dry_run else f"{_jobs(pruned)} removed.")


def _table(pruned: Pruned) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("owner")
    table.add_column("status")
    table.add_column("jobs", justify="right")
    for (owner, status), jobs in sorted(pruned.jobs.items()):
        table.add_row(output.escape(owner), output.coloured(status), f"{jobs:,}")
    return table


def _jobs(pruned: Pruned) -> str:
    return "1 job" if pruned.total() == 1 else f"{pruned.total():,} jobs"
