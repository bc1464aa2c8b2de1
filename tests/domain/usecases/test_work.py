from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replaced
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.adaptive import Pressure
from domain.circuit import Circuit, CircuitState, Sign
from domain.errors import ErrorCode, Failure, StorageUnavailable
from domain.events import JobEvent
from domain.job import JobStatus, LeasedJob, RunOutcome, Settlement
from domain.ports import Claim, Exchange
from domain.results import ProviderAttempt
from domain.telemetry import Listener
from domain.usecases.work import Work
from tests.domain.usecases.conftest import FAST, SLOW
from tests.factories import LEASE, PROFILE, QUEUE, leased_job, new_claim
from tests.fakes import FakeClock, FakeHealth, FakeQueues, FragileStore, RecordingEvents
from tests.moves import cancel, one, several, statuses

UNSTORABLE = b'"unstorable"'
NOBODY_THERE = Failure(ErrorCode.PROVIDER_UNAVAILABLE, "Connection refused.")
WRONG_KEY = Failure(ErrorCode.AUTH_ERROR, "No such key.")


def attempt(code: ErrorCode) -> ProviderAttempt:
    return ProviderAttempt(provider="vllm", error_code=code)


async def half_open(queues: FakeQueues) -> None:
    await queues.change_circuit(QUEUE, lambda _circuit, _now: Circuit(state=CircuitState.HALF_OPEN))


async def take(work: Work, jobs: int) -> tuple[LeasedJob, ...]:
    await several(work.jobs, jobs)
    return (await work.exchange([], new_claim(limit=jobs))).claimed


def test_a_completed_run_asks_to_store_its_result(work: Work):
    job = leased_job()
    ended = work.completed(job, b"{}")
    assert (ended.job, ended.settlement) == (job, job.complete(b"{}"))


def test_a_failed_run_asks_for_what_the_retry_table_says(work: Work):
    ended = work.failed(leased_job(), Failure(ErrorCode.TIMEOUT))
    assert (ended.settlement.outcome, ended.settlement.delay) == (RunOutcome.FAILED, FAST)


def test_a_run_given_back_waits_with_the_jitter_it_was_dealt(work: Work):
    ended = work.failed(leased_job(), Failure(ErrorCode.RATE_LIMITED))
    assert (ended.settlement.outcome, ended.settlement.delay) == (RunOutcome.GIVEN_BACK, timedelta(seconds=0.5))


def test_a_released_run_asks_to_count_nothing(work: Work):
    job = leased_job()
    assert work.released(job).settlement == job.release()


async def test_runs_are_ended_and_new_ones_taken_in_one_go(work: Work):
    [first] = await take(work, 1)
    second = await one(work.jobs)
    outcome = await work.exchange([work.completed(first, b"{}")], new_claim())
    assert [job.id for job in outcome.claimed] == [second.id]
    assert (await work.jobs.get(first.id)).status is JobStatus.COMPLETED


