from __future__ import annotations

from datetime import timedelta

import pytest

from domain.retry import RetryPolicy
from domain.routing import ModelKind, Profile, Routes
from domain.usecases.guard import Guard
from domain.usecases.operate import Operate
from domain.usecases.report import Report
from domain.usecases.wake import Wake
from domain.usecases.work import Work
from tests.factories import LEASE
from tests.fakes import FakeClock, FakeHealth, FakeQueues, FragileStore, RecordingEvents, RecordingTickets, ToldFigures

FAST, SLOW = timedelta(seconds=7), timedelta(seconds=77)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> FragileStore:
    return FragileStore(clock.now)


@pytest.fixture
def tickets() -> RecordingTickets:
    return RecordingTickets()


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def routes() -> Routes:
    return Routes(
        [
            Profile("qwen2.5-14b", ModelKind.CHAT, "gpu.llm"),
            Profile("whisper-large-v3", ModelKind.SPEECH, "gpu.speech"),
            Profile("bge-m3", ModelKind.EMBEDDINGS, "gpu.llm"),
        ]
    )


@pytest.fixture
def wake(store: FragileStore, tickets: RecordingTickets, clock: FakeClock) -> Wake:
    return Wake(store, tickets, clock.monotonic)


@pytest.fixture
def health() -> FakeHealth:
    return FakeHealth()


@pytest.fixture
def queues(clock: FakeClock) -> FakeQueues:
    return FakeQueues(clock.now)


@pytest.fixture
def work(store: FragileStore, events: RecordingEvents, health: FakeHealth, queues: FakeQueues) -> Work:
    guard = Guard(queues, health, threshold=5)
    return Work(store, events, health, guard, RetryPolicy(FAST, SLOW), random=lambda: 0.0, lease=LEASE)


@pytest.fixture
def operate(store: FragileStore, routes: Routes, wake: Wake) -> Operate:
    return Operate(store.queues, lambda: routes, wake)


@pytest.fixture
def figures() -> ToldFigures:
    return ToldFigures()


@pytest.fixture
def report(
    store: FragileStore, tickets: RecordingTickets, figures: ToldFigures, operate: Operate, clock: FakeClock
) -> Report:
    return Report(store, tickets, figures, operate, clock.now, clock.monotonic)
