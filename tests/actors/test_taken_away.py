"""A job is taken from its run: the run hears of it at once, its call is closed, and only then is its slot free."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from dramatiq import Broker, MessageProxy, Middleware

from actors.desk import Performed
from domain.events import REVOKED
from domain.job import CANCELLED_BY_CALLER, JobId, JobStatus, LeasedJob, RunOutcome
from tests.actors.rig import RESULT, Shop, Stage, jobs, until
from tests.factories import job_event, new_job


@pytest.fixture(autouse=True)
def no_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """But those that a test asks for: nothing else makes up for an event that was not heard."""
    monkeypatch.setattr("actors.runtime.RENEWAL_INTERVAL", 3600.0)


def cancel(shop: Shop, *job_ids: JobId) -> None:
    """As the API does: the row first, then the event."""
    shop.bus.publish(shop.on_loop(shop.store.cancel(job_ids, CANCELLED_BY_CALLER)))


def outcomes(shop: Shop) -> dict[str, int]:
    return shop.runtime.status().outcomes


def test_a_cancelled_run_is_stopped_by_the_event_and_its_slot_takes_the_next_job(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        cancelled, following = shop.submit(*jobs(2))
        until(lambda: held.started)
        cancel(shop, cancelled)
        until(lambda: len(held.started) == 2, "the next start")
        held.let_go(following)
        shop.done(following)
        shop.idle()

        assert (held.stopped, held.ended) == ([cancelled], [following])
        assert outcomes(shop) == {"lost": 1, "completed": 1}


def test_a_job_that_is_started_afresh_loses_its_run_by_the_event(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        [retried] = shop.on_loop(shop.store.retry([job]))
        shop.bus.publish([job_event(job_id=job, kind=REVOKED, number=retried.number)])
        until(lambda: len(held.started) == 2, "its second run")
        held.let_go(job)
        shop.done(job)

        assert held.stopped == [job]


def test_a_hint_that_is_not_true_stops_nothing(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.bus.publish([job_event(job_id=job, kind="cancelled")])
        until(lambda: shop.store.renewals, "a look")
        held.let_go(job)
        shop.done(job)

        assert (held.stopped, held.ended) == ([], [job])


def test_hints_of_jobs_that_are_not_held_here_cost_no_look(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=2) as shop:
        mine, other = shop.submit(*jobs(2))
        until(lambda: len(held.started) == 2)
        shop.bus.publish([job_event(kind="cancelled") for _ in range(100)])
        shop.bus.publish([job_event(job_id=mine, kind="running"), job_event(job_id=mine, kind="completed")])
        cancel(shop, other)
        until(lambda: held.stopped)

        assert [[lease.job_id for lease in leases] for leases in shop.store.renewals] == [[other]]


def test_many_hints_are_one_look_and_those_that_come_meanwhile_one_more(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=5) as shop:
        first, *others = shop.submit(*jobs(5))
        until(lambda: len(held.started) == 5)
        answered = shop.store.renewing = asyncio.Event()
        cancel(shop, first)
        until(lambda: shop.store.renewals, "the first look")
        for other in others:
            cancel(shop, other)
            cancel(shop, first)
        shop.set(answered)
        until(lambda: len(held.stopped) == 5, "all ends")

        assert [len(leases) for leases in shop.store.renewals] == [1, 4]


def test_a_hint_that_overtakes_the_answer_of_its_jobs_claim_is_not_lost(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=2) as shop:
        gate = shop.store.gate = asyncio.Event()
        (job,) = shop.submit(new_job())
        until(lambda: shop.job(job).status is JobStatus.RUNNING)  # its worker does not know yet
        cancel(shop, job)
        until(lambda: shop.desk()._hinted)
        shop.store.gate = None
        shop.set(gate)
        until(lambda: outcomes(shop).get("lost"), "the end of the run")
        shop.idle()

        assert held.ended == []


def test_a_look_that_fails_is_made_up_for_by_the_next_beat(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.store.away = True
        before = shop.store.refusals
        cancel(shop, job)
        until(lambda: shop.store.refusals > before, "a look in vain")
        assert held.stopped == []
        shop.store.away = False
        shop.renew()
        until(lambda: held.stopped)


def test_what_is_heard_after_the_end_is_nobodys_concern(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        shop.stop()
        shop.bus.publish([job_event(kind="cancelled")])

        assert shop.leaked == []


def test_a_slot_is_not_free_before_the_call_of_its_lost_run_is_closed(held: Stage) -> None:
    closing = held.closing = asyncio.Event()
    with Shop({"llm_chat": held}) as shop:
        lost, following = shop.submit(*jobs(2))
        until(lambda: held.started)
        before = len(shop.store.exchanges)
        cancel(shop, lost)
        until(lambda: held.stopped)
        shop.renew()
        shop.renew()

        assert held.started == [lost]
        assert [lease.job_id for lease in shop.store.renewals[-1]] == [lost]  # which keeps its slot in the store alive
        assert shop.desk().running == 1
        assert len(shop.store.exchanges) == before
        shop.set(closing)
        until(lambda: len(held.started) == 2, "the next start")
        # One statement frees the slot and takes the next job.
        assert shop.store.exchanges[before] == (1, 1)
        assert [(ended.lease.job_id, ended.outcome) for ended in shop.store.settlements] == [
            (lost, RunOutcome.RELEASED)
        ]
        held.let_go(following)
        shop.done(following)
        shop.idle()
        assert shop.job(lost).status is JobStatus.CANCELLED


def test_a_run_that_is_being_stopped_is_not_stopped_again(held: Stage) -> None:
    closing = held.closing = asyncio.Event()
    with Shop({"llm_chat": held}) as shop:
        (lost,) = shop.submit(new_job())
        until(lambda: held.started)
        cancel(shop, lost)
        until(lambda: held.stopped)
        for _ in range(3):
            shop.renew()
            cancel(shop, lost)
        assert shop.desk().running == 1
        shop.set(closing)
        shop.idle()


def test_a_lost_run_that_returns_all_the_same_stores_nothing_and_frees_its_slot(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.on_loop(shop.store.cancel([job], CANCELLED_BY_CALLER))
        held.let_go(job)
        shop.idle()

        assert [ended.outcome for ended in shop.store.settlements] == [RunOutcome.COMPLETED]  # which changed nothing
        assert shop.job(job).status is JobStatus.CANCELLED
        assert outcomes(shop) == {"lost": 1}


def test_a_lost_run_that_does_not_heed_its_stop_stores_nothing_either() -> None:
    started: list[JobId] = []

    async def stubborn(job: LeasedJob) -> Performed:
        started.append(job.id)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return Performed(RESULT)

    with Shop({"llm_chat": stubborn}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: started)
        cancel(shop, job)
        shop.idle()

        assert [ended.outcome for ended in shop.store.settlements] == [RunOutcome.RELEASED]
        assert outcomes(shop) == {"lost": 1}


def test_a_job_that_is_lost_between_claim_and_start_frees_its_slot_too(stage: Stage) -> None:
    class Cancels(Middleware):
        done = False

        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.args and not self.done:
                self.done = True
                cancel(shop, message.args[0].job.id)
                until(lambda: shop.desk()._lost)

    with Shop({"llm_chat": stage}, observers=[Cancels()]) as shop:
        cancelled, following = shop.submit(*jobs(2))
        shop.done(cancelled, following)
        shop.idle()

        assert stage.started == [following]
        assert [(ended.lease.job_id, ended.outcome) for ended in shop.store.settlements] == [
            (cancelled, RunOutcome.RELEASED),
            (following, RunOutcome.COMPLETED),
        ]
        assert outcomes(shop) == {"lost": 1, "completed": 1}


def test_a_slot_that_is_freed_while_the_storage_is_away_is_freed_after_its_return(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (lost,) = shop.submit(new_job())
        until(lambda: held.started)
        closing = held.closing = asyncio.Event()
        cancel(shop, lost)
        until(lambda: held.stopped)
        shop.store.away = True
        shop.set(closing)
        until(lambda: shop.store.refusals > 1, "some tries")
        assert shop.desk().running == 1
        shop.store.away = False
        shop.idle()

        assert [ended.outcome for ended in shop.store.settlements] == [RunOutcome.RELEASED]


@pytest.mark.parametrize("heeds", [True, False])
def test_a_lost_run_does_not_hold_up_the_end_of_the_worker(
    held: Stage, heeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.runtime.STORING_TIME", 0.2)
    monkeypatch.setattr("actors.runtime.PARTING_TIME", 0.2)
    closing = held.closing = asyncio.Event()
    with Shop({"llm_chat": held}, grace=0.1) as shop:
        (lost,) = shop.submit(new_job())
        until(lambda: held.started)
        cancel(shop, lost)
        until(lambda: held.stopped)
        if heeds:
            shop.set(closing)
        shop.stop()

        assert shop.leaked == []
        assert not shop.desk()._lost
