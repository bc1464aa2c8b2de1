"""What slots do: which job they take, when, and that they are never lost."""

from __future__ import annotations

import asyncio

import pytest
from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import MiddlewareError, SkipMessage
from msgspec import Raw

from actors.desk import Performed
from domain.errors import ErrorCode
from domain.job import CANCELLED_BY_CALLER, JobStatus, LeasedJob, Priority
from tests.actors.rig import RESULT, Shop, Stage, jobs, until
from tests.factories import QUEUE, new_job

OTHER = "gpu.stt"


def test_the_most_urgent_job_starts_next_though_its_ticket_came_last(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (first,) = shop.submit(new_job())
        until(lambda: held.started)
        waiting = shop.submit(*jobs(5))
        (urgent,) = shop.submit(new_job(priority=Priority.HIGH))
        held.let_go(first, urgent, *waiting)
        shop.done(urgent, *waiting)

    assert held.started == [first, urgent, *waiting]


def test_a_ticket_runs_the_actor_of_the_job_that_it_was_bound_to() -> None:
    chat, summary = Stage(), Stage()
    with Shop({"llm_chat": chat, "transcript_summary": summary}) as shop:
        (job,) = shop.submit(new_job(task_type="transcript_summary"))
        shop.done(job)

    assert (chat.started, summary.started) == ([], [job])


def test_a_task_type_that_is_not_served_here_is_never_claimed(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        foreign, ours = shop.submit(new_job(task_type="somebody_elses"), new_job())
        shop.done(ours)
        shop.idle()

        assert shop.job(foreign).status is JobStatus.PENDING
        assert stage.started == [ours]


@pytest.mark.parametrize("slots", [1, 4])
def test_one_ticket_is_enough_for_all_that_waits(slots: int, stage: Stage, quiet: None) -> None:
    with Shop({"llm_chat": stage}, slots=slots) as shop:
        ids = shop.add(*jobs(50))
        shop.wake()
        shop.done(*ids)
        shop.idle()

        assert sorted(stage.started) == sorted(ids)


def test_a_job_committed_while_a_claim_is_in_flight_is_not_slept_through(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=2) as shop:
        gate = shop.store.gate = asyncio.Event()
        claims = len(shop.store.exchanges)
        shop.wake()  # its claim sees an empty queue, and the answer takes its time
        until(lambda: len(shop.store.exchanges) > claims)
        (job,) = shop.submit(new_job())
        until(lambda: shop.desk()._seekers, "the second ticket's wish")
        shop.store.gate = None
        assert shop.runtime._loop
        shop.runtime._loop.call_soon_threadsafe(gate.set)
        shop.done(job)


def test_stale_tickets_cost_few_claims_and_no_warning(stage: Stage, quiet: None) -> None:
    with Shop({"llm_chat": stage}, slots=8) as shop:
        before = len(shop.store.exchanges)
        shop.wake(200)
        until(lambda: not shop.broker.queues[QUEUE].unfinished_tasks, "all tickets")
        shop.idle()

        assert len(shop.store.exchanges) - before < 100
        assert shop.broker.dead_letters == []  # type: ignore[attr-defined]  # the in-process broker's


def test_tickets_beyond_the_slots_stay_in_the_broker(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=2, threads=5, queues=(QUEUE, OTHER)) as shop:
        first, second = shop.submit(*jobs(2))
        until(lambda: len(held.started) == 2)
        shop.wake(2)
        assert shop.broker.queues[QUEUE].qsize() == 2
        assert shop.broker.queues[QUEUE].unfinished_tasks == 4  # none of them is acknowledged
        held.let_go(first, second)
        shop.done(first, second)
        shop.idle()
        until(lambda: not shop.broker.queues[QUEUE].unfinished_tasks, "an answer to every ticket")


def test_a_kept_ticket_takes_effect_when_a_slot_is_free(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=1, threads=3) as shop:
        shop.worker.consumers[QUEUE].consumer.prefetch_semaphore.release()  # type: ignore[union-attr]
        (first,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.wake()
        until(lambda: shop.desk()._kept, "a kept ticket")
        (second,) = shop.add(new_job())
        assert shop.broker.queues[QUEUE].unfinished_tasks == 2
        held.let_go(first, second)
        shop.done(first, second)
        shop.idle()
        until(lambda: not shop.broker.queues[QUEUE].unfinished_tasks)


def test_two_queues_have_slots_of_their_own(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=1, queues=(QUEUE, OTHER)) as shop:
        here, there = shop.add(new_job(), new_job(queue=OTHER))
        shop.wake(3)
        shop.wake(1, OTHER)
        until(lambda: len(held.started) == 2)
        held.let_go(here, there)
        shop.done(here, there)
        shop.idle()


def test_a_run_that_lost_its_lease_is_stopped_at_the_next_beat_and_its_slot_goes_on(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        lost, following = shop.submit(*jobs(2))
        until(lambda: held.started)
        shop.on_loop(shop.store.cancel([lost], CANCELLED_BY_CALLER))
        shop.renew()
        until(lambda: len(held.started) == 2, "the next start")
        held.let_go(following)
        shop.done(following)
        shop.idle()

        assert (held.stopped, held.ended) == ([lost], [following])
        assert shop.job(lost).status is JobStatus.CANCELLED
        assert shop.runtime.status().outcomes == {"lost": 1, "completed": 1}


def test_a_job_that_is_run_anew_elsewhere_gets_nothing_from_its_first_run(held: Stage) -> None:
    with Shop({"llm_chat": held}) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        shop.on_loop(shop.store.retry([job]))
        held.let_go(job)
        shop.done(job)  # by its second run, on the freed slot
        shop.idle()

        assert held.started == [job, job]
        assert shop.runtime.status().outcomes == {"lost": 1, "completed": 1}


def test_a_job_cancelled_between_claim_and_start_does_not_start(stage: Stage) -> None:
    class Cancels(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.args and not stage.ended:
                shop.on_loop(shop.store.cancel([message.args[0].job.id], CANCELLED_BY_CALLER))
                shop.renew()
                stage.ended.append(message.args[0].job.id)

    with Shop({"llm_chat": stage}, observers=[Cancels()]) as shop:
        (cancelled,) = shop.submit(new_job())
        shop.done(cancelled)
        shop.idle()
        (following,) = shop.submit(new_job())
        shop.done(following)

        assert stage.started == [following]


class Hinders(Middleware):
    """Stands between the claim and the start, once."""

    def __init__(self, error: Exception) -> None:
        self.errors = [error]

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if message.args and self.errors:
            raise self.errors.pop()


def test_a_job_whose_ticket_another_hook_skips_is_handed_back(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, observers=[Hinders(SkipMessage())]) as shop:
        (job,) = shop.submit(new_job())
        shop.done(job)
        shop.idle()

        assert shop.job(job).attempts == 1
        assert shop.runtime.status().outcomes == {"released": 1, "completed": 1}


def test_a_job_that_another_hook_stops_fails(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, observers=[Hinders(MiddlewareError("secret"))]) as shop:
        (job,) = shop.submit(new_job())
        until(lambda: shop.job(job).attempts)
        shop.idle()
        failure = shop.job(job).failure

    assert failure
    assert failure.code is ErrorCode.INTERNAL_ERROR
    assert "secret" not in failure.message


def test_a_job_without_an_actor_fails_and_holds_no_slot(stage: Stage) -> None:
    with Shop({"llm_chat": stage, "no_actor": stage}, actors=["llm_chat"]) as shop:
        (job,) = shop.submit(new_job(task_type="no_actor", max_attempts=1))
        shop.done(job)
        shop.idle()

        assert shop.job(job).status is JobStatus.FAILED


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_whatever_ends_a_run_its_job_fails_and_the_slot_goes_on(kind: type[BaseException]) -> None:
    async def bad(job: LeasedJob) -> Performed:
        raise kind("secret")

    with Shop({"bad": bad, "llm_chat": Stage()}) as shop:
        (job,) = shop.submit(new_job(task_type="bad", max_attempts=1))
        shop.done(job)
        (good,) = shop.submit(new_job())
        shop.done(good)
        shop.idle()

        failure = shop.job(job).failure
        assert failure
        assert failure.code is ErrorCode.INTERNAL_ERROR
        assert "secret" not in failure.message


def test_a_task_that_exits_does_not_end_the_event_loop(stage: Stage) -> None:
    async def leave() -> None:
        raise SystemExit

    with Shop({"llm_chat": stage}) as shop:
        loop = shop.runtime._loop
        assert loop
        tasks: list[asyncio.Task[None]] = []
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(leave())))
        until(lambda: tasks and tasks[0].done())
        assert isinstance(tasks[0].exception(), SystemExit)
        (job,) = shop.submit(new_job())
        shop.done(job)


def test_a_run_that_raises_tells_dramatiq_hooks_and_logs_no_traceback(
    quiet: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def bad(job: LeasedJob) -> Performed:
        raise RuntimeError("secret")

    class Watches(Middleware):
        seen: list[BaseException | None] = []  # noqa: RUF012  # one test's

        def after_process_message(
            self,
            broker: Broker,
            message: MessageProxy,
            *,
            result: object = None,
            exception: BaseException | None = None,
        ) -> None:
            self.seen.append(exception)

    with Shop({"llm_chat": bad}, observers=[Watches()]) as shop:
        (job,) = shop.submit(new_job(max_attempts=1))
        shop.done(job)
        shop.idle()

    assert isinstance(Watches.seen[0], RuntimeError)
    assert "secret" not in caplog.text


def test_results_are_stored_as_they_are(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        (job,) = shop.submit(new_job())
        shop.done(job)

        assert shop.job(job).result == Raw(RESULT)
