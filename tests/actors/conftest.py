from __future__ import annotations

from collections.abc import Iterator

import dramatiq.worker
import pytest

from tests.actors.rig import Stage


@pytest.fixture(autouse=True)
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.1)


@pytest.fixture
def stage() -> Stage:
    """Jobs end at once."""
    return Stage()


@pytest.fixture
def held() -> Stage:
    """Jobs run until they are let go."""
    return Stage(holds=True)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Dramatiq logs nothing above INFO."""
    yield
    loud = [record for record in caplog.records if record.name.startswith("dramatiq") and record.levelno > 20]
    assert not [record.getMessage() for record in loud]
