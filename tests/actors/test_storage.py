"""What slots do while PostgreSQL is away, refuses, or loses an answer."""

from __future__ import annotations

import pytest

from actors.desk import Performed
from domain.errors import ErrorCode
from domain.job import JobStatus, LeasedJob
from tests.actors.rig import Shop, Stage, jobs, until
from tests.factories import QUEUE, new_claim, new_job


def test_a_claim_that_finds_no_storage_waits_and_burns_no_ticket(
    stage: Stage, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.desk.LONGEST_WAIT", 0.05)
    with Shop({"llm_chat": stage}, slots=2) as shop:
        shop.store.away = True
        shop.wake(20)
        until(lambda: shop.store.refusals > 3, "some tries")
        assert shop.broker.queues[QUEUE].unfinished_tasks == 20
        assert stage.started == []
        shop.store.away = False
        ids = shop.add(*jobs(3))
        shop.wake()
        shop.done(*ids)
        shop.idle()


def test_a_claim_that_raises_anything_runs_nothing_and_is_tried_again(stage: Stage, quiet: None) -> None:
    with Shop({"llm_chat": stage}) as shop:
        shop.store.raises = RuntimeError("a fault of ours")
        before = len(shop.store.exchanges)
        (job,) = shop.submit(new_job())
        until(lambda: len(shop.store.exchanges) > before + 1)
        assert stage.started == []
        shop.store.raises = None
        shop.done(job)
        shop.idle()


def test_a_ticket_of_a_queue_without_a_desk_is_skipped(stage: Stage, quiet: None) -> None:
    with Shop({"llm_chat": stage}) as shop:
        desks, shop.runtime.desks = shop.runtime.desks, {}
        shop.wake()
        until(lambda: not shop.broker.queues[QUEUE].unfinished_tasks, "an answer to the ticket")
        shop.runtime.desks = desks
        assert stage.started == []


def test_a_run_that_ends_while_the_storage_is_away_is_stored_after_its_return(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        first, second = shop.submit(*jobs(2))
        until(lambda: held.started)
        shop.store.away = True
        held.let_go(first, second)
        until(lambda: shop.store.refusals > 2, "some tries")
        assert shop.job(first).status is JobStatus.RUNNING
        shop.store.away = False
        shop.done(first, second)
        shop.idle()

        assert held.started == [first, second]
        assert shop.job(first).attempts == 1


def test_a_result_that_the_storage_refuses_fails_its_own_run_only(held: Stage) -> None:
    refused = b'"\\u0000"'

    async def perform(job: LeasedJob) -> Performed:
        performed = await held(job)
        return Performed(refused) if job.id == bad else performed

    with Shop({"llm_chat": perform}, slots=3) as shop:
        shop.store.refuses = {refused}
        bad, *good = shop.submit(*jobs(3, max_attempts=1))
        until(lambda: len(held.started) == 3)
        held.let_go(bad, *good)
        shop.done(bad, *good)
        shop.idle()

        failure = shop.job(bad).failure
        assert failure
        assert failure.code is ErrorCode.INTERNAL_ERROR
        assert [shop.job(job).status for job in good] == [JobStatus.COMPLETED, JobStatus.COMPLETED]


def test_a_job_whose_claim_was_never_answered_is_released_and_runs(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        (job,) = shop.add(new_job())
        shop.store.loses_answer = True
        shop.wake()
        shop.done(job)
        shop.idle()

        assert shop.store.released == [1]
        assert stage.started == [job]
        assert shop.job(job).attempts == 1


def test_what_another_desk_of_the_process_holds_is_no_orphan(held: Stage) -> None:
    with Shop({"llm_chat": held}, queues=(QUEUE, "gpu.stt")) as shop:
        (there,) = shop.add(new_job(queue="gpu.stt"))
        shop.wake(1, "gpu.stt")
        until(lambda: held.started)
        (here,) = shop.add(new_job())
        shop.store.loses_answer = True
        shop.wake()
        until(lambda: len(held.started) == 2)
        held.let_go(here, there)
        shop.done(here, there)
        shop.idle()

        assert shop.store.released == [1]
        assert held.started == [there, here]


def test_what_another_worker_holds_is_no_orphan(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        (theirs,) = shop.add(new_job())
        shop.on_loop(shop.store.exchange([], new_claim(worker_id="worker/other")))
        (ours,) = shop.add(new_job())
        shop.store.loses_answer = True
        shop.wake()
        shop.done(ours)

        assert shop.job(theirs).status is JobStatus.RUNNING


def test_a_completion_whose_answer_was_lost_is_a_success(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.store.loses_answer = True
        held.let_go(job)
        shop.done(job)
        shop.idle()

        assert shop.runtime.status().outcomes == {"completed": 1}


def test_a_beat_that_fails_is_followed_by_others(held: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.heartbeat.INTERVAL", 0.01)
    with Shop({"llm_chat": held}) as shop:
        until(lambda: shop.runtime.status().last_beat_at)
        shop.store.away = True
        until(lambda: shop.store.refusals > 1, "beats that fail")
        last = shop.runtime.status().last_beat_at
        shop.store.away = False
        until(lambda: shop.runtime.status().last_beat_at != last, "another beat")
