"""What a worker process says of itself, and when it says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from actors.heartbeat import Heartbeat
from domain.errors import StorageUnavailable
from domain.ports import WorkerBeat
from tests.actors.rig import Shop, Stage, until
from tests.factories import QUEUE, new_beat


class Listener:
    """Hears beats; may be away, or fail."""

    def __init__(self) -> None:
        self.beats: list[WorkerBeat] = []
        self.parted: list[UUID] = []
        self.fails: Exception | None = None
        self.tries = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Listener]:
        yield self

    async def beat(self, beat: WorkerBeat) -> frozenset[str]:
        self.tries += 1
        if self.fails:
            raise self.fails
        self.beats.append(beat)
        return frozenset({QUEUE})

    async def forget_worker(self, worker: UUID, older_than: object) -> None:
        if self.fails:
            raise self.fails
        self.parted.append(worker)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.heartbeat.INTERVAL", 0.01)


def test_it_beats_until_it_is_stopped_and_parts_with_a_word() -> None:
    listener, answers, beat = Listener(), list[frozenset[str]](), new_beat()
    heartbeat = Heartbeat(listener.open, lambda: beat, answers.append)
    heartbeat.start()
    until(lambda: len(listener.beats) > 2)
    heartbeat.stop()
    said = len(listener.beats)
    assert listener.beats == [beat] * said
    assert answers == [frozenset({QUEUE})] * said
    assert listener.parted == [beat.id]


@pytest.mark.parametrize("trouble", [StorageUnavailable(), RuntimeError("a fault of ours")])
def test_a_beat_that_fails_is_followed_by_others(trouble: Exception) -> None:
    listener, beat = Listener(), new_beat()
    listener.fails = trouble
    heartbeat = Heartbeat(listener.open, lambda: beat, lambda held: None)
    heartbeat.start()
    until(lambda: listener.tries > 2)
    listener.fails = None
    until(lambda: listener.beats)
    heartbeat.stop()


def test_it_ends_although_nobody_hears_its_last_word() -> None:
    listener, beat = Listener(), new_beat()
    heartbeat = Heartbeat(listener.open, lambda: beat, lambda held: None)
    heartbeat.start()
    until(lambda: listener.beats)
    listener.fails = StorageUnavailable()
    with capture_logs() as events:
        heartbeat.stop()
    assert "left without a word" in [event["event"] for event in events]
    assert not heartbeat._thread.is_alive()


def test_a_busy_event_loop_does_not_keep_it_from_beating_but_a_hanging_one_does(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    monkeypatch.setattr("actors.runtime.LOOP_HANGS", 0.5)
    with Shop({"llm_chat": stage}) as shop:
        until(lambda: shop.runtime.status().last_beat_at)
        began, seen, busy_beats = time.monotonic(), set(), 0
        blocked = asyncio.run_coroutine_threadsafe(block_for(1.5), shop.runtime._loop)  # type: ignore[arg-type]
        while not blocked.done():
            seen.add(shop.runtime.status().last_beat_at)
            if time.monotonic() - began < 0.4:
                busy_beats = len(seen)
        assert busy_beats > 3
        last = max(at for at in seen if at)
        until(lambda: (shop.runtime.status().last_beat_at or last) > last, "it beats again")


async def block_for(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # as a hanging program does
