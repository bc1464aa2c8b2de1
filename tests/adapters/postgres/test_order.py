"""PostgreSQL beside `domain/order.py`: the same jobs in the same order, and the same memory of it afterwards."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from domain.job import LeasedJob, Priority
from domain.order import Lane, Line, Pick, choose, correct
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from tests.adapters.postgres_rig import PostgresRig, open_postgres_rig
from tests.factories import QUEUE, external_claim, new_claim, new_job
from tests.moves import cancel, complete, fail, release

SETTINGS = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

OWNERS = ("ant", "beeline", "lion", "zebra")
TASKS = ("llm_chat", "transcribe")
WEIGHTS = (0.5, 1.0, 2.0, 4.0)
ENDS = (complete, fail, release)


class Adds(Struct, frozen=True):
    owner: str
    priority: Priority
    task: str
    jobs: int


class Claims(Struct, frozen=True):
    limit: int
    tasks: tuple[str, ...]
    owners: tuple[str, ...] | None
    """Named only by a worker from outside."""


class Ends(Struct, frozen=True):
    run: int
    how: int
    after: int
    """Quarters of a second."""


class Cancels(Struct, frozen=True):
    job: int


Step = Adds | Claims | Ends | Cancels

adds = st.builds(Adds, st.sampled_from(OWNERS), st.sampled_from(Priority), st.sampled_from(TASKS), st.integers(1, 4))
claims = st.builds(
    Claims,
    st.integers(1, 6),
    st.sampled_from([TASKS, TASKS, TASKS, TASKS[:1]]),
    st.sampled_from([None, None, None, OWNERS[:2]]),
)
ends = st.builds(Ends, st.integers(0, 9), st.integers(0, 2), st.integers(0, 12))
steps = st.lists(
    st.one_of(adds, claims, claims, ends, ends, st.builds(Cancels, st.integers(0, 30))), min_size=10, max_size=25
)
policies = st.builds(
    lambda share, concurrency, owners: Policies(
        queues={QUEUE: QueuePolicy(reserved_share=share, concurrency=concurrency)}, owners=owners
    ),
    st.sampled_from([0.0, 0.0, 0.25, 0.5]),
    st.sampled_from([None, None, 5]),
    st.dictionaries(
        st.sampled_from(OWNERS),
        st.builds(OwnerPolicy, weight=st.sampled_from([None, *WEIGHTS]), max_running=st.sampled_from([None, None, 2])),
    ),
)


class Queue:
    """One queue, whose every move is foretold from what the tables say before it."""

    def __init__(self, rig: PostgresRig, pool: asyncpg.Pool, wanted: Policies) -> None:
        self.rig, self.store, self.pool, self.policies = rig, rig.store, pool, wanted
        self.runs: list[tuple[LeasedJob, asyncpg.Record]] = []

    async def remembered(self) -> Line:
        line = await self.pool.fetchrow("SELECT * FROM lines WHERE name = $1", QUEUE)
        lanes = await self.pool.fetch("SELECT * FROM lanes WHERE line = $1 ORDER BY level, owner_service", QUEUE)
        if line is None:
            return Line()
        return Line(
            lanes=tuple(
                Lane(
                    lane["level"],
                    lane["owner_service"],
                    lane["vtime"],
                    lane["asleep"],
                    lane["fresh"],
                    lane["mean"],
                    self.policies.owners.get(lane["owner_service"], OwnerPolicy()).weight or lane["weight"],
                )
                for lane in lanes
            ),
            clocks={level: clock for level, clock in enumerate(line["clocks"], start=1) if level % 2},
            mean=line["mean"],
            reserve=line["reserve"],
        )

    async def foretold(self, claim: Claims) -> tuple[list[Pick], Line]:
        jobs = await self.pool.fetch("SELECT * FROM jobs WHERE status = 'pending' AND due ORDER BY seq")
        running = await self.pool.fetch("SELECT owner_service AS owner FROM jobs WHERE status = 'running'")
        closing = await self.pool.fetch("SELECT owner_service AS owner FROM closing_slots")
        busy = [row["owner"] for row in (*running, *closing)]
        waiting: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        others = set()
        for job in jobs:
            fits = job["task_type"] in claim.tasks and (claim.owners is None or job["owner_service"] in claim.owners)
            key = (job["level"], job["owner_service"])
            if fits:
                waiting[key].append(job["seq"])
            else:
                others.add(key)
        policy = self.policies.queues[QUEUE]
        room = claim.limit if policy.concurrency is None else min(claim.limit, policy.concurrency - len(busy))
        return choose(
            await self.remembered(),
            dict(waiting),
            room,
            reserved_share=policy.reserved_share,
            spare={
                owner: limited.max_running - busy.count(owner)
                for owner, limited in self.policies.owners.items()
                if limited.max_running is not None
            },
            others=others,
        )

    async def claim(self, claim: Claims) -> None:
        picks, line = await self.foretold(claim)
        held: Sequence[LeasedJob]
        if claim.owners is None:
            held = (await self.store.exchange([], new_claim(limit=claim.limit, task_types=claim.tasks))).claimed
        else:
            asked = external_claim(limit=claim.limit, task_types=claim.tasks, owner_services=claim.owners)
            held = [job.leased() for job in await self.store.claim(asked)]
        found = await self.pool.fetch("SELECT * FROM jobs WHERE id = ANY ($1::uuid[])", [each.id for each in held])
        rows = sorted(found, key=lambda row: [each.id for each in held].index(row["id"]))
        assert [(row["seq"], row["charge"]) for row in rows] == [(pick.seq, pick.cost) for pick in picks]
        assert as_compared(await self.remembered()) == as_compared(line)
        self.runs += zip(held, rows, strict=True)

    async def end(self, end: Ends) -> None:
        if not self.runs:
            return
        held, row = self.runs.pop(end.run % len(self.runs))
        await self.rig.advance(timedelta(seconds=end.after / 4))
        real = (await self.rig.now() - row["started_at"]).total_seconds()
        current = await self.pool.fetchval("SELECT lease_token FROM jobs WHERE id = $1", held.id)
        how = ENDS[end.how]
        line = correct(
            await self.remembered(),
            row["level"],
            row["owner_service"],
            charged=row["charge"],
            real=real,
            completed=how is complete and current == held.lease.token,
        )
        await self.store.exchange([how(held)], None)
        assert as_compared(await self.remembered()) == as_compared(line)
        assert await self.pool.fetchval("SELECT busy FROM lines WHERE name = $1", QUEUE) == len(self.runs)

    async def cancel(self, which: Cancels) -> None:
        rows = await self.pool.fetch("SELECT id FROM jobs WHERE status IN ('pending', 'running') ORDER BY seq")
        if rows:
            await cancel(self.store, rows[which.job % len(rows)]["id"])

    async def places_are_those_of_the_claims(self) -> None:
        rows = await self.pool.fetch("SELECT id FROM jobs WHERE status = 'pending' AND due ORDER BY seq")
        jobs = [await self.store.get(row["id"]) for row in rows]
        waiting: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for job in jobs:
            waiting[job.level, job.owner_service].append(job.seq)
        picks, _ = choose(await self.remembered(), dict(waiting), len(jobs))
        ahead = {job.seq: await self.store.ahead(job) for job in jobs}
        assert sorted(ahead, key=lambda seq: ahead[seq]) == [pick.seq for pick in picks]
        assert sorted(ahead.values()) == [*range(len(jobs))]


def as_compared(line: Line) -> tuple[object, ...]:
    """Numbers to within what adding them in another order changes."""
    lanes = {
        (lane.level, lane.owner): (round(lane.vtime, 9), lane.asleep, lane.fresh, rounded(lane.mean))
        for lane in line.lanes
    }
    clocks = {level: round(clock, 9) for level, clock in line.clocks.items() if clock}
    return lanes, clocks, rounded(line.mean), round(line.reserve, 9)


def rounded(mean: float | None) -> float | None:
    return None if mean is None else round(mean, 9)


@pytest.mark.timeout(300)
def test_claims_and_ends_of_runs_are_those_of_the_rule(postgres_dsn: str):
    @SETTINGS
    @given(wanted=policies, weights=st.lists(st.sampled_from(WEIGHTS), min_size=4, max_size=4), history=steps)
    def holds(wanted: Policies, weights: list[float], history: list[Step]) -> None:
        runner.run(play(wanted, dict(zip(OWNERS, weights, strict=True)), history))

    async def play(wanted: Policies, weights: dict[str, float], history: list[Step]) -> None:
        await rig.reset()
        await rig.queues.configure(wanted, [QUEUE])
        assert isinstance(rig, PostgresRig)
        queue = Queue(rig, rig.pool, wanted)
        for step in history:
            match step:
                case Adds():
                    new = {
                        "owner_service": step.owner,
                        "priority": step.priority,
                        "task_type": step.task,
                        "weight": weights[step.owner],
                    }
                    await rig.store.add([new_job(**new) for _ in range(step.jobs)])
                case Claims():
                    await queue.claim(step)
                case Ends():
                    await queue.end(step)
                case Cancels():
                    await queue.cancel(step)
        await queue.places_are_those_of_the_claims()

    with asyncio.Runner() as runner:
        opened = open_postgres_rig(postgres_dsn)
        rig = runner.run(opened.__aenter__())
        try:
            holds()
        finally:
            runner.run(opened.__aexit__(None, None, None))
