"""W6: how fast one worker process drains a queue with 1,000 and with 1,000,000 pending jobs, and under an old snapshot.

The backlog is topped up while it is drained, so that its depth stays about the same; that costs the same at every
depth. A rate counts from the 200th end to the last of the window, with 64 slots and with one.

The old snapshot is a transaction that another connection opened before so many runs as a busy service ends in ten
minutes: 50 a second, each claimed and stored by itself as runs of seconds are. The snapshot itself need not be ten
minutes old: PostgreSQL does not know its age, only that none of the rows' versions since then may go, and it is these
that a claim must step over. What is not the same: in ten minutes other rows are written too, which no claim reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import asyncpg

from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from benchmarks import record
from benchmarks.contestant import Contestant, Task, until, working
from benchmarks.drain import notes
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.handlers import PAYLOAD
from benchmarks.ours import QUEUE, TASK_TYPE, Ours
from benchmarks.peers.everyone import peer
from benchmarks.place import Place, tell
from domain.job import JobStatus, LeasedJob, RunOutcome, Settlement
from domain.ports import Claim

TITLE = "Drain a window of a backlog of 1,000 and of 1,000,000, also under an old snapshot; one process"
SHALLOW, DEEP, PEERS_DEEP = 1_000, 1_000_000, 200_000
OWNERS = 8
SLOTS = 64
WINDOWS = {SLOTS: 10_000, 1: 1_000}
"""How many jobs are drained, by the slots."""
PEERS_WINDOW = 2_000
AGED = 30_000
"""Runs that ended since the old snapshot."""
WARM_UP = 200
TOP_UP = 500
PATIENCE = 300.0

STOCK = """
    WITH new AS MATERIALIZED (
        -- Ids in the order of their creation, as the service makes them: random ones would be looked up all over the
        -- index, which costs the more, the larger it is.
        SELECT
            i, seq, 'owner-' || i % $2::integer AS owner,
            (lpad(to_hex(1700000000000 + seq), 12, '0') || '7' || substr(md5(seq::text), 14))::uuid AS id
        FROM (SELECT i, nextval('jobs_seq') AS seq FROM generate_series(1, $1::integer) AS i) AS numbered
    ), detail AS (
        INSERT INTO job_details (
            job_id, seq, created_at, owner_service, owner_ref, task_type, model_profile, queue, priority
        )
        SELECT id, seq, now(), owner, '', $3, 'practice', $4, 3 FROM new
    ), job AS (
        INSERT INTO jobs (
            id, seq, created_at, run_at, updated_at, priority, level, max_attempts, due, status, queue,
            owner_service, task_type, model_profile
        )
        SELECT id, seq, now(), now(), now(), 3, 3, 3, true, 'pending', $4, owner, $3, 'practice' FROM new
        RETURNING line, level, owner_service, seq
    ), body AS (
        INSERT INTO job_inputs
        SELECT id, convert_to(json_build_object('user', $5::text, 'number', i)::text, 'UTF8') FROM new
    )
    SELECT reach_lanes(array_agg(line), array_agg(level), array_agg(owner_service), array_agg(seq))
    FROM (SELECT line, level, owner_service, min(seq) AS seq FROM job GROUP BY 1, 2, 3) AS lane
