"""Looks for work of which no ticket told: rare while there is none, soon again where there was some."""

from __future__ import annotations

import pytest

from actors import runtime
from tests.actors.rig import Shop, Stage, jobs, until


def look(shop: Shop) -> None:
    assert shop.runtime._loop
    shop.runtime._loop.call_soon_threadsafe(shop.desk().look)


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
