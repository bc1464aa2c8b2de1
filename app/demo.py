"""The demonstration: a whole service on free ports, real jobs through its API, and a table of what became of them."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from rich import box
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app import up
from app.server import bind, url_of
from app.settings import from_env

PROFILE = "practice"
SETTLED_WITHIN = 60.0
"""Seconds after which the demonstration has failed."""

ENVIRONMENT = {
    "HTTP_HOST": "127.0.0.1",
    "HTTP_PORT": "0",
    "WORKER_HTTP_HOST": "127.0.0.1",
    "WORKER_HTTP_PORT": "0",
    "AI_PROVIDER": "practice",
    "RETRY_DELAY_FAST": "1s",
    "RETRY_DELAY_SLOW": "2s",
    "LOG_LEVEL": "error",
}
"""The same everywhere, whatever the caller's environment says."""


@dataclass(frozen=True)
class Planned:
    """A job of the demonstration, and how it must end."""

    owner: str
    ref: str
    task_type: str
    priority: str
    input: Mapping[str, Any]
    expected: str = "completed"
    attempts: int = 1
    cancel: bool = False

    def body(self) -> dict[str, Any]:
        return {
            "owner_service": self.owner,
            "owner_ref": self.ref,
            "task_type": self.task_type,
            "model_profile": PROFILE,
            "priority": self.priority,
            "input": self.input,
        }


VERDICT = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "schema": {
            "type": "object",
            "properties": {"topic": {"enum": ["news", "advert", "talk"]}, "urgent": {"type": "boolean"}},
            "required": ["topic", "urgent"],
        },
    },
}


def _asks(question: str, *, seconds: float = 0.4, **more: Any) -> dict[str, Any]:
    return {"user": question, "practice": {"delay_ms": int(seconds * 1000)}, **more}


PLAN: Sequence[Planned] = (
    Planned(
        "telephony", "beeline/9001", "call_analysis", "low", _asks("Which rules of negotiation did the manager break?")
    ),
    Planned("telephony", "beeline/9001", "transcript_summary", "normal", _asks("Sum the call up in three sentences.")),
    Planned("telephony", "beeline/9002", "transcript_summary", "low", _asks("Sum the call up in one sentence.")),
    Planned(
        "telephony",
        "beeline/9003",
        "call_analysis",
        "normal",
        {"user": "Is the customer content?", "practice": {"error_code": "provider_unavailable", "times": 1}},
        attempts=2,
    ),
    Planned(
        "monitoring-tg",
        "channel/77",
        "telegram_classification",
        "high",
        _asks("Breaking: the bridge is closed until noon.", response_format=VERDICT),
    ),
    Planned(
        "monitoring-tg",
        "channel/78",
        "telegram_classification",
        "low",
        _asks("Buy one, get one free!", response_format=VERDICT),
    ),
    Planned(
        "monitoring-tg",
        "channel/79",
        "llm_chat",
        "low",
        _asks("This one is cancelled while it runs.", seconds=60),
        expected="cancelled",
        attempts=0,
        cancel=True,
    ),
    Planned("doc-service", "doc/12", "chat_completion", "high", _asks("What does this contract oblige us to?")),
    Planned(
        "doc-service",
        "doc/13",
        "llm_chat",
        "normal",
        {
            "messages": [
                {"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": "Who signs the annex?"},
            ],
            "practice": {"delay_ms": 400},
        },
    ),
    Planned("doc-service", "doc/14", "chat_completion", "low", _asks("Translate the title.")),
)


async def run(console: Console) -> int:
    """Show it. Returns the process's exit code: 0 when every job ended as it should."""
    console.print("[bold]AI Service[/]: starting PostgreSQL, the API, a worker and a scheduler in one process …")
    with tempfile.TemporaryDirectory(prefix="ai-service-demo-") as folder:
        settings = from_env({**ENVIRONMENT, "DATA_DIR": folder})
        listener, worker_listener = bind("127.0.0.1", 0, "HTTP_PORT"), bind("127.0.0.1", 0, "WORKER_HTTP_PORT")
        with up.database(settings) as dsn:
            async with (
                up.everything(settings, dsn, listener, worker_listener),
                httpx.AsyncClient(base_url=url_of(listener), timeout=10, trust_env=False) as api,
            ):
                console.print(f"It listens on {url_of(listener)} and describes itself at {url_of(listener)}/schema\n")
                return _show(console, await _through(api, console))


async def _through(api: httpx.AsyncClient, console: Console) -> list[dict[str, Any]]:
    """Submit the plan and follow it to its end. Returns the jobs as the API tells them."""
    ids = []
    for planned in PLAN:
        answer = await api.post("/api/v1/jobs", json=planned.body())
        answer.raise_for_status()
        ids.append(answer.json()["id"])
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    bar = progress.add_task("jobs finished", total=len(PLAN))
    jobs: list[dict[str, Any]] = []
    with Live(progress, console=console, refresh_per_second=10) as live:
        async with asyncio.timeout(SETTLED_WITHIN):
            while not jobs or any(job["finished_at"] is None for job in jobs):
                jobs = [(await api.get(f"/api/v1/jobs/{job_id}")).json() for job_id in ids]
                await _cancel_what_should_be(api, jobs)
                progress.update(bar, completed=sum(job["finished_at"] is not None for job in jobs))
                live.update(_with_progress(jobs, progress))
                await asyncio.sleep(0.15)
    return jobs


async def _cancel_what_should_be(api: httpx.AsyncClient, jobs: Sequence[dict[str, Any]]) -> None:
    for planned, job in zip(PLAN, jobs, strict=True):
        if planned.cancel and job["status"] == "running":
            (await api.post(f"/api/v1/jobs/{job['id']}/cancel")).raise_for_status()


def _with_progress(jobs: Sequence[dict[str, Any]], progress: Progress) -> Table:
    grid = Table.grid()
    grid.add_row(_table(jobs))
    grid.add_row(progress)
    return grid


COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "pending": "dim"}


def _table(jobs: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("owner", "reference", "task type", "priority", "status", "attempts", "last error"):
        table.add_column(name, overflow="fold")
    for job in jobs:
        status = f"[{COLOURS[job['status']]}]{job['status']}[/]"
        error = job["error_code"] or ""
        table.add_row(
            job["owner_service"],
            job["owner_ref"],
            job["task_type"],
            job["priority"],
            status,
            str(job["attempts"]),
            error,
        )
    return table


def _show(console: Console, jobs: Sequence[dict[str, Any]]) -> int:
    example = next(job for planned, job in zip(PLAN, jobs, strict=True) if "response_format" in planned.input)
    console.print()
    result = json.dumps(example["result"], indent=2, ensure_ascii=False)
    console.print(Panel(result, title=f"The result of {example['owner_ref']} in full", expand=False))
    wrong = [
        f"{job['id']} should be {planned.expected} after {planned.attempts} attempts"
        for planned, job in zip(PLAN, jobs, strict=True)
        if (job["status"], job["attempts"]) != (planned.expected, planned.attempts)
    ]
    for line in wrong:
        console.print(line, style="red")
    if not wrong:
        console.print("All as planned: one was retried after its provider failed, one was cancelled while it ran.")
        console.print(
            "Next: [bold]make run[/] leaves a service running; [bold].venv/bin/ai-service --help[/] lists the commands."
        )
    return 1 if wrong else 0