class TestJudging:
    async def test_a_job_whose_server_is_down_goes_back_uncounted_and_at_once(self, work: Work, health: FakeHealth):
        health.down = {PROFILE}
        ended = await work.judged(leased_job(), NOBODY_THERE)
        assert (ended.settlement.outcome, ended.settlement.delay) == (RunOutcome.GIVEN_BACK, timedelta(0))
        assert (ended.sign, ended.settlement.failure) == (Sign.DOWN, NOBODY_THERE)

    async def test_a_job_whose_server_is_well_pays_for_its_failure(self, work: Work, health: FakeHealth):
        ended = await work.judged(leased_job(), NOBODY_THERE)
        assert (ended.settlement.outcome, ended.settlement.delay, ended.sign) == (RunOutcome.FAILED, FAST, Sign.MISSED)
        assert health.asked == [PROFILE]

    async def test_a_job_given_back_too_often_pays_though_its_server_is_down(self, work: Work, health: FakeHealth):
        health.down = {PROFILE}
        ended = await work.judged(leased_job(give_backs=10), NOBODY_THERE)
        assert (ended.settlement.outcome, ended.settlement.delay, ended.sign) == (RunOutcome.FAILED, SLOW, Sign.DOWN)

    @pytest.mark.parametrize("code", [code for code in ErrorCode if code is not ErrorCode.PROVIDER_UNAVAILABLE])
    async def test_nobody_is_asked_where_somebody_was_there(self, work: Work, health: FakeHealth, code: ErrorCode):
        job = leased_job()
        assert await work.judged(job, Failure(code)) == work.failed(job, Failure(code))
        assert health.asked == []

    async def test_a_failure_that_an_external_worker_tells_is_judged_without_asking_for_health(
        self, work: Work, health: FakeHealth
    ):
        ended = await work.reported(leased_job(), NOBODY_THERE)
        assert (ended.settlement.outcome, ended.sign, health.asked) == (RunOutcome.FAILED, Sign.MISSED, [])

    async def test_what_a_server_turns_away_while_it_is_at_work_costs_the_job_an_attempt_and_tells_nothing(
        self, work: Work, health: FakeHealth
    ):
        health.loads = {PROFILE: Pressure(running=8, waiting=4)}
        for ended in (await work.judged(leased_job(), NOBODY_THERE), await work.reported(leased_job(), NOBODY_THERE)):
            assert (ended.settlement.outcome, ended.sign) == (RunOutcome.FAILED, Sign.NONE)

    @pytest.mark.parametrize("failure", [NOBODY_THERE, WRONG_KEY])
    async def test_where_a_fallback_did_its_work_its_queue_goes_on_with_that_one(
        self, work: Work, health: FakeHealth, failure: Failure
    ):
        health.down, job = {PROFILE}, leased_job()
        attempts = (attempt(failure.code), attempt(ErrorCode.TRANSCRIPT_HALLUCINATION))
        ended = await work.judged(job, failure, attempts)
        assert ended == replace(work.failed(job, failure), sign=Sign.ANSWERED).after(attempts)

    async def test_where_no_fallback_is_there_either_the_outage_is_one(self, work: Work, health: FakeHealth):
        health.down = {PROFILE}
        attempts = (attempt(NOBODY_THERE.code), attempt(ErrorCode.TIMEOUT))
        ended = await work.judged(leased_job(), NOBODY_THERE, attempts)
        assert (ended.settlement.outcome, ended.sign) == (RunOutcome.GIVEN_BACK, Sign.DOWN)
        assert ended.settlement.attempts == attempts

    @pytest.mark.parametrize(
        ("code", "sign"), [(ErrorCode.AUTH_ERROR, Sign.REFUSED), (ErrorCode.BAD_INPUT, Sign.ANSWERED)]
    )
    def test_every_failure_shows_something_or_nothing(self, work: Work, code: ErrorCode, sign: Sign):
        assert work.failed(leased_job(), Failure(code)).sign is sign

    def test_so_do_the_other_ends(self, work: Work):
        job = leased_job()
        assert (work.completed(job, b"{}").sign, work.released(job).sign) == (Sign.ANSWERED, Sign.NONE)


