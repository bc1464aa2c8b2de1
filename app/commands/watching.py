"""Following jobs to their ends: over their event streams, drawn live where a terminal shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from app.client import FINAL, AsyncClient, Event, Job
from app.commands import output
from app.commands.output import escape

STREAMS = 50
"""Jobs that are followed at once; the others wait for one of these to end."""
SHOWN = 30
"""Rows of the live table."""

Show = Callable[[str, Event], None]


async def follow(client: AsyncClient, job_ids: Sequence[str], show: Show) -> list[Job]:
    """Follow the jobs to their ends. Returns them as they ended, in the order in which they were named."""
    streams = asyncio.Semaphore(STREAMS)

    async def one(job_id: str) -> Job:
        async with streams:
            async for event in client.events(job_id):
                show(job_id, event)
                if event.job:
                    return event.job
        return await client.get(job_id)

    following = [asyncio.create_task(one(job_id)) for job_id in job_ids]
    try:
        return await asyncio.gather(*following)
    finally:
        for task in following:
            task.cancel()


def tell_as_json(_job_id: str, event: Event) -> None:
    output.as_json({"event": event.kind, "id": event.id, "data": event.data})


def tell_as_lines(job_id: str, event: Event) -> None:
    """One line an event, for logs and pipes."""
    if event.kind not in ("done", "token"):
        typer.echo(f"{event.data.get('at', '')} {job_id} {_plainly(event)}")


def _plainly(event: Event) -> str:
    data = event.data
    if event.kind == "progress":
        return f"progress {_brief(data.get('progress'))}"
    error = f" {data['error_code']}: {data.get('error_message') or ''}" if data.get("error_code") else ""
    return f"{data.get('status', event.kind)}{error}"


@dataclass
class Board:
    """The jobs that are followed, as a table that changes."""

    jobs: Iterable[Job]
    console: Console
    _rows: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = {job.id: {**job.raw, "progress": None} for job in self.jobs}
        self._live = Live(self._table(), console=self.console, refresh_per_second=8)

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def tell(self, job_id: str, event: Event) -> None:
        known = {name: value for name, value in event.data.items() if name in self._rows[job_id]}
        self._rows[job_id] |= known
        if event.kind == "status":
            self._rows[job_id]["progress"] = None
        self._live.update(self._table())

    def _table(self) -> Table:
        rows = sorted(self._rows.values(), key=lambda row: row["status"] in FINAL)
        table = Table(box=box.SIMPLE_HEAD, caption=self._caption(len(rows)), caption_justify="left")
        table.add_column("id", no_wrap=True)
        for name in ("owner", "reference", "task type", "status", "progress", "last error"):
            table.add_column(name, overflow="ellipsis", no_wrap=True)
        for row in rows[:SHOWN]:
            table.add_row(
                row["id"],
                escape(row["owner_service"]),
                escape(row["owner_ref"]),
                escape(row["task_type"]),
                output.coloured(row["status"]),
                escape(_brief(row["progress"])),
                escape(row["error_code"] or ""),
            )
        return table

    def _caption(self, total: int) -> str:
        final = sum(row["status"] in FINAL for row in self._rows.values())
        return f"{final} of {total} final" + (f"; {SHOWN} shown" if total > SHOWN else "")


def _brief(progress: object) -> str:
    return "" if progress is None else json.dumps(progress, ensure_ascii=False)[:60]
