"""A job store next to the domain's own transitions: whatever happens to both, in any order, leaves the same jobs.

The memory store runs the domain's transitions over a dictionary, so it is the model. Every store in `RIGS`
(conftest.py) is held to it, the memory store too: that shows that the comparison itself is sound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Raw, Struct
from msgspec.structs import replace

from adapters.memory.store import MemoryJobStore
from domain.errors import ErrorCode, Failure, ServiceError
from domain.events import StatusChange
from domain.job import (
    IdempotencyKey,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeasedJob,
    NewJob,
    Priority,
    RunRecord,
    Settlement,
)
from domain.ports import Added, Claim, ExternalClaim, JobFilter, JobStore, Listing, Place, RescueTerms, WorkerBeat
from domain.retention import Walk
from domain.retry import RETRIES, Retry, RetryPolicy, settle_failure
from tests.adapters.rigs import OpenRig, Rig
from tests.factories import new_job
from tests.fakes import FakeClock

T = TypeVar("T")
Ask = Callable[[JobStore], Coroutine[Any, Any, object]]

SETTINGS = settings(
    max_examples=200,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    # Add Phase.shrink to look for a shorter way to a failure: it takes minutes, longer than a test may.
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

POLICY = RetryPolicy(fast=timedelta(seconds=5), slow=timedelta(seconds=20))
ALIVE_WITHIN = timedelta(seconds=15)

QUEUES = ("gpu.llm", "gpu.speech")
TASKS = ("llm_chat", "transcribe")
PROFILES = ("qwen2.5-14b", "whisper-large-v3")
GIVEN_BACK = [code for code, retry in RETRIES.items() if retry is Retry.GIVE_BACK]
OWNERS = ("beeline", "lion")
TEAMS = ("red", "blue")
KEYS = (IdempotencyKey("call-1", b"1"), IdempotencyKey("call-1", b"2"), IdempotencyKey("call-2", b"1"))
STOPPED = Failure(ErrorCode.CANCELLED, "Stopped in the middle.")
WORKERS = ("worker-1", "worker-2")
PROCESSES = (UUID(int=1), UUID(int=2))


class Wanted(Struct, frozen=True):
    """What a new job is like."""

    queue: str | None
    task_type: str
    model_profile: str
    owner: str
    priority: Priority
    max_attempts: int
    starts_in: int | None
    deadline_in: int | None
    team: str | None
    key: IdempotencyKey | None

    def new(self, clock: FakeClock) -> NewJob:
        return new_job(
            queue=self.queue,
            task_type=self.task_type,
            model_profile=self.model_profile,
            owner_service=self.owner,
            priority=self.priority,
            max_attempts=self.max_attempts,
            run_at=None if self.starts_in is None else clock.now() + timedelta(seconds=self.starts_in),
            deadline_at=None if self.deadline_in is None else clock.now() + timedelta(seconds=self.deadline_in),
            labels={"team": self.team} if self.team else {},
            idempotency=self.key,
        )


class Ending(Struct, frozen=True):
    """How a run ends: with a failure, with a result, or handed back."""

    code: ErrorCode | None = None
    retry_after: int | None = None
    result: bytes | None = None

    def of(self, held: LeasedJob) -> Settlement:
        if self.code is not None:
            wait = None if self.retry_after is None else timedelta(seconds=self.retry_after)
            return settle_failure(held, Failure(self.code, f"It ended in {self.code}.", wait), POLICY, jitter=0.5)
        return held.release() if self.result is None else held.complete(self.result)


@dataclass(eq=False)
class Run:
    """One run as either store knows it: they deal different tokens."""

    model: LeasedJob
    other: LeasedJob
    ending: Ending | None = None


picks = st.integers(0, 5)
several = st.sets(picks, min_size=1, max_size=3)
seconds = st.sampled_from([5, 30, 60])
delays = st.builds(timedelta, seconds=st.sampled_from([0, 5, 30]))
waits = st.sampled_from([*[None] * 5, -5, 0, 5, 30])
wanted = st.builds(
    Wanted,
    queue=st.sampled_from([*QUEUES[:1] * 4, *QUEUES, None]),
    task_type=st.sampled_from([*TASKS[:1] * 3, *TASKS]),
    model_profile=st.sampled_from([*PROFILES[:1] * 3, *PROFILES]),
    owner=st.sampled_from(OWNERS),
    priority=st.sampled_from(Priority),
    max_attempts=st.integers(1, 3),
    starts_in=waits,
    deadline_in=st.sampled_from([None, 600]),
    team=st.sampled_from([None, None, *TEAMS]),
    key=st.sampled_from([None, None, None, *KEYS]),
)
endings = st.one_of(
    st.builds(Ending, code=st.sampled_from([*RETRIES]), retry_after=st.sampled_from([None, None, 0, 10])),
    st.builds(Ending, code=st.sampled_from(GIVEN_BACK), retry_after=st.none()),
    st.builds(Ending, result=st.sampled_from([b"{}", b'{"content": "Hello"}'])),
    st.builds(Ending),
)
claims = st.builds(
    Claim,
    queue=st.sampled_from([*QUEUES[:1] * 4, *QUEUES]),
    task_types=st.sampled_from([TASKS, TASKS, TASKS, TASKS[:1], TASKS[1:]]),
    model_profiles=st.sampled_from([PROFILES, PROFILES, PROFILES, PROFILES[:1], PROFILES[1:]]),
    worker_id=st.sampled_from(WORKERS),
    lease=st.builds(timedelta, seconds=st.sampled_from([5, 30])),
    limit=st.sampled_from([3, 3, 2, 1]),
    alone=st.booleans(),
)
external_claims = st.builds(
    ExternalClaim,
    worker_id=st.sampled_from(WORKERS),
    lease=st.builds(timedelta, seconds=st.sampled_from([5, 30])),
    limit=st.integers(1, 3),
    task_types=st.sampled_from([None, None, TASKS, TASKS[1:]]),
    model_profiles=st.sampled_from([None, None, PROFILES[:1]]),
    owner_services=st.sampled_from([None, None, OWNERS[:1]]),
    queues=st.sampled_from([None, None, QUEUES, QUEUES[1:]]),
)
reports = st.sampled_from([None, Raw(b"{}"), Raw(b'{"done": 7}')])
any_or_one: dict[str, list[tuple[Any, ...]]] = {
    "owner_service": [(), *((owner,) for owner in OWNERS), OWNERS],
    "task_type": [(), *((task,) for task in TASKS)],
    "error_code": [(), (), (), (ErrorCode.TIMEOUT,), (*GIVEN_BACK, ErrorCode.STALE_WORKER)],
    "labels": [(), (), (("team", TEAMS[:1]),), (("team", TEAMS),)],
}
filters = st.builds(
    JobFilter,
    status=st.lists(st.sampled_from(JobStatus), unique=True, max_size=2).map(tuple),
    **{name: st.sampled_from(values) for name, values in any_or_one.items()},
)
beats = st.builds(
    WorkerBeat,
    id=st.sampled_from(PROCESSES),
    worker_id=st.sampled_from(WORKERS),
    host=st.just("gpu-1"),
    queues=st.sampled_from([QUEUES, QUEUES[:1]]),
    slots_per_queue=st.integers(2, 4),
    running=st.dictionaries(st.sampled_from(QUEUES), st.integers(0, 2)),
    model_profiles=st.sampled_from([PROFILES, PROFILES[:1]]),
)


has_run_something = precondition(lambda machine: machine.runs)


class TwoStores(RuleBasedStateMachine):
    """Does everything to both stores, and compares what they answer and what they hold."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rig: Rig) -> None:
        super().__init__()
        self.loop = loop
        self.rig = rig
        self.wait(rig.reset())
        self.clock = FakeClock(self.wait(rig.now()))
        self.model: JobStore = MemoryJobStore(self.clock.now)
        self.other = rig.store
        self.jobs: list[JobId] = []
        self.runs: list[Run] = []
        self.leases: dict[Lease | None, Lease | None] = {None: None}
        """The model's lease for each one of the other store."""

    @initialize(wanted=st.lists(wanted, min_size=3, max_size=6))
    def begin(self, wanted: list[Wanted]) -> None:
        self.add([replace(want, key=None) for want in wanted])

    def add(self, wanted: list[Wanted]) -> None:
        new = [want.new(self.clock) for want in wanted]
        self.both(lambda store: store.add(new))
        stored = self.wait(self.model.pulses([job.id for job in new]))
        self.jobs += [job.id for job in new if job.id in stored and job.id not in self.jobs]

    @rule(wanted=st.lists(wanted, max_size=3), claim=claims, endings=st.lists(endings, max_size=3))
    def work(self, wanted: list[Wanted], claim: Claim, endings: list[Ending]) -> None:
        """Add jobs, take some and end some of those: what is left runs on, or is rescued."""
        self.add(wanted)
        started = self.exchange([], claim)
        self.exchange(list(zip(started, endings, strict=False)), None)

    @rule(job=picks, wanted=wanted)
    def add_again(self, job: int, wanted: Wanted) -> None:
        again = replace(wanted.new(self.clock), id=self.job(job))
        self.both(lambda store: store.add([again]))

    @rule(claim=external_claims, reports=st.lists(reports, max_size=2))
    def lend(self, claim: ExternalClaim, reports: list[Raw | None]) -> None:
        started = self.claim(claim)
        for run, progress in zip(started, reports, strict=False):
            self.report_on(run, progress)

    @has_run_something
    @rule(pick=picks, progress=reports)
    def report(self, pick: int, progress: Raw | None) -> None:
        """Often too late, and often of a built-in worker, whom it is not for."""
        self.report_on(self.run(pick), progress)

    @has_run_something
    @rule(ends=st.dictionaries(picks, endings, min_size=1, max_size=3), claim=st.none() | claims)
    def settle(self, ends: dict[int, Ending], claim: Claim | None) -> None:
        """Often too late: a run that has ended is picked as well."""
        self.exchange([(self.run(pick), ending) for pick, ending in ends.items()], claim)

    @has_run_something
    @rule(pick=picks)
    def settle_again(self, pick: int) -> None:
        run = self.run(pick)
        self.exchange([(run, run.ending or Ending())], None)

    @has_run_something
    @rule(some=several, lease=seconds)
    def renew(self, some: set[int], lease: int) -> None:
        runs, for_long = [self.run(pick) for pick in some], timedelta(seconds=lease)
        model = self.wait(self.model.renew([run.model.lease for run in runs], for_long))
        other = self.wait(self.other.renew([run.other.lease for run in runs], for_long))
        assert {self.leases[lost] for lost in other} == model

    @has_run_something
    @rule(some=several, worker=st.sampled_from(WORKERS), queue=st.sampled_from(QUEUES))
    def release_orphans(self, some: set[int], worker: str, queue: str) -> None:
        runs = [self.run(pick) for pick in some]
        self.both(
            lambda store: store.release_orphans(worker, queue, [run.model.lease for run in runs]),
            lambda store: store.release_orphans(worker, queue, [run.other.lease for run in runs]),
        )

    @rule(by=seconds, promote=st.booleans(), fold=st.booleans())
    def let_time_pass(self, by: int, promote: bool, fold: bool) -> None:
        self.clock.advance(timedelta(seconds=by))
        self.wait(self.rig.advance(timedelta(seconds=by)))
        if promote:
            self.both(lambda store: store.promote_due())
        if fold:
            self.both(fold_tallies)

    @rule(by=seconds, max_crashes=st.integers(1, 3), delay=delays, claim=st.none() | external_claims)
    def rescue(self, by: int, max_crashes: int, delay: timedelta, claim: ExternalClaim | None) -> None:
        if claim:
            self.claim(claim)
        self.let_time_pass(by, promote=False, fold=False)
        self.both(lambda store: store.rescue(RescueTerms(max_crashes, delay)), in_order=False)

    @rule(some=several)
    def cancel(self, some: set[int]) -> None:
        jobs = self.several(some)
        self.both(lambda store: store.cancel(jobs, STOPPED), in_order=False)

    @rule(some=several, cancel=st.booleans())
    def retry(self, some: set[int], cancel: bool) -> None:
        if cancel:
            self.cancel(some)
        jobs = self.several(some)
        self.both(lambda store: store.retry(jobs), in_order=False)

    @rule(some=several, cancel=st.booleans())
    def erase(self, some: set[int], cancel: bool) -> None:
        if cancel:
            self.cancel(some)
        jobs = self.several(some)
        self.both(lambda store: store.erase(jobs), in_order=False)

    @rule(status=st.sampled_from(JobStatus), some=several, retry=st.booleans())
    def prune(self, status: JobStatus, some: set[int], retry: bool) -> None:
        """Those of a state; some may be started afresh between the look and the removal."""
        retried = self.several(some) if retry else []

        async def pruned(store: JobStore) -> list[JobId]:
            stretch = await store.walk(Walk(timedelta(0), status), None, 1_000)
            await store.retry(retried)
            return await store.prune(stretch.jobs)

        self.both(pruned, in_order=False)

    @rule(pick=st.none() | picks, where=filters, limit=st.integers(1, 4), newest_first=st.booleans())
    def find(self, pick: int | None, where: JobFilter, limit: int, newest_first: bool) -> None:
        async def found(store: JobStore) -> tuple[list[Job], int]:
            job = None if pick is None else await store.get(self.job(pick))
            after = None if job is None else Place(job.created_at, job.seq)
            listing = Listing(where=where, limit=limit, after=after, newest_first=newest_first, with_result=True)
            return await store.find(listing), await store.count(where)

        self.both(found)

    @rule(
        beat=beats,
        forgotten=st.none() | st.sampled_from(PROCESSES),
        older_than=seconds,
        queue=st.sampled_from(QUEUES),
    )
    def beat(self, beat: WorkerBeat, forgotten: UUID | None, older_than: int, queue: str) -> None:
        self.both(lambda store: store.beat(beat))
        if forgotten is not None:
            self.both(lambda store: store.forget_worker(forgotten, timedelta(seconds=older_than)))
        self.both(lambda store: store.demand([queue], ALIVE_WITHIN))

    @invariant()
    def the_stores_hold_the_same_jobs(self) -> None:
        self.both(lambda store: store.find(Listing(limit=1_000)))

    @rule()
    def figures(self) -> None:
        self.both(lambda store: store.tallies(), in_order=False)
        self.both(lambda store: store.paces(), in_order=False)
        self.both(lambda store: store.durations(None))
        self.both(lambda store: store.oldest_due(None))
        self.both(lambda store: store.oldest_due(OWNERS[0]))

    @rule(pick=picks)
    def look(self, pick: int) -> None:
        job = self.job(pick)

        async def line(store: JobStore) -> int | None:
            seen = await store.get(job)
            return await store.ahead(seen) if seen.status is JobStatus.PENDING and seen.due else None

        self.both(line)
        self.both(lambda store: store.progress(job))
        self.look_at(job)

    @has_run_something
    @rule(pick=picks)
    def outcome(self, pick: int) -> None:
        run = self.run(pick)
        self.both(lambda store: store.run_end(run.model.lease), lambda store: store.run_end(run.other.lease))

    def teardown(self) -> None:
        self.both(lambda store: store.pulses(self.jobs))
        self.figures()
        for job in self.jobs:
            self.look_at(job)

    def look_at(self, job: JobId) -> None:
        """With its past, its input and its result, which a list leaves out."""
        self.both(lambda store: store.get(job))
        self.both(lambda store: store.changes(job, 0))
        self.both(lambda store: store.runs(job))

    def job(self, pick: int) -> JobId:
        """More often than not one that has run."""
        return self.run(pick).model.id if self.runs and pick < 4 else self.jobs[pick % len(self.jobs)]

    def several(self, some: set[int]) -> list[JobId]:
        return [self.job(pick) for pick in sorted(some)]

    def run(self, pick: int) -> Run:
        """Counted from the latest: that one is the most likely to be still running."""
        return self.runs[-1 - pick % len(self.runs)]

    def wait(self, answer: Coroutine[Any, Any, T]) -> T:
        # Not Runner.run: it handles SIGINT anew for each of some sixty thousand answers.
        return self.loop.run_until_complete(answer)

    def exchange(self, ends: Sequence[tuple[Run, Ending]], claim: Claim | None) -> list[Run]:
        ends = list(dict(ends).items())
        model = self.wait(self.model.exchange([ending.of(run.model) for run, ending in ends], claim))
        other = self.wait(self.other.exchange([ending.of(run.other) for run, ending in ends], claim))
        assert {self.leases[lost] for lost in other.lost} == model.lost
        assert not other.refused
        for run, ending in ends:
            if run.model.lease not in model.lost:
                run.ending = ending
        return self.started(model.claimed, other.claimed)

    def claim(self, claim: ExternalClaim) -> list[Run]:
        model, other = self.wait(self.model.claim(claim)), self.wait(self.other.claim(claim))
        started = self.started([job.leased() for job in model], [job.leased() for job in other])
        assert self.seen_by_the_model(other) == self.seen_by_the_model(model, native=True)
        return started

    def started(self, model: Sequence[LeasedJob], other: Sequence[LeasedJob]) -> list[Run]:
        started = [Run(*held) for held in zip(model, other, strict=True)]
        self.runs += started
        self.leases |= {run.other.lease: run.model.lease for run in started}
        assert [self.seen_by_the_model(run.other) for run in started] == [run.model for run in started]
        return started

    def report_on(self, run: Run, progress: Raw | None) -> None:
        self.both(
            lambda store: store.report(run.model.lease, progress), lambda store: store.report(run.other.lease, progress)
        )

    def both(self, ask: Ask, ask_other: Ask | None = None, *, in_order: bool = True) -> None:
        """The two give the same answer, or the same refusal."""
        answer = self.seen_by_the_model(self.answer(ask, self.model), native=True)
        other = self.seen_by_the_model(self.answer(ask_other or ask, self.other))
        if in_order:
            assert other == answer
        else:
            assert sorted(other, key=repr) == sorted(answer, key=repr)

    def answer(self, ask: Ask, store: JobStore) -> object:
        try:
            return self.wait(ask(store))
        except ServiceError as error:
            return type(error)

    def seen_by_the_model(self, answer: Any, *, native: bool = False) -> Any:
        """Without what the stores may number as they like: lists of jobs are ordered by it, and that is compared."""
        match answer:
            case Job():
                lease = answer.lease if native else self.leases[answer.lease]
                return replace(answer, seq=0, lease=lease, failure=as_stored(answer.failure))
            case StatusChange() | RunRecord():
                return replace(answer, failure=as_stored(answer.failure))
            case Added():
                return replace(answer, job=self.seen_by_the_model(answer.job, native=native))
            case LeasedJob():
                translated = self.leases[answer.lease]
                assert translated is not None
                assert translated.job_id == answer.id
                return replace(answer, lease=translated)
            case list() | tuple():
                return [self.seen_by_the_model(each, native=native) for each in answer]
            case _:
                return answer


async def fold_tallies(store: JobStore) -> None:
    """How much there was to fold is the store's own affair."""
    await store.fold_tallies()


def as_stored(failure: Failure | None) -> Failure | None:
    """What a provider asked for has become the time of the next run; a store need not keep it."""
    return failure and replace(failure, retry_after=None)


@pytest.mark.timeout(300)
def test_whatever_happens_a_store_holds_the_jobs_that_the_model_holds(open_rig: OpenRig):
    class ThisStore(TwoStores):
        def __init__(self) -> None:
            super().__init__(runner.get_loop(), rig)

    # One event loop for all examples: opening a store for each of them would take longer than the test.
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        rig = runner.run(opened.enter_async_context(open_rig()))
        try:
            run_state_machine_as_test(ThisStore, settings=SETTINGS)
        finally:
            runner.run(opened.aclose())