class TestGuard:
    """What runs show of model servers is told before their ends are stored."""

    async def test_a_job_that_is_given_back_finds_its_circuit_open(
        self, work: Work, health: FakeHealth, queues: FakeQueues, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        health.down = {PROFILE}
        [held] = await take(work, 1)
        opened_first: list[bool] = []
        exchange = store.exchange

        async def looks(*given: Any) -> Exchange:
            opened_first.append(queues.circuit(QUEUE).state is CircuitState.OPEN)
            return await exchange(*given)

        monkeypatch.setattr(store, "exchange", looks)
        await work.exchange([await work.judged(held, NOBODY_THERE)], None)
        assert opened_first == [True]
        circuit = queues.circuit(QUEUE)
        assert (circuit.reason, circuit.model_profile, circuit.failed_job) == (NOBODY_THERE.code, PROFILE, held.id)

    async def test_each_queue_is_told_once_of_all_its_runs(self, work: Work, queues: FakeQueues):
        here, there = leased_job(), leased_job(queue="gpu.speech")
        ended = [work.failed(job, NOBODY_THERE) for job in (here, there, leased_job(), leased_job(queue=None))]
        await work.exchange(ended, None)
        assert queues.changes == 2
        assert [len(queues.circuit(queue).missed) for queue in (QUEUE, "gpu.speech")] == [2, 1]

    async def test_ordinary_ends_are_not_told(self, work: Work, queues: FakeQueues):
        job = leased_job()
        ends = [work.completed(job, b"{}"), work.released(job), work.failed(job, Failure(ErrorCode.BAD_INPUT))]
        await work.exchange(ends, None)
        assert queues.changes == 0

    async def test_how_a_trial_ends_is_always_told(self, work: Work, queues: FakeQueues):
        await half_open(queues)
        await work.exchange([work.completed(leased_job(trial=True), b"{}")], None)
        assert queues.circuit(QUEUE) == Circuit()

    async def test_a_trial_that_came_to_nothing_opens_the_circuit_again(self, work: Work, queues: FakeQueues):
        await half_open(queues)
        await work.exchange([work.released(leased_job(trial=True))], None)
        assert queues.circuit(QUEUE).state is CircuitState.OPEN

    async def test_while_queues_cannot_be_reached_nothing_is_stored(
        self, work: Work, queues: FakeQueues, store: FragileStore
    ):
        async def away() -> None:
            raise StorageUnavailable

        [held] = await take(work, 1)
        await queues.change_circuit(QUEUE, lambda circuit, now: replace(circuit, missed_at=now))
        queues.meanwhile = away
        with pytest.raises(StorageUnavailable):
            await work.exchange([work.failed(held, WRONG_KEY)], None)
        assert await statuses(store, [held.id]) == {held.id: JobStatus.RUNNING}


class TestRefusedResult:
    async def test_it_fails_its_own_run_and_no_other(self, work: Work, store: FragileStore):
        store.refuses = [UNSTORABLE]
        poisoned, neighbour = await take(work, 2)
        outcome = await work.exchange([work.completed(poisoned, UNSTORABLE), work.completed(neighbour, b"{}")], None)
        job = await store.get(poisoned.id)
        assert job.failure == Failure(ErrorCode.INTERNAL_ERROR, "The result cannot be stored: not storable")
        assert (job.status, job.attempts, job.run_at - job.updated_at) == (JobStatus.PENDING, 1, SLOW)
        assert (await store.get(neighbour.id)).status is JobStatus.COMPLETED
        assert (outcome.refused, outcome.lost) == ({}, frozenset())

    async def test_it_costs_no_claim_of_the_same_exchange(self, work: Work, store: FragileStore):
        store.refuses = [UNSTORABLE]
        [poisoned] = await take(work, 1)
        waiting = await one(store)
        outcome = await work.exchange([work.completed(poisoned, UNSTORABLE)], new_claim(limit=5))
        assert [job.id for job in outcome.claimed] == [waiting.id]

    async def test_every_run_that_no_longer_held_its_job_is_reported(self, work: Work, store: FragileStore):
        store.refuses = [UNSTORABLE]
        cancelled, poisoned = await take(work, 2)
        await cancel(store, cancelled.id, poisoned.id)
        ended = [work.completed(cancelled, b"{}"), work.completed(poisoned, UNSTORABLE)]
        assert (await work.exchange(ended, None)).lost == {cancelled.lease, poisoned.lease}


class TestEvents:
    async def test_the_start_of_every_run_is_told(self, work: Work, store: FragileStore, events: RecordingEvents):
        first, second = await take(work, 2)
        assert events.published == [
            JobEvent(job.id, "beeline", "llm_chat", QUEUE, "running", 2) for job in (first, second)
        ]

    async def test_every_end_is_told_as_what_its_job_came_to_and_before_the_next_start(
        self, work: Work, events: RecordingEvents
    ):
        completed, failed, again, released = await take(work, 4)
        events.published.clear()
        outcome = await work.exchange(
            [
                work.completed(completed, b"{}"),
                work.failed(failed, Failure(ErrorCode.BAD_INPUT)),
                work.failed(again, Failure(ErrorCode.TIMEOUT)),
                work.released(released),
            ],
            new_claim(),
        )
        assert [job.id for job in outcome.claimed] == [released.id]
        assert [(event.job_id, event.kind, event.number) for event in events.published] == [
            (completed.id, "completed", 3),
            (failed.id, "failed", 3),
            (again.id, "pending", 3),
            (released.id, "pending", 3),
            (released.id, "running", 4),
        ]

    async def test_the_numbers_are_those_of_the_jobs_history(
        self, work: Work, store: FragileStore, events: RecordingEvents
    ):
        [held] = await take(work, 1)
        [again] = (await work.exchange([work.released(held)], new_claim())).claimed
        await work.exchange([work.completed(again, b"{}")], None)
        told = [(event.number, event.kind) for event in events.published]
        assert told == [(change.number, change.status) for change in await store.changes(held.id, 1)]

    async def test_what_was_lost_is_no_news(self, work: Work, store: FragileStore, events: RecordingEvents):
        [held] = await take(work, 1)
        await cancel(store, held.id)
        events.published.clear()
        await work.exchange([work.completed(held, b"{}")], None)
        assert events.published == []

    async def test_a_refused_result_is_told_as_the_failure_that_it_became(
        self, work: Work, store: FragileStore, events: RecordingEvents
    ):
        store.refuses = [UNSTORABLE]
        poisoned, gone = await take(work, 2)
        await cancel(store, gone.id)
        events.published.clear()
        await work.exchange([work.completed(poisoned, UNSTORABLE), work.completed(gone, UNSTORABLE)], None)
        assert [(event.job_id, event.kind, event.number) for event in events.published] == [(poisoned.id, "pending", 3)]


class Heard(Listener):
    """Keeps what it is told of runs."""

    def __init__(self) -> None:
        self.settled: list[tuple[LeasedJob, Settlement]] = []
        self.lost: list[LeasedJob] = []
        self.claimed: list[LeasedJob] = []

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        self.settled += settled
        self.lost += lost
        self.claimed += claimed


class RefusesAll(FragileStore):
    """Not even a failure can be stored."""

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        return Exchange(refused={ended.lease: "not storable" for ended in settlements})


class TestTelemetry:
    """Of every run that began an end is told, or what keeps it until then would keep it for ever."""

    @pytest.fixture
    def heard(self) -> Heard:
        return Heard()

    @pytest.fixture
    def work(self, work: Work, heard: Heard) -> Work:
        return replaced(work, telemetry=heard)

    async def test_it_hears_of_starts_and_of_ends_as_they_are_stored(
        self, work: Work, store: FragileStore, heard: Heard
    ):
        store.refuses = [UNSTORABLE]
        completed, poisoned = await take(work, 2)
        end = work.completed(completed, b"{}")
        await work.exchange([end, work.completed(poisoned, UNSTORABLE)], None)
        assert heard.claimed == [completed, poisoned]
        assert [(job, settlement.status) for job, settlement in heard.settled] == [
            (completed, JobStatus.COMPLETED),
            (poisoned, JobStatus.PENDING),
        ]
        assert heard.lost == []

    async def test_a_run_that_lost_its_job_has_an_end_of_its_own(self, work: Work, store: FragileStore, heard: Heard):
        [held] = await take(work, 1)
        await cancel(store, held.id)
        await work.exchange([work.completed(held, b"{}")], None)
        assert (heard.settled, heard.lost) == ([], [held])

    async def test_so_has_one_of_which_nothing_can_be_stored(self, work: Work, clock: FakeClock, heard: Heard):
        held = leased_job()
        await replaced(work, jobs=RefusesAll(clock.now)).exchange([work.completed(held, b"{}")], None)
        assert (heard.settled, heard.lost) == ([], [held])


async def test_jobs_are_kept_for_as_long_as_a_lease_of_this_worker_lasts(
    work: Work, store: FragileStore, clock: FakeClock
):
    kept, cancelled = await take(work, 2)
    await cancel(store, cancelled.id)
    clock.advance(LEASE / 2)
    assert await work.renew([kept.lease, cancelled.lease]) == {cancelled.lease}
    assert (await store.get(kept.id)).lease_expires_at == clock.now() + LEASE


async def test_what_this_worker_never_heard_of_goes_back(work: Work):
    known, orphan = await take(work, 2)
    assert await work.release_orphans("worker-1", QUEUE, [known.lease]) == 1
    assert (await work.jobs.get(orphan.id)).status is JobStatus.PENDING


async def test_a_claim_goes_to_the_store_as_it_is(work: Work):
    claim = Claim("gpu.llm", ("llm_chat",), (PROFILE,), f"worker-{uuid4()}", LEASE, 1)
    job = await one(work.jobs)
    [held] = (await work.exchange([], claim)).claimed
    assert (held.id, (await work.jobs.get(job.id)).worker_id) == (job.id, claim.worker_id)


@pytest.mark.parametrize("claim", [None, new_claim()])
async def test_nothing_to_do_is_no_news(work: Work, events: RecordingEvents, claim: Claim | None):
    await work.exchange([], claim)
    assert events.published == []
