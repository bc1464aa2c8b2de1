"""How a worker ends: runs end or are handed back, nobody waits for ever, nothing is left behind."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

import pytest
from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import MiddlewareError

from actors.desk import Performed
from domain.job import JobStatus, LeasedJob
from tests.actors.rig import RESULT, Shop, Stage, jobs, until
from tests.factories import new_job


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are 0.2 s, and not 5 s, for what has to be stored after the grace period."""
    monkeypatch.setattr("actors.runtime.STORING_TIME", 0.2)
    monkeypatch.setattr("actors.runtime.PARTING_TIME", 0.2)


def test_what_runs_may_end_within_the_grace_period_and_nothing_else_starts(held: Stage) -> None:
    class Ends(Middleware):
        def before_worker_shutdown(self, broker: Broker, worker: object) -> None:
            held.let_go(running, waiting)

    with Shop({"llm_chat": held}, observers=[Ends()]) as shop:
        running, waiting = shop.submit(*jobs(2))
        until(lambda: held.started)
        shop.stop()

        assert held.ended == [running]
        assert shop.job(running).status is JobStatus.COMPLETED
        assert shop.job(waiting).status is JobStatus.PENDING
        assert shop.leaked == []
        assert shop.closed


def test_what_outlasts_the_grace_period_is_stopped_and_handed_back_uncounted(held: Stage, quick: None) -> None:
    with Shop({"llm_chat": held}, slots=3, grace=0.1) as shop:
        ids = shop.submit(*jobs(5))
        until(lambda: len(held.started) == 3)
        shop.stop()

        assert len(held.stopped) == 3
        assert shop.count(JobStatus.PENDING) == 5
        assert [shop.job(job).attempts for job in ids] == [0] * 5
        assert shop.runtime.status().outcomes == {"released": 3}
        assert shop.leaked == []


def test_a_claimed_job_that_no_thread_took_up_is_handed_back(held: Stage, quick: None) -> None:
    with Shop({"llm_chat": held}, grace=0.1) as shop:
        (running,) = shop.submit(new_job())
        until(lambda: held.started)
        (claimed,) = shop.add(new_job())
        shop.desk()._free += 1  # as if a slot had no thread of its own
        assert shop.runtime._loop
        shop.runtime._loop.call_soon_threadsafe(shop.desk().look)
        until(lambda: shop.job(claimed).status is JobStatus.RUNNING)
        shop.stop()

        assert held.started == [running]
        assert shop.count(JobStatus.PENDING) == 2
        assert shop.leaked == []


def test_a_job_whose_thread_is_slow_does_not_start_after_the_desk_has_closed(stage: Stage) -> None:
    class Closes(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.args:
                shop.runtime.close()

    with Shop({"llm_chat": stage}, observers=[Closes()], grace=0) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: shop.runtime.status().outcomes)
        shop.stop()

        assert stage.started == []
        assert shop.job(job).status is JobStatus.PENDING


def test_a_claim_in_flight_at_the_end_is_handed_back(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        gate = shop.store.gate = asyncio.Event()
        before = len(shop.store.exchanges)
        (job,) = shop.submit(new_job())
        until(lambda: len(shop.store.exchanges) > before)
        shop.runtime.close()
        assert shop.runtime._loop
        shop.store.gate = None
        shop.runtime._loop.call_soon_threadsafe(gate.set)
        shop.stop()

        assert stage.started == []
        assert shop.job(job).status is JobStatus.PENDING
        assert shop.leaked == []


def test_an_idle_worker_ends_at_once_though_the_storage_is_away(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=2) as shop:
        shop.store.away = True
        before = len(shop.store.exchanges)
        shop.wake(4)
        until(lambda: len(shop.store.exchanges) > before)
        began = time.monotonic()
        shop.stop()

        assert time.monotonic() - began < 5
        assert shop.leaked == []


def test_a_worker_ends_though_the_storage_stays_away(held: Stage, quick: None) -> None:
    with Shop({"llm_chat": held}, slots=3, grace=0.3) as shop:
        first, second, third = shop.submit(*jobs(3))
        until(lambda: len(held.started) == 3)
        shop.store.away = True
        before = len(shop.store.exchanges)
        held.let_go(first)
        until(lambda: len(shop.store.exchanges) > before)  # the batch in flight
        held.let_go(second)
        until(lambda: shop.desk()._ended, "a run that ends behind it")
        began = time.monotonic()
        shop.stop()  # and the third is stopped at the end of the grace period

        assert time.monotonic() - began < 5
        assert held.stopped == [third]
        assert shop.leaked == []


def test_what_is_handed_back_after_everything_was_abandoned_holds_nothing_up(held: Stage, quick: None) -> None:
    with Shop({"llm_chat": held}, grace=0.1) as shop:
        shop.submit(new_job())
        until(lambda: held.started)
        (claimed,) = shop.add(new_job())
        shop.desk()._free += 1
        assert shop.runtime._loop
        shop.runtime._loop.call_soon_threadsafe(shop.desk().look)
        until(lambda: shop.job(claimed).status is JobStatus.RUNNING)
        shop.store.away = True
        shop.stop()

        assert shop.leaked == []


def test_a_storage_that_never_answers_holds_nothing_up(held: Stage, quick: None) -> None:
    with Shop({"llm_chat": held}, slots=2, grace=0.1) as shop:
        first, _second = shop.submit(*jobs(2))
        until(lambda: len(held.started) == 2)
        shop.store.deaf = True
        held.let_go(first)
        shop.stop()

        assert shop.leaked == []


def test_a_run_that_does_not_heed_its_stop_holds_nothing_up(quick: None) -> None:
    ends = asyncio.Event()
    deaf: list[bool] = []

    async def perform(job: LeasedJob) -> Performed:
        while not ends.is_set():
            try:
                deaf.append(True)
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return Performed(RESULT)

    with Shop({"llm_chat": perform}, grace=0.1) as shop:
        shop.submit(new_job())
        until(lambda: deaf)
        task = next(iter(shop.desk()._performing.values())).task
        loop = shop.runtime._loop
        assert loop
        loop.call_soon_threadsafe(loop.call_later, 0.4, ends.set)
        shop.stop()

        assert shop.leaked == []
        assert not shop.desk()._held
        del task


def test_kept_tickets_do_not_hold_up_the_end(held: Stage, quick: None) -> None:
    with Shop({"llm_chat": held}, threads=3, grace=0.1) as shop:
        shop.worker.consumers["gpu.llm"].consumer.prefetch_semaphore.release()  # type: ignore[union-attr]
        shop.submit(*jobs(2))
        until(lambda: shop.desk()._kept)
        shop.stop()

        assert shop.count(JobStatus.PENDING) == 2
        assert shop.leaked == []


def test_what_an_unanswered_claim_may_hold_is_released_at_the_end(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        (job,) = shop.add(new_job())
        gate = shop.store.gate = asyncio.Event()
        shop.store.loses_answer = True
        shop.wake()
        until(lambda: shop.job(job).status is JobStatus.RUNNING)
        shop.runtime.close()
        assert shop.runtime._loop
        shop.runtime._loop.call_soon_threadsafe(gate.set)
        shop.stop()

        assert shop.job(job).status is JobStatus.PENDING
        assert stage.started == []


def test_a_worker_without_its_parts_does_not_start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> NoReturn:
        raise RuntimeError("no parts")

    shop = Shop({"llm_chat": stage})
    monkeypatch.setattr(shop.runtime, "_open_parts", broken)
    with pytest.raises(MiddlewareError):
        shop.worker.start()

    assert shop.leaked == []
    assert shop.worker.workers == []