"""


class Stocked(Ours):
    """With a database of its own, whose backlog is stored once."""

    def __init__(self, place: Place, name: str, depth: int, *, database: str, template: str | None = None) -> None:
        if template:
            place.execute(place.postgres, f"CREATE DATABASE {database} TEMPLATE {template}")
        super().__init__(place, database=database)
        self.name = name
        if not template:
            self.top_up(depth)
            place.execute(self.dsn, "VACUUM ANALYZE")

    def top_up(self, jobs: int) -> None:
        asyncio.run(_stock(self.dsn, jobs))

    def begin(self) -> None:
        """Let a worker that starts now find work, and no litter of the one before."""
        self._place.execute(self.dsn, "VACUUM jobs, line_states, lane_states, job_count_changes")
        self._place.rabbit.reset()
        self.publish_tickets()


async def _stock(dsn: str, jobs: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await stock(connection, jobs)
    finally:
        await connection.close()


async def stock(
    connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy, jobs: int, queue: str = QUEUE
) -> None:
    """Store so many jobs of several owners in one statement."""
    await connection.execute(STOCK, jobs, OWNERS, TASK_TYPE, queue, PAYLOAD, timeout=PATIENCE * 4)


def run(place: Place, rounds: int) -> Findings:
    tell(f"W6: storing {SHALLOW:,} and {DEEP:,} jobs")
    shallow = Stocked(place, f"{SHALLOW:,} pending", SHALLOW, database="shallow")
    deep = Stocked(place, f"{DEEP:,} pending", DEEP, database="deep")
    aged = Stocked(place, f"{DEEP:,} pending, old snapshot", DEEP, database="aged", template="deep")
    figures: dict[tuple[str, int], list[float]] = {}
    with snapshot(aged.dsn):
        tell(f"W6: ending {AGED:,} runs under a snapshot")
        age(aged.dsn, AGED)
        for turn in range(rounds):
            for slots, jobs in WINDOWS.items():
                for each in (shallow, deep, aged):
                    tell(f"W6 round {turn + 1} of {rounds}: {each.name}, {_slots(slots)}")
                    figures.setdefault((each.name, slots), []).append(drained(place, each, jobs, slots))
    rates = [
        Figure("ours", f"{name}, {_slots(slots)}", "jobs/s", tuple(values)) for (name, slots), values in figures.items()
    ]
    median = {key: figure.median for key, figure in zip(figures, rates, strict=True)}
    bars = [
        bar
        for slots in WINDOWS
        for bar in (
            Bar(
                f"{deep.name} / {shallow.name}, {_slots(slots)}",
                median[deep.name, slots] / median[shallow.name, slots],
                0.9,
            ),
            Bar(
                f"{aged.name} / {shallow.name}, {_slots(slots)}",
                median[aged.name, slots] / median[shallow.name, slots],
                0.7,
            ),
        )
    ]
    peers = [peer("PGQueuer", place), peer("Procrastinate", place)]
    return Findings(
        (*rates, *[figure for each in peers for figure in beside(place, each, rounds)]),
        tuple(bars),
        (
            f"{OWNERS} owners; the old snapshot has seen {AGED:,} runs end, each in a statement of its own",
            f"The peers have no more than {PEERS_DEEP:,} pending, and no old snapshot",
            *notes([shallow, *peers]),
        ),
    )


def _slots(slots: int) -> str:
    return "1 slot" if slots == 1 else f"{slots} slots"


def drained(place: Place, stocked: Stocked, jobs: int, slots: int) -> float:
    """Jobs per second in a window of so many."""
    file = place.folder / "depth"
    file.unlink(missing_ok=True)
    stocked.begin()
    last = WARM_UP + jobs
    with working(stocked, Task("nothing"), slots, file) as worker:
        for ended in range(TOP_UP, last, TOP_UP):
            until(file, ended, within=PATIENCE, worker=worker)
            stocked.top_up(TOP_UP)
        until(file, last, within=PATIENCE, worker=worker)
    stocked.top_up(last % TOP_UP or TOP_UP)
    ends = [each.ended for each in record.entries(file)]
    return jobs / (ends[last - 1] - ends[WARM_UP - 1])


@contextmanager
def snapshot(dsn: str) -> Iterator[None]:
    """Keep a snapshot of this moment open, as a report or a backup does."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(dsn))
    try:
        loop.run_until_complete(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM jobs LIMIT 1"))
        yield
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def age(dsn: str, runs: int) -> None:
    """End so many runs, one by one, and put as many new jobs in their place."""
    asyncio.run(_age(dsn, runs))
    asyncio.run(_stock(dsn, runs))


async def _age(dsn: str, runs: int) -> None:
    async with create_pool(dsn, max_size=1, application_name="benchmark") as pool:
        await exchanged(PostgresJobStore(pool), runs, at_once=1)


async def exchanged(store: PostgresJobStore, runs: int, *, at_once: int, queue: str = QUEUE) -> None:
    """Claim and end so many runs, each claim in the statement that stores how those before it ended."""
    claim = Claim(queue, (TASK_TYPE,), ("practice",), "benchmark", timedelta(minutes=5), at_once)
    ended: list[Settlement] = []
    for _ in range(0, runs, at_once):
        ended = [_ended(job) for job in (await store.exchange(ended, claim)).claimed]
    await store.exchange(ended, None)


def _ended(job: LeasedJob) -> Settlement:
    return Settlement(job.lease, RunOutcome.COMPLETED, JobStatus.COMPLETED, result=b'{"content": "Done."}')


def beside(place: Place, peer: Contestant, rounds: int) -> Iterator[Figure]:
    """What depth does to a peer. Its backlog is not topped up: where it is shallow it runs out."""
    rates: dict[int, list[float]] = {SHALLOW: [], PEERS_DEEP: []}
    for turn in range(rounds):
        for depth, values in rates.items():
            tell(f"W6 round {turn + 1} of {rounds}: {peer.name}, {depth:,} pending")
            values.append(peer_drained(place, peer, depth))
    for depth, values in rates.items():
        yield Figure(peer.name, f"{depth:,} pending, {_slots(SLOTS)}", "jobs/s", tuple(values))
    shares = [many / few for few, many in zip(rates[SHALLOW], rates[PEERS_DEEP], strict=True)]
    yield Figure(peer.name, f"{PEERS_DEEP:,} / {SHALLOW:,} pending", "x", tuple(shares))


def peer_drained(place: Place, peer: Contestant, depth: int) -> float:
    file = place.folder / "depth"
    file.unlink(missing_ok=True)
    peer.empty()
    peer.fill(depth)
    last = min(depth, WARM_UP + PEERS_WINDOW)
    with working(peer, Task("nothing"), SLOTS, file) as worker:
        until(file, last, within=PATIENCE, worker=worker)
    ends = [each.ended for each in record.entries(file)]
    return (last - WARM_UP) / (ends[last - 1] - ends[WARM_UP - 1])
