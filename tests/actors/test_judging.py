"""What a failed run is judged by before it is stored: whether its model server still answers, and how long it took."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest

from actors.desk import Performed
from domain.circuit import Circuit, CircuitState
from domain.errors import ErrorCode, RunFailed, StorageUnavailable
from domain.job import CANCELLED_BY_CALLER, JobId, JobStatus, LeasedJob, RunOutcome
from domain.policy import Policies, TaskPolicy
from tests.actors.rig import RESULT, Shop, Stage, jobs, until
from tests.factories import PROFILE, QUEUE, new_job


async def nobody_there(job: LeasedJob) -> Performed:
    raise RunFailed(ErrorCode.PROVIDER_UNAVAILABLE, "Connection refused.")


async def never() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("a fault of ours")


def circuit(shop: Shop) -> Circuit:
    return shop.store.queues.state(QUEUE).circuit


def ends(shop: Shop) -> list[RunOutcome]:
    return [ended.outcome for ended in shop.store.settlements]


def test_a_run_that_found_its_server_down_goes_back_uncounted_and_opens_the_circuit() -> None:
    with Shop({"llm_chat": nobody_there}) as shop:
        shop.health.down = {PROFILE}
        (job,) = shop.submit(new_job())
        until(lambda: ends(shop))
        shop.wake(5)
        shop.idle()

        assert ends(shop) == [RunOutcome.GIVEN_BACK]
        assert (shop.job(job).status, shop.job(job).attempts, shop.job(job).due) == (JobStatus.PENDING, 0, True)
        assert circuit(shop).state is CircuitState.OPEN
        assert shop.health.asked == [PROFILE]


def test_a_run_whose_server_answers_pays_for_its_failure() -> None:
    with Shop({"llm_chat": nobody_there}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: shop.job(job).attempts)
        shop.idle()

        assert ends(shop) == [RunOutcome.FAILED]
        assert circuit(shop).missed == (job,)


def test_while_one_run_is_judged_the_others_go_on() -> None:
    with Shop({"llm_chat": nobody_there, "summary": Stage()}, slots=2) as shop:
        shop.health.meanwhile = never
        shop.submit(new_job())
        until(lambda: shop.health.asked)
        others = shop.submit(*jobs(20, task_type="summary"))
        shop.done(*others)
        assert shop.desk().running == 1

        (waits,) = shop.desk().jobs
        shop.on_loop(shop.store.cancel([waits.id], CANCELLED_BY_CALLER))
        shop.renew()
        shop.idle()


def test_a_run_that_loses_its_job_while_it_is_judged_ends_as_any_other() -> None:
    with Shop({"llm_chat": nobody_there}) as shop:
        shop.health.meanwhile = never
        (job,) = shop.submit(new_job())
        until(lambda: shop.health.asked)
        shop.bus.publish(shop.on_loop(shop.store.cancel([job], CANCELLED_BY_CALLER)))
        shop.idle()

        assert shop.runtime.status().outcomes == {"lost": 1}
        assert ends(shop) == [RunOutcome.RELEASED]


def test_a_run_that_is_judged_at_the_end_of_its_worker_goes_back_unharmed() -> None:
    with Shop({"llm_chat": nobody_there}, grace=0.1) as shop:
        shop.health.meanwhile = never
        (job,) = shop.submit(new_job())
        until(lambda: shop.health.asked)
        shop.stop()

        assert (shop.job(job).status, shop.job(job).attempts) == (JobStatus.PENDING, 0)
        assert shop.leaked == []


def test_a_question_that_fails_judges_nobody() -> None:
    with Shop({"llm_chat": nobody_there}) as shop:
        shop.health.meanwhile = broken
        (job,) = shop.submit(new_job())
        until(lambda: shop.job(job).attempts)
        shop.idle()

        assert ends(shop) == [RunOutcome.FAILED]


def test_a_guard_that_cannot_be_reached_delays_the_settlement_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> NoReturn:
        raise StorageUnavailable

    with Shop({"llm_chat": nobody_there}) as shop:
        with monkeypatch.context() as cut_off:
            cut_off.setattr(shop.store.queues, "change_circuit", away)
            (job,) = shop.submit(new_job())
            until(lambda: shop.store.released, "a second try")
            assert ends(shop) == []
        until(lambda: shop.job(job).attempts)
        shop.idle()

        assert circuit(shop).missed == (job,)


class Slow:
    """Takes an hour, and notes whose call was closed."""

    def __init__(self) -> None:
        self.started: list[JobId] = []
        self.closed: list[JobId] = []

    async def __call__(self, job: LeasedJob) -> Performed:
        self.started.append(job.id)
        try:
            await asyncio.sleep(3600)
        finally:
            self.closed.append(job.id)
        return Performed(RESULT)


def allowing(limit: timedelta, task_type: str = "llm_chat") -> Policies:
    return Policies(task_types={task_type: TaskPolicy(max_run_time=limit)})


def test_a_run_that_takes_too_long_ends_with_timeout_and_its_call_is_closed() -> None:
    slow = Slow()
    with Shop({"llm_chat": slow}) as shop:
        shop.policies = allowing(timedelta(milliseconds=50))
        (job,) = shop.submit(new_job(max_attempts=1))
        shop.done(job)
        shop.idle()
        failure = shop.job(job).failure

    assert failure
    assert failure.code is ErrorCode.TIMEOUT
    assert failure.message == "The run took longer than the 0.05 s that task_types.llm_chat.max_run_time allows."
    assert slow.closed == [job]


def test_the_limit_of_one_task_type_is_not_that_of_another_and_a_new_one_holds_for_the_next_run() -> None:
    slow = Slow()
    with Shop({"llm_chat": slow}) as shop:
        shop.policies = allowing(timedelta(milliseconds=50), "summary")
        (first,) = shop.submit(new_job(max_attempts=1))
        until(lambda: slow.started)
        shop.policies = allowing(timedelta(milliseconds=50))
        shop.bus.publish(shop.on_loop(shop.store.cancel([first], CANCELLED_BY_CALLER)))
        (second,) = shop.submit(new_job(max_attempts=1))
        shop.done(second)
        shop.idle()

        assert shop.runtime.status().outcomes == {"lost": 1, "failed": 1}


def test_a_run_that_is_stopped_before_its_time_is_up_has_not_timed_out(held: Stage) -> None:
    with Shop({"llm_chat": held}, grace=0.05) as shop:
        shop.policies = allowing(timedelta(hours=1))
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.stop()

        assert (shop.job(job).status, shop.job(job).attempts) == (JobStatus.PENDING, 0)


@pytest.mark.parametrize("error", [TimeoutError("the server's own"), RunFailed(ErrorCode.BAD_RESPONSE, "nonsense")])
def test_a_run_that_fails_in_time_keeps_its_failure(error: Exception) -> None:
    async def fails(job: LeasedJob) -> Performed:
        raise error

    with Shop({"llm_chat": fails}) as shop:
        shop.policies = allowing(timedelta(hours=1))
        (job,) = shop.submit(new_job(max_attempts=1))
        shop.done(job)
        shop.idle()
        failure = shop.job(job).failure

    assert failure
    assert "max_run_time" not in failure.message


def test_a_run_whose_end_fails_when_its_time_is_up_has_timed_out_all_the_same() -> None:
    async def breaks(job: LeasedJob) -> Performed:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise RunFailed(ErrorCode.PROVIDER_ERROR, "The connection broke.") from None
        return Performed(RESULT)

    with Shop({"llm_chat": breaks}) as shop:
        shop.policies = allowing(timedelta(milliseconds=50))
        (job,) = shop.submit(new_job(max_attempts=1))
        shop.done(job)
        shop.idle()
        failure = shop.job(job).failure

    assert failure
    assert failure.code is ErrorCode.TIMEOUT


@pytest.mark.parametrize(("held_queues", "paused"), [((), False), ((QUEUE,), False), ((QUEUE, "gpu.stt"), True)])
def test_a_worker_is_paused_when_all_its_queues_are_held(
    stage: Stage, held_queues: tuple[str, ...], paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.heartbeat.INTERVAL", 0.01)
    with Shop({"llm_chat": stage}, queues=(QUEUE, "gpu.stt")) as shop:
        shop.on_loop(shop.store.queues.hold(held_queues, paused=True))
        held_since = datetime.now(UTC)
        until(lambda: (shop.runtime.status().last_beat_at or held_since) > held_since, "a beat")
        last = shop.runtime.status().last_beat_at
        until(lambda: shop.runtime.status().last_beat_at != last, "a beat that began after it")

        assert shop.runtime.status().paused == paused
