"""What a job costs PostgreSQL through its life: log, disk, processor time, dead rows. `python -m benchmarks.footprint`.

On an embedded server with its usual settings, through the store that the service uses. Bytes and counts do not depend
on what else the machine does; seconds do. Full pages, which the log holds after each checkpoint, are told of apart:
here a checkpoint comes before each stage, so each stage pays for them as if a checkpoint came every few thousand jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import structlog
from msgspec import Raw, Struct, json

from adapters.embedded.postgres import EmbeddedPostgres
from adapters.postgres.migrate import migrate
from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from app.bootstrap import new_job_id
from benchmarks import report
from benchmarks.handlers import PAYLOAD, RESULT
from benchmarks.place import tell
from domain.job import JobStatus, LeasedJob, NewJob, RunOutcome, Settlement
from domain.ports import Claim

JOBS, SINGLES = 20_000, 2_000
"""In batches, and one by one."""
BATCH, SLOTS = 1_000, 64
OWNERS = 4

STORED, RUN, COUNTED = f"stored, {BATCH:,} at once", f"run, {SLOTS} at once", "counted (every second)"
STORED_SINGLY, RUN_SINGLY, ERASED = "stored, one by one", "run, one by one", f"erased, {BATCH:,} at once"
LIFE = (STORED_SINGLY, RUN, COUNTED, ERASED)
"""The stages of a usual job."""

LOADS = (1_000_000, 10_000_000, 100_000_000)
"""Jobs a day."""
PEAK = 3.0
KEPT = 30

PART = "the footprint"
BEGIN, END = f"<!-- {PART}: written by `python -m benchmarks.footprint` -->", f"<!-- end of {PART} -->"

QUEUE, TASK_TYPE, PROFILE = "gpu.llm", "llm_chat", "practice"
CLAIM = Claim(QUEUE, (TASK_TYPE,), (PROFILE,), "footprint/0", timedelta(minutes=5), SLOTS)

STATE = """
    SELECT
        pg_current_wal_insert_lsn() - '0/0' AS wal,
        (SELECT wal_fpi FROM pg_stat_wal) AS full_pages,
        (SELECT wal_records FROM pg_stat_wal) AS records
"""
SIZES = """
    SELECT
        relname AS name,
        pg_table_size(oid) AS rows,
        pg_indexes_size(oid) AS indexes
    FROM pg_class
    WHERE relkind = 'r'
      AND relnamespace = 'public'::regnamespace
"""
CHURN = """
    SELECT relname AS name, n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_hot_upd AS hot, n_tup_del AS deleted
    FROM pg_stat_user_tables
    WHERE schemaname = 'public'
"""


class Stage(Struct, frozen=True):
    """A part of a job's life; figures are per job."""

    name: str
    jobs: int
    wal: float
    """Bytes of log."""
    full_pages: float
    """Of 8 KiB at most, among these."""
    processor: float
    """Milliseconds that PostgreSQL computed."""


class Table(Struct, frozen=True):
    """Figures are per job."""

    name: str
    pending: float
    """Bytes of rows and indexes once the job is stored."""
    rows: float
    """Bytes of rows once it is completed and vacuumed."""
    indexes: float
    inserted: float
    updated: float
    hot: float
    """Updates that touched no index."""
    deleted: float


class Footprint(Struct, frozen=True):
    jobs: int
    postgres: str
    input: int
    """Bytes."""
    result: int
    stages: tuple[Stage, ...]
    tables: tuple[Table, ...]
    vacuum: float
    """Seconds of a VACUUM of all tables per million of jobs that were completed since the last one."""


