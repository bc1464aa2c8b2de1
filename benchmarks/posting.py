"""W7: how many `POST /jobs` one API process answers at 32 connections, beside a bare handler that does one INSERT.

Every request is a job of its own with an input of about 200 bytes, and is answered once it is stored. The rate counts
from the first request sent to the last answer read, after a warm-up; processor time is that of the API process and of
all of PostgreSQL meanwhile. No worker runs: the jobs stay.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.caller import Calls, call, wrong
from benchmarks.contestant import Worker, processor_time, python
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.handlers import PAYLOAD
from benchmarks.ours import TABLES, TASK_TYPE, Ours
from benchmarks.peers import bare_litestar
from benchmarks.place import Place, tell

TITLE = "POST /jobs over 32 connections, one API process"
CONNECTIONS, JOBS, WARM_UP = 32, 10_000, 1_000
PROGRAM = Path(sys.executable).with_name("ai-service")
TOKEN = "benchmark"
STARTED_WITHIN = 30.0

BODY = (
    f'{{"owner_service": "benchmark", "task_type": "{TASK_TYPE}", "model_profile": "practice", '
    f'"input": {{"user": "{PAYLOAD}", "number": {{number}}}}}}'
)


@dataclass(frozen=True)
class Door:
    """Something that takes jobs over HTTP."""

    name: str
    command: Callable[[int], list[str]]
    """Serves on this port of 127.0.0.1."""
    environment: Mapping[str, str]
    dsn: str
    tables: str
    """The first of them has a row for each job."""
    path: str
    alive: str
    status: int
    headers: Mapping[str, str]


def run(place: Place, rounds: int) -> Findings:
    doors = contestants(place)
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    for turn in range(rounds):
        for door in doors:
            tell(f"W7 round {turn + 1} of {rounds}: {door.name}")
            measured[door.name].append(posted(place, door, JOBS, WARM_UP, CONNECTIONS))
    figures = [
        Figure(name, measure, unit, tuple(each[measure] for each in found))
        for name, found in measured.items()
        for measure, unit in UNITS.items()
    ]
    return Findings(tuple(figures), tuple(bars(figures)), NOTES)


UNITS = {
    "answered": "requests/s",
    "API": "us CPU",
    "PostgreSQL": "us CPU",
    "p50": "ms",
    "p99": "ms",
}

NOTES = (
    "ours: `ai-service serve` with a token, PostgreSQL and RabbitMQ; a stored job with its place in line is the answer",
    f"bare Litestar: {bare_litestar.SETTINGS}; one row in one table with one index",
    "API and PostgreSQL: processor time per request",
)


def bars(figures: Sequence[Figure]) -> list[Bar]:
    rate = {figure.contestant: figure.median for figure in figures if figure.measure == "answered"}
    return [Bar("ours / bare Litestar", rate["ours"] / rate["bare Litestar"], 0.9)]


def contestants(place: Place) -> list[Door]:
    ours, bare = Ours(place), place.database("litestar")
    place.execute(bare, bare_litestar.TABLE)
    door = Door(
        name="ours",
        command=lambda port: ["env", f"HTTP_PORT={port}", str(PROGRAM), "serve"],
        environment={**ours.environment(), "AI_SERVICE_TOKEN": TOKEN, "HTTP_HOST": "127.0.0.1"},
        dsn=ours.dsn,
        tables=TABLES,
        path="/api/v1/jobs",
        alive="/readyz",
        status=201,
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    with_keys = {**door.headers, "Idempotency-Key": '"key-{number}"'}
    return [
        door,
        Door(
            name="bare Litestar",
            command=lambda port: python("benchmarks.peers.bare_litestar", str(port)),
            environment={bare_litestar.DSN: bare},
            dsn=bare,
            tables="bare",
            path="/jobs",
            alive="/",
            status=202,
            headers={},
        ),
        replace(door, name="ours, with keys", headers=with_keys),
    ]


def posted(place: Place, door: Door, jobs: int, warm_up: int, connections: int) -> dict[str, float]:
    place.execute(door.dsn, f"TRUNCATE {door.tables} CASCADE")
    with serving(place, door) as (worker, port):
        calls = Calls(port, door.path, BODY, warm_up, connections, jobs, dict(door.headers))
        call(calls)
        postmaster = _postmaster(place)
        before = worker.processor_time, processor_time(postmaster)
        answers = call(Calls(port, door.path, BODY, jobs, connections, 0, dict(door.headers)))
        api, postgres = worker.processor_time - before[0], processor_time(postmaster) - before[1]
    if wrong(answers, door.status):
        raise SystemExit(f"{door.name} answered {wrong(answers, door.status)}.")
    [row] = place.fetch(door.dsn, f"SELECT count(*) FROM {door.tables.partition(',')[0]}")
    if row[0] != jobs + warm_up:
        raise SystemExit(f"{door.name} stored {row[0]} of {jobs + warm_up} jobs.")
    return {
        "answered": jobs / answers.seconds,
        "API": api / jobs * 1e6,
        "PostgreSQL": postgres / jobs * 1e6,
        "p50": answers.p50 * 1e3,
        "p99": answers.p99 * 1e3,
    }


@contextmanager
def serving(place: Place, door: Door) -> Iterator[tuple[Worker, int]]:
    """The contestant's process, once it answers, and its port."""
    port = _free_port()
    with (place.folder / "posting.log").open("wb") as log:
        environment = {**os.environ, **door.environment}
        worker = Worker(subprocess.Popen(door.command(port), env=environment, stdout=log, stderr=log))
        try:
            _await(worker, f"http://127.0.0.1:{port}{door.alive}", Path(log.name))
            yield worker, port
        finally:
            if worker.popen.poll() is None:
                worker.stop()


def _postmaster(place: Place) -> int:
    """The parent of all processes of PostgreSQL."""
    return int(next(place.folder.rglob("postmaster.pid")).read_text().split()[0])


def _await(worker: Worker, url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError as error:
            if getattr(error, "code", None) == 404:
                return
        if time.monotonic() > deadline or worker.popen.poll() is not None:
            raise SystemExit(f"It did not start:\n{log.read_text(errors='replace')[-2_000:]}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
