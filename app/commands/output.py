"""What the commands for callers show: data on stdout, remarks on stderr, tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape as without_markup
from rich.table import Table

from app.client import Job, Queue
from app.printable import printable


class Form(StrEnum):
    """How data is shown."""

    PEOPLE = "people"
    JSON = "json"
    IDS = "ids"

    @classmethod
    def of(cls, *, json: bool, quiet: bool = False) -> Form:
        return cls.JSON if json else cls.IDS if quiet else cls.PEOPLE


COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "pending": "dim"}
NARROWEST = 140
"""Columns of a table that no terminal shows: ids stay whole."""


def out() -> Console:
    """Where data goes."""
    return Console() if sys.stdout.isatty() else Console(width=NARROWEST)


def remarks() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def remark(text: str) -> None:
    """Something for the person before the terminal."""
    remarks().print(text, markup=False)


def tell(job: Job, form: Form) -> None:
    """One line of a job, for programs; for people, all of it."""
    if form is Form.JSON:
        as_json(job.raw)
    elif form is Form.IDS:
        typer.echo(job.id)
    else:
        out().print(job_sheet(job))


def tell_all(jobs: Iterable[Job], form: Form) -> None:
    """A line each, as they come; for people, a table."""
    if form is Form.PEOPLE:
        out().print(jobs_table(jobs))
    else:
        for job in jobs:
            tell(job, form)


def as_json(document: Mapping[str, Any]) -> None:
    """One line of JSON."""
    typer.echo(json.dumps(document, ensure_ascii=False))


def escape(text: str) -> str:
    """A caller's text as it is to be seen: neither markup nor orders to the terminal."""
    return without_markup("\n".join(printable(line) for line in text.split("\n")))


def coloured(status: str) -> str:
    return f"[{COLOURS.get(status, 'default')}]{escape(status)}[/]"


def jobs_table(jobs: Iterable[Job]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("id", no_wrap=True)
    for name in ("owner", "reference", "task type", "profile", "priority", "status", "attempts", "age", "last error"):
        table.add_column(name, overflow="fold")
    for job in jobs:
        table.add_row(
            job.id,
            escape(job.owner_service),
            escape(job.owner_ref),
            escape(job.task_type),
            escape(job.model_profile),
            job.priority,
            coloured(job.status),
            f"{job.attempts}/{job.max_attempts}",
            age(job.created_at),
            escape(job.error_code or ""),
        )
    return table


def job_sheet(job: Job) -> Table:
    """A job with everything that is set, input and result last."""
    sheet = Table(box=None, show_header=False, pad_edge=False)
    sheet.add_column(style="bold")
    sheet.add_column(overflow="fold")
    payloads = ("progress", "input", "result")
    for name, value in job.raw.items():
        if name not in payloads and value not in (None, "", {}):
            sheet.add_row(name, coloured(job.status) if name == "status" else escape(_plain(value)))
    for name in payloads:
        if (value := job.raw.get(name)) is not None:
            sheet.add_row(name, escape(json.dumps(value, ensure_ascii=False, indent=2)))
    return sheet


def queues_table(queues: Sequence[Queue]) -> Table:
    """With what RabbitMQ counts, where the service tells it."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("queue")
    table.add_column("state")
    columns = ("pending", "due", "running", "busy", "limit", "workers", "slots", "idle")
    lying = ("ready", "unacked", "consumers") if any(queue.broker for queue in queues) else ()
    for name in (*columns, *lying):
        table.add_column(name, justify="right")
    for queue in queues:
        figures = (_limit(queue) if name == "limit" else str(getattr(queue, name)) for name in columns)
        tickets = (str(getattr(queue.broker, name, "-")) for name in lying)
        table.add_row(escape(queue.name), _state(queue), *figures, *tickets)
    return table


def age(moment: datetime | None) -> str:
    """How long ago, in its largest unit."""
    if moment is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _state(queue: Queue) -> str:
    """Whether its jobs start, or everything that keeps them from it."""
    words = [word for word, held in (("paused", queue.paused), ("stopped", queue.stopped)) if held]
    told = [f"[yellow]{word}[/]" for word in words]
    if queue.circuit.state != "closed":
        told.append(
            f"[red]circuit {escape(queue.circuit.state.replace('_', ' '))}: {escape(queue.circuit.reason or '?')}[/]"
        )
    return ", ".join(told) or "[green]running[/]"


def _limit(queue: Queue) -> str:
    """Most slots that may be busy; what is left of a configured limit where the queue adapts to its server."""
    if queue.effective_limit is None:
        return "-"
    reduced = queue.concurrency not in (None, queue.effective_limit)
    return f"{queue.effective_limit} of {queue.concurrency}" if reduced else str(queue.effective_limit)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