class _Meter:
    """Reads what the server did, from a connection of its own."""

    def __init__(self, connection: asyncpg.Connection, pool: asyncpg.Pool, postmaster: int) -> None:
        self._connection, self._pool, self._postmaster = connection, pool, postmaster

    async def stage(self, name: str, jobs: int, work: Callable[[], Awaitable[object]]) -> Stage:
        tell(f"{name}: {jobs:,} jobs")
        await self._connection.execute("CHECKPOINT")
        before, computed = await self._state(), await self._computed()
        await work()
        after, more = await self._state(), await self._computed()
        return Stage(
            name,
            jobs,
            wal=float(after["wal"] - before["wal"]) / jobs,
            full_pages=float(after["full_pages"] - before["full_pages"]) / jobs,
            processor=1_000 * (more - computed) / jobs,
        )

    async def sizes(self) -> dict[str, tuple[int, int]]:
        return {row["name"]: (row["rows"], row["indexes"]) for row in await self._connection.fetch(SIZES)}

    async def churn(self) -> dict[str, asyncpg.Record]:
        await self._flush()
        return {row["name"]: row for row in await self._connection.fetch(CHURN)}

    async def vacuum(self) -> float:
        began = time.monotonic()
        await self._connection.execute("VACUUM ANALYZE")
        return time.monotonic() - began

    async def _state(self) -> asyncpg.Record:
        await self._flush()
        [row] = await self._connection.fetch(STATE)
        return row

    async def _flush(self) -> None:
        """What a session did is told to the others now and then only, unless it is asked to."""
        for session in (self._pool, self._connection):
            await session.execute("SELECT pg_stat_force_next_flush()")

    async def _computed(self) -> float:
        """Seconds of all processes of the server: those that ended are their parent's."""
        pids = [row["pid"] for row in await self._connection.fetch("SELECT pid FROM pg_stat_activity")]
        own = [_processor_time(pid, 13, 15) for pid in [*pids, self._postmaster]]
        return sum(own) + _processor_time(self._postmaster, 15, 17)


def _processor_time(pid: int, begin: int, end: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[begin - 2 : end - 2])) / 100


async def measure(dsn: str, jobs: int = JOBS, singles: int = SINGLES) -> Footprint:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    # One session, so that what it did can be asked for; it commits after each statement, as those of the service do.
    async with create_pool(dsn, max_size=1, application_name="footprint") as pool:
        try:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            meter = _Meter(connection, pool, _parent(backend))
            return await _lives(meter, PostgresJobStore(pool), connection, jobs, singles)
        finally:
            await connection.close()


async def _lives(
    meter: _Meter, store: PostgresJobStore, connection: asyncpg.Connection, jobs: int, singles: int
) -> Footprint:
    await _add(store, BATCH, BATCH)  # plans and pages that every installation has soon
    await _drain(store, SLOTS)
    await meter.vacuum()
    empty, before = await meter.sizes(), await meter.churn()
    stages = [await meter.stage(STORED, jobs, lambda: _add(store, jobs, BATCH))]
    pending = await meter.sizes()
    stages.append(await meter.stage(RUN, jobs, lambda: _drain(store, SLOTS)))
    stages.append(await meter.stage(COUNTED, jobs, store.fold_tallies))
    took = await meter.vacuum()
    completed, churn = await meter.sizes(), await meter.churn()
    stages.append(await meter.stage(STORED_SINGLY, singles, lambda: _add(store, singles, 1)))
    stages.append(await meter.stage(RUN_SINGLY, singles, lambda: _drain(store, 1)))
    await store.fold_tallies()
    stages.append(await meter.stage(ERASED, jobs, lambda: _erase(store, connection, jobs)))
    return Footprint(
        jobs=jobs,
        postgres=await connection.fetchval("SHOW server_version"),
        input=len(_input(0)),
        result=len(_result()),
        stages=tuple(stages),
        tables=tuple(
            Table(
                name,
                pending=(sum(pending[name]) - sum(empty[name])) / jobs,
                rows=max(0, completed[name][0] - empty[name][0]) / jobs,
                indexes=max(0, completed[name][1] - empty[name][1]) / jobs,
                inserted=(churn[name]["inserted"] - before[name]["inserted"]) / jobs,
                updated=(churn[name]["updated"] - before[name]["updated"]) / jobs,
                hot=(churn[name]["hot"] - before[name]["hot"]) / jobs,
                deleted=(churn[name]["deleted"] - before[name]["deleted"]) / jobs,
            )
            for name in sorted(completed)
            if churn[name]["inserted"] - before[name]["inserted"] + churn[name]["updated"] - before[name]["updated"]
        ),
        vacuum=1e6 * took / jobs,
    )


async def _add(store: PostgresJobStore, jobs: int, at_once: int) -> None:
    for begin in range(0, jobs, at_once):
        await store.add([_job(number) for number in range(begin, begin + at_once)])


def _job(number: int) -> NewJob:
    return NewJob(
        id=new_job_id(),
        owner_service=f"owner{number % OWNERS}",
        owner_ref=f"call/{number}",
        task_type=TASK_TYPE,
        model_profile=PROFILE,
        input=Raw(_input(number)),
        queue=QUEUE,
    )


def _input(number: int) -> bytes:
    return json.encode({"user": PAYLOAD, "number": number})


def _result() -> bytes:
    return json.encode({"schema_version": "ai.chat_result.v1", "content": RESULT, "model": "none"})


