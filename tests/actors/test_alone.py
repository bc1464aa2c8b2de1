"""A suspect runs without company, whichever queues its process serves."""

from __future__ import annotations

import pytest

from domain.job import SUSPECT_FROM, JobId, JobStatus
from domain.ports import RescueTerms
from tests.actors.rig import LEASE, Shop, Stage, jobs, until
from tests.factories import QUEUE, new_claim, new_job

OTHER = "gpu.other"


def crashed(shop: Shop, queue: str = QUEUE) -> JobId:
    """A job that other workers left behind."""

    async def crash() -> None:  # in one go: else the shop's own worker takes it in between
        for _ in range(SUSPECT_FROM):
            await shop.store.exchange([], new_claim(queue=queue, worker_id="dead", alone=False, lease=-LEASE))
            await shop.store.rescue(RescueTerms(3, LEASE))

    [job] = shop.add(new_job(queue=queue))
    shop.on_loop(crash())
    assert (shop.job(job).status, shop.job(job).crashes) == (JobStatus.PENDING, SUSPECT_FROM)
    return job


def test_nothing_starts_beside_it_and_then_all_slots_look_for_work(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=3) as shop:
        suspect = crashed(shop)
        others = shop.add(*jobs(3))
        shop.wake(8)
        until(lambda: held.started == [suspect])
        until(lambda: shop.desk()._kept, "a ticket is kept")
        assert held.started == [suspect]

        held.let_go(suspect)
        until(lambda: sorted(held.started) == sorted([suspect, *others]), "every slot is used again")
        held.let_go(*others)
        shop.done(suspect, *others)
        shop.idle()
    assert held.most_at_once == 3


def test_it_waits_until_its_process_runs_nothing_else(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=2) as shop:
        (running,) = shop.submit(new_job())
        until(lambda: held.started == [running])
        suspect = crashed(shop)
        fresh = shop.submit(new_job())
        until(lambda: held.started == [running, *fresh])
        held.let_go(*fresh)
        shop.done(*fresh)
        assert suspect not in held.started
        held.let_go(running)
        until(lambda: suspect in held.started)
        assert held.running == [suspect]
        held.let_go(suspect)
        shop.done(suspect)


def test_the_other_queues_of_its_process_wait_too(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=2, queues=(QUEUE, OTHER)) as shop:
        suspect = crashed(shop)
        shop.wake()
        until(lambda: held.started == [suspect])
        (elsewhere,) = shop.add(new_job(queue=OTHER))
        shop.wake(1, OTHER)
        until(lambda: shop.desk(OTHER)._kept, "its ticket is kept")
        assert held.started == [suspect]
        held.let_go(suspect)
        until(lambda: held.started == [suspect, elsewhere])
        held.let_go(elsewhere)
        shop.done(suspect, elsewhere)
        shop.idle()


def test_a_queue_that_asked_at_the_same_moment_waits_too(held: Stage) -> None:
    with Shop({"llm_chat": held}, queues=(QUEUE, OTHER)) as shop:
        suspect = crashed(shop)
        (elsewhere,) = shop.add(new_job(queue=OTHER))
        shop.on_loop(shop.close_gate())
        shop.wake()
        until(lambda: shop.job(suspect).status is JobStatus.RUNNING)  # and its claim is not answered yet
        shop.wake(1, OTHER)
        until(lambda: shop.desk(OTHER)._serving, "the other desk asks")
        shop.open_gate()
        until(lambda: held.started == [suspect])
        until(lambda: not shop.desk(OTHER)._serving, "the other desk has its answer")
        assert held.started == [suspect]
        held.let_go(suspect)
        until(lambda: held.started == [suspect, elsewhere])
        held.let_go(elsewhere)
        shop.done(suspect, elsewhere)


def test_a_run_in_another_queue_is_company(held: Stage) -> None:
    with Shop({"llm_chat": held}, queues=(QUEUE, OTHER)) as shop:
        (elsewhere,) = shop.add(new_job(queue=OTHER))
        shop.wake(1, OTHER)
        until(lambda: held.started == [elsewhere])
        suspect = crashed(shop)
        shop.wake()
        until(lambda: shop.broker.queues[QUEUE].unfinished_tasks == 0, "the ticket found nothing")
        assert held.started == [elsewhere]
        held.let_go(elsewhere)
        shop.done(elsewhere)
        shop.wake()
        until(lambda: suspect in held.started)
        held.let_go(suspect)
        shop.done(suspect)


def test_several_follow_one_another(held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=4) as shop:
        suspects = [crashed(shop)]
        suspects += [crashed_too(shop)]
        shop.wake(4)
        until(lambda: len(held.started) == 1)
        held.let_go(*suspects)
        shop.done(*suspects)
        shop.idle()
    assert held.most_at_once == 1


def crashed_too(shop: Shop) -> JobId:
    """Another, while one waits already."""
    [job] = shop.add(new_job())
    shop.on_loop(shop.store.exchange([], new_claim(worker_id="dead", alone=False)))
    shop.on_loop(shop.store.rescue(RescueTerms(3, LEASE, everyone=True)))
    return job


class TestFreshness:
    """A job is not started where its lease may run out before it is renewed."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [1000.0]
        monkeypatch.setattr("actors.desk.since_boot", lambda: clock[0])
        monkeypatch.setattr("actors.runtime.since_boot", lambda: clock[0])
        return clock

    @pytest.mark.parametrize(("late_by", "handed_back"), [(9.9, 0), (10.1, 1)])
    def test_an_answer_that_comes_late(
        self, stage: Stage, clock: list[float], late_by: float, handed_back: int
    ) -> None:
        with Shop({"llm_chat": stage}) as shop:
            shop.on_loop(shop.close_gate())
            (job,) = shop.submit(new_job())
            until(lambda: shop.job(job).status is JobStatus.RUNNING)
            clock[0] += late_by
            shop.open_gate()
            shop.done(job)
            assert stage.started == [job]
            assert len(shop.store.settlements) == 1 + handed_back
            shop.idle()
