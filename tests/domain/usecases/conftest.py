from __future__ import annotations

import pytest

from domain.routing import ModelKind, Profile, Routes
from domain.usecases.wake import Wake
from tests.fakes import FakeClock, FragileStore, RecordingTickets


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
def routes() -> Routes:
    return Routes(
        [
            Profile("qwen2.5-14b", ModelKind.CHAT, "gpu.llm"),
            Profile("whisper-large-v3", ModelKind.SPEECH, "gpu.speech"),
        ]
    )


@pytest.fixture
def wake(store: FragileStore, tickets: RecordingTickets, clock: FakeClock) -> Wake:
    return Wake(store, tickets, clock.monotonic)
