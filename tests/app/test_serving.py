"""What is served at this moment: how a changed configuration comes into it, and what of the one before goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec.structs import replace

from actors.speech import FileLimits
from app.configured import Configured
from app.profiles import LARGEST_AUDIO
from app.providers import Serving
from app.settings import Config, from_env
from domain.errors import StartupError
from tests.fakes import FakeClock

GPU = {"provider": "vllm", "base_url": "http://gpu:8000/v1"}
NOWHERE = {"provider": "vllm", "base_url": "http://127.0.0.1:1/v1"}
EAR = {"kind": "speech", "provider": "practice", "max_file_bytes": 4096, "max_file_length": "10m"}


class Rig:
    """A configuration file, and what is served by it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock = FakeClock()
        self.profiles(first=GPU)
        settings = replace(from_env({}), config=Config(file=path, required=True))
        self.configured = Configured(settings, clock=self._clock.monotonic)
        self.serving = Serving(self.configured)

    def profiles(self, **entries: Any) -> None:
        self._path.write_text(json.dumps({"profiles": entries}))
        self._clock.advance(timedelta(seconds=2))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "config.json")
    yield rig
    await rig.serving.close()


async def test_a_changed_configuration_is_served(rig: Rig) -> None:
    rig.profiles(second=GPU)
    assert (rig.serving.profiles(), list(rig.serving.chat())) == (("second",), ["second"])


async def test_a_change_that_somebody_else_saw_first_is_served_too(rig: Rig) -> None:
    rig.profiles(second=GPU)
    assert rig.configured.look()
    assert (rig.serving.profiles(), list(rig.serving.chat())) == (("second",), ["second"])


async def test_what_a_server_takes_is_as_its_profile_says(rig: Rig) -> None:
    rig.profiles(ear=EAR)
    assert rig.serving.file_limits("ear") == FileLimits(4096, 600.0)


async def test_a_run_whose_profile_is_gone_by_now_goes_on_by_the_usual_limits(rig: Rig) -> None:
    assert rig.serving.file_limits("gone") == FileLimits(LARGEST_AUDIO)


@pytest.mark.parametrize("host", ["[1]", "\N{SNOWMAN}", "xn--a"])
async def test_an_address_that_cannot_be_called_is_refused_and_what_was_served_goes_on(rig: Rig, host: str) -> None:
    rig.profiles(second={"provider": "vllm", "base_url": f"http://{host}/v1"})
    assert (rig.serving.profiles(), list(rig.serving.chat())) == (("first",), ["first"])


async def test_a_profile_whose_server_is_down_is_served_by_one_that_it_falls_back_on(rig: Rig) -> None:
    rig.profiles(
        alone=NOWHERE,
        both={**NOWHERE, "fallbacks": ["alone", "spare"]},
        neither={**NOWHERE, "fallbacks": ["alone"]},
        spare={"provider": "practice"},
    )
    health = rig.serving.health
    assert [await health.answers(name) for name in ("alone", "both", "neither")] == [False, True, False]
    assert not (await health.status("both")).reachable


async def test_what_cannot_be_made_is_tried_once_and_leaves_what_was_served(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise StartupError("The CA bundle has gone since it was looked at.")

    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setattr("app.providers.tls", gone)
    rig.profiles(second={**GPU, "ca_bundle": str(tmp_path / "ca.pem")})
    with pytest.raises(StartupError):
        rig.serving.profiles()
    assert (rig.serving.profiles(), list(rig.serving.chat())) == (("first",), ["first"])
