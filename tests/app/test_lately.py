"""What is read only when somebody asks, and never makes anybody wait for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from structlog.testing import capture_logs

from app.lately import Lately
from domain.errors import StorageUnavailable
from tests.fakes import FakeClock


class Figures:
    """Counts how often they are read."""

    def __init__(self) -> None:
        self.read = 0
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.read += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return self.read


def lately(read: Callable[[], Awaitable[int]], clock: FakeClock, patience: float = 5.0) -> Lately[int]:
    return Lately(read, lasts=5.0, patience=patience, monotonic=clock.monotonic)


async def test_many_who_ask_are_one_reading():
    clock, figures = FakeClock(), Figures()
    known = lately(figures, clock)
    assert await asyncio.gather(*(known.get() for _ in range(10))) == [1] * 10
    clock.advance(timedelta(seconds=4.9))
    assert await known.get() == 1
    clock.advance(timedelta(seconds=0.2))
    assert await known.get() == 2


async def test_while_the_storage_is_away_there_is_nothing_and_afterwards_there_is():
    clock, figures = FakeClock(), Figures()
    known = lately(figures, clock)
    figures.error = StorageUnavailable()
    assert await known.get() is None
    figures.error = None
    assert await known.get() == 2


async def test_what_fails_otherwise_is_logged():
    clock, figures = FakeClock(), Figures()
    figures.error = ValueError("secret")
    with capture_logs() as events:
        assert await lately(figures, clock).get() is None
    assert [event["event"] for event in events] == ["figures not read"]


async def test_nobody_waits_for_a_storage_that_hangs_and_nobody_asks_it_twice():
    clock, answered, asked = FakeClock(), asyncio.Event(), 0

    async def hanging() -> int:
        nonlocal asked
        asked += 1
        await answered.wait()
        return 7

    known = lately(hanging, clock, patience=0.01)
    assert await known.get() is None
    assert await known.get() is None
    answered.set()
    while (found := await known.get()) is None:
        pass
    assert (found, asked) == (7, 1)


async def test_it_can_be_closed_in_the_middle():
    known = lately(asyncio.Event().wait, FakeClock(), patience=0.01)
    assert await known.get() is None
    await known.aclose()