async def _drain(store: PostgresJobStore, slots: int) -> None:
    """As a busy worker does: what ended is settled with the claim of what is next."""
    claim = Claim(QUEUE, CLAIM.task_types, CLAIM.model_profiles, CLAIM.worker_id, CLAIM.lease, slots)
    running: tuple[LeasedJob, ...] = ()
    while True:
        running = (await store.exchange([_settled(job) for job in running], claim)).claimed
        if not running:
            return


def _settled(job: LeasedJob) -> Settlement:
    return Settlement(job.lease, RunOutcome.COMPLETED, JobStatus.COMPLETED, _result())


async def _erase(store: PostgresJobStore, connection: asyncpg.Connection, jobs: int) -> None:
    for _ in range(0, jobs, BATCH):
        rows = await connection.fetch("SELECT id FROM jobs WHERE status = 'completed' ORDER BY seq LIMIT $1", BATCH)
        await store.erase([row["id"] for row in rows])


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def part(told: Footprint) -> str:
    """In Markdown."""
    lines = [
        (
            f"{told.jobs:,} jobs with an input of {told.input} and a result of {told.result} bytes, "
            f"PostgreSQL {told.postgres}. Per job:"
        ),
        "",
        "| stage | bytes of log | full pages among them | PostgreSQL computes, ms |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {each.name} | {each.wal:,.0f} | {each.full_pages:.2f} | {each.processor:.2f} |" for each in told.stages),
        "",
        "| table | bytes, pending | completed: rows | indexes | inserts | updates | without index | deletes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {each.name} | {each.pending:,.0f} | {each.rows:,.0f} | {each.indexes:,.0f} | {each.inserted:.2f} | "
            f"{each.updated:.2f} | {each.hot:.2f} | {each.deleted:.2f} |"
            for each in told.tables
        ),
        f"| **all** | **{_sum(told, 'pending')}** | **{_sum(told, 'rows')}** | **{_sum(told, 'indexes')}** | | | | |",
        "",
        f"A VACUUM of everything after that took {told.vacuum:.0f} s per million jobs.",
        "",
        (
            f"What that comes to for jobs like these, stored one by one, run {SLOTS} at once, {PEAK:g} times as many a "
            f"second at the peak as on average, kept for {KEPT} days and then erased:"
        ),
        "",
        *_loads(told),
        "",
        (
            "The claims of one queue take turns: whatever the number of processors, one queue starts and completes "
            f"about {1_000 / by_name(told)[RUN].processor:,.0f} jobs a second here, "
            f"{1_000 / by_name(told)[RUN_SINGLY].processor:,.0f} where they come one at a time."
        ),
    ]
    return "\n".join(lines)


def by_name(told: Footprint) -> dict[str, Stage]:
    return {stage.name: stage for stage in told.stages}


def _loads(told: Footprint) -> list[str]:
    """What these figures come to for whole days."""
    life = [by_name(told)[name] for name in LIFE]
    kept = sum(table.rows + table.indexes for table in told.tables)
    written_anew = sum(table.updated + table.deleted for table in told.tables)
    lines = [
        "| jobs a day | a second, peak | log a day | log, peak | disk | processors, peak | dead rows a day |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for jobs in LOADS:
        peak = PEAK * jobs / 86_400
        log = sum(stage.wal for stage in life)
        busy = peak * sum(stage.processor for stage in life) / 1_000
        lines.append(
            f"| {jobs / 1e6:g} million | {peak:,.0f} | {jobs * log / 1e9:,.1f} GB | {peak * log / 1e6:,.2f} MB/s | "
            f"{jobs * KEPT * kept / 1e9:,.0f} GB | {busy:,.2f} | {jobs * written_anew / 1e6:,.1f} million |"
        )
    return lines


def _sum(told: Footprint, name: str) -> str:
    return f"{sum(getattr(each, name) for each in told.tables):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="gets the figures")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a document that gets them, between marks")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: write the page from the JSON file")
    options = parser.parse_args()
    if options.redraw:
        told = json.decode(options.json.read_bytes(), type=Footprint)
    else:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "data") as postgres:
            told = asyncio.run(measure(postgres.dsn, options.jobs))
    if options.json and not options.redraw:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(json.format(json.encode(told), indent=2) + b"\n")
    if options.page:
        write(options.page, told)
    else:
        print(part(told))


def write(page: Path, told: Footprint) -> None:
    text = page.read_text() if page.exists() else ""
    page.write_text(report.put(text, BEGIN, END, PART.capitalize(), part(told)))


if __name__ == "__main__":
    main()
