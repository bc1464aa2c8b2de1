"""W10: what an installation takes while it has nothing to do: one API, four workers, one scheduler, RabbitMQ.

Each process has done some work before (`JOBS`), so that what is loaded and connected at first use counts. Then nobody
asks for anything. Statements are those that PostgreSQL says it was sent, BEGIN and COMMIT among them; each process has
a PostgreSQL user of its own. Processor time and memory are those of the process and of what it started.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from adapters.embedded.cluster import USER
from benchmarks.contestant import Worker
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.ours import Ours
from benchmarks.place import Place, tell
from benchmarks.slow import answering
from tests.e2e.service import Installation, Process, eventually

TITLE = "Idle: one API, four workers, one scheduler"
SECONDS, WORKERS, JOBS = 60.0, 4, 200
SETTLED = 20.0
"""Seconds after the last job, until connections, leads and rescues are what they will be."""

MOST_STATEMENTS, MOST_OF_LEADER, MOST_PROCESSOR, MOST_MEMORY = 2.0, 8.0, 1.0, 90.0

SENT = re.compile(rb"^ai_service_(\w+) LOG:  (?:statement|execute)", re.MULTILINE)


def run(place: Place, rounds: int) -> Findings:
    with idling(place) as processes:
        tell(f"W10: settling for {SETTLED:g} s")
        time.sleep(SETTLED)
        taken = []
        for turn in range(rounds):
            tell(f"W10 round {turn + 1} of {rounds}: {SECONDS:g} s")
            taken.append(took(place, processes, SECONDS))
    figures = [
        Figure(name, measure, unit, tuple(each[name][place] for each in taken))
        for name in processes
        for place, (measure, unit) in enumerate((("statements", "/s"), ("processor", "%"), ("memory", "MB")))
    ]
    return Findings(tuple(figures), tuple(bars(figures)), NOTES)


NOTES = ("defaults, but for LLM_BASE_URL and AUDIO_TRANSCRIPTION_BASE_URL: two queues, four slots each",)


def bars(figures: Sequence[Figure]) -> Iterator[Bar]:
    """Of the worst process of each kind."""

    def most(measure: str, *names: str) -> float:
        return max(each.median for each in figures if each.measure == measure and each.contestant.startswith(names))

    yield Bar("statements of the API", most("statements", "api"), MOST_STATEMENTS, "/s", at_most=True)
    yield Bar("statements of a worker", most("statements", "worker"), MOST_STATEMENTS, "/s", at_most=True)
    yield Bar("statements of the leader", most("statements", "scheduler"), MOST_OF_LEADER, "/s", at_most=True)
    yield Bar("processor, any process", most("processor", ""), MOST_PROCESSOR, "%", at_most=True)
    yield Bar("memory, any process", most("memory", ""), MOST_MEMORY, "MB", at_most=True)


@contextmanager
def idling(place: Place) -> Iterator[dict[str, Process]]:
    """The processes of an installation that has done some work, by their names. The scheduler leads."""
    names = ["scheduler", "api", *(f"worker{number}" for number in range(WORKERS))]
    ours = Ours(place)
    for name in names:
        place.execute(ours.dsn, f"CREATE ROLE ai_service_{name} SUPERUSER LOGIN PASSWORD '{_password(ours.dsn)}'")
        place.execute(ours.dsn, f"ALTER ROLE ai_service_{name} SET log_statement = 'all'")
    place.execute(ours.dsn, "ALTER SYSTEM SET log_line_prefix = '%u '")
    place.execute(ours.dsn, "SELECT pg_reload_conf()")
    with answering(0.01) as url, Installation(place.folder, **_settings(place, f"{url}/v1")) as installation:
        database = {name: {"DATABASE_URL": ours.dsn.replace(f"//{USER}:", f"//ai_service_{name}:")} for name in names}
        scheduler = installation.scheduler(**database["scheduler"])
        scheduler.says("scheduler leads")
        api = installation.serve(**database["api"])
        workers = {name: installation.worker(**database[name]) for name in names if name.startswith("worker")}
        api.submit_batch(JOBS)
        eventually(lambda: ours.stored() == JOBS, within=60, what="the jobs are done")
        yield {"scheduler": scheduler, "api": api.process, **workers}


def _password(dsn: str) -> str:
    return urlsplit(dsn).password or ""


def _settings(place: Place, url: str) -> Mapping[str, str]:
    return {
        "AMQP_URL": place.rabbit.url,
        "LLM_BASE_URL": url,
        "AUDIO_TRANSCRIPTION_BASE_URL": url,
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "",
        "RETRY_DELAY_FAST": "",
        "RETRY_DELAY_SLOW": "",
    }


def took(place: Place, processes: Mapping[str, Process], seconds: float) -> dict[str, tuple[float, float, float]]:
    """Statements per second, percent of a processor, and megabytes, by process."""
    workers = {name: Worker(process.begun) for name, process in processes.items()}
    log = place.folder / "data" / "postgres.log"
    began, before, said = time.monotonic(), _computed(workers), log.stat().st_size
    time.sleep(seconds)
    passed, after = time.monotonic() - began, _computed(workers)
    statements = sent(log, said)
    return {
        name: (statements[name] / passed, 100 * (after[name] - before[name]) / passed, worker.memory)
        for name, worker in workers.items()
    }


def sent(log: Path, after: int) -> Counter[str]:
    """How many statements each user sent since the log was so long."""
    with log.open("rb") as lines:
        lines.seek(after)
        return Counter(name.decode() for name in SENT.findall(lines.read()))


def _computed(workers: Mapping[str, Worker]) -> dict[str, float]:
    return {name: worker.processor_time for name, worker in workers.items()}
