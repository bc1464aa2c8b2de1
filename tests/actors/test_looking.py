"""Looks for work of which no ticket told: rare while there is none, soon again where there was some."""

from __future__ import annotations

import pytest

from actors import runtime
from tests.actors.rig import Shop, Stage, jobs, until


def look(shop: Shop) -> None:
    assert shop.runtime._loop
    shop.runtime._loop.call_soon_threadsafe(shop.desk().look)


def has_looked(shop: Shop) -> None:
    """Wait for the look with which every worker begins."""
    until(lambda: shop.store.exchanges, "the first look")
    shop.idle()


def test_after_a_look_that_found_work_the_next_comes_soon(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=2) as shop:
        (found,) = shop.add(*jobs(1))
        look(shop)
        shop.done(found)
        (next_one,) = shop.add(*jobs(1))
        shop.done(next_one)  # although the poll interval is an hour


def test_looks_that_find_nothing_become_rare_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def hardly(seconds: float) -> float:
        pauses.append(seconds)
        return 0.001

    monkeypatch.setattr(runtime, "_jittered", hardly)
    with Shop({"llm_chat": stage}, slots=2) as shop:
        (found,) = shop.add(*jobs(1))
        look(shop)
        shop.done(found)
        before = len(pauses)
        until(lambda: pauses[before:].count(3600.0) > 1, "the poll interval again")

    assert min(pauses) == runtime.SOON
    assert max(pauses) == 3600.0


def test_work_that_tickets_told_of_brings_no_look(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=2) as shop:
        told: list[int] = []
        shop.desk()._untold = lambda: told.append(1)
        shop.done(*shop.submit(*jobs(10)))
        shop.idle()
        assert told == []


def test_a_few_tickets_fill_all_slots_where_many_jobs_wait() -> None:
    held = Stage(holds=True)
    with Shop({"llm_chat": held}, slots=20) as shop:
        has_looked(shop)
        waiting = shop.add(*jobs(20))
        shop.on_loop(shop.close_gate())
        before = len(shop.store.exchanges)
        shop.wake()
        until(lambda: len(shop.store.exchanges) > before, "a claim")
        shop.wake(2)
        until(lambda: len(shop.desk()._seekers) == 2, "two tickets while it is answered")
        shop.open_gate()
        until(lambda: len(held.running) == 20, "all of them running")
        held.let_go(*waiting)
        shop.done(*waiting)


def test_a_lone_job_makes_no_second_claim(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=20) as shop:
        has_looked(shop)
        shop.done(*shop.submit(*jobs(1)))
        shop.idle()
        # For its ticket, and with its end.
        assert [wanted for _, wanted in shop.store.exchanges if wanted != 20] == [1, 1]
