"""How the service fares, part by part, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.keyring import Keyring
from app.wire import examples
from domain.errors import StorageUnavailable
from domain.infra import Gpu, ModelServer, Readings, Speech, Target, TargetKind
from domain.policy import Policies
from domain.ports import BrokerQueue, BrokerState
from domain.usecases.diagnose import FIGURES
from tests.app.conftest import Api, build
from tests.factories import NOW, QUEUE

MASTER = "m4ster-key"
GPU_1 = Target(
    name="gpu-1",
    kind=TargetKind.DCGM,
    readings=Readings(gpus=(Gpu(index=0, utilisation_percent=80.0, memory_used_bytes=7, memory_total_bytes=9),)),
)
DEAD = Target(name="gpu-2", kind=TargetKind.DCGM, error="It accepts no connections.")


async def detail(api: Api, token: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = await api.client.get("/health/detail", headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def anew(api: Api) -> dict[str, Any]:
    """What is found by another look at everything."""
    api.clock.advance(timedelta(seconds=3))
    return await detail(api)


def words(told: dict[str, Any]) -> dict[str, str]:
    return {name: component["status"] for name, component in told["components"].items()}


def findings(told: dict[str, Any], name: str) -> list[str]:
    return [f"{each['about']}: {each['text']}" for each in told["components"][name]["findings"]]


async def test_all_is_well_where_nothing_is_wrong(api: Api):
    told = await detail(api)
    assert told["status"] == "ok"
    assert words(told) == dict.fromkeys(FIGURES, "ok")
    assert all(component["findings"] == [] for component in told["components"].values())


async def test_every_component_has_its_figures_whatever_is_wrong(api: Api):
    well = await detail(api)
    api.store.away = True
    away = await anew(api)
    for told in (well, away):
        assert {name: tuple(each["figures"]) for name, each in told["components"].items()} == FIGURES


def test_the_example_has_the_same_figures():
    components = examples.HEALTH_DETAIL.components
    assert {name: tuple(getattr(components, name).figures) for name in components.__struct_fields__} == FIGURES


async def test_without_postgres_the_service_is_down_and_the_others_still_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    async def away(*_: object) -> Any:
        raise StorageUnavailable

    api.infra.targets = (GPU_1,)
    api.store.away = True
    monkeypatch.setattr(api.store.queues, "states", away)
    monkeypatch.setattr(api.store, "tallies", away)
    told = await detail(api)
    assert told["status"] == "down"
    assert words(told) == {
        "postgres": "down",
        "broker": "ok",
        "providers": "ok",
        "queues": "down",
        "errors": "down",
        "throughput": "down",
        "infra": "ok",
    }
    assert findings(told, "postgres") == ["postgres: PostgreSQL cannot be reached."]
    assert told["components"]["queues"]["figures"]["pending"] is None
    assert told["components"]["infra"]["figures"]["gpus"] == 1


async def test_a_part_that_hangs_holds_nobody_up(api: Api, monkeypatch: pytest.MonkeyPatch):
    looks, hanging = [], asyncio.Event()

    async def hangs() -> None:
        looks.append(1)
        await hanging.wait()

    monkeypatch.setattr(api.store, "ping", hangs)
    told = await detail(api)
    assert (told["status"], told["components"]["postgres"]["status"]) == ("down", "down")
    assert findings(told, "postgres") == ["postgres: It was not known within 0.2 s."]
    assert words(told)["queues"] == "ok"

    await anew(api)
    assert looks == [1]  # the first look goes on: those who ask do not pile up more

    hanging.set()
    await asyncio.sleep(0)
    assert (await anew(api))["status"] == "ok"


async def test_a_part_that_breaks_down_hides_no_other_and_is_quoted_to_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    async def breaks() -> None:
        raise LookupError("10.0.0.7")

    monkeypatch.setattr(api.infra, "look", breaks)
    told = await detail(api)
    assert words(told) == dict.fromkeys(FIGURES, "ok") | {"infra": "down"}
    assert findings(told, "infra") == ["infra: It could not be looked at (LookupError)."]


async def test_the_broker_being_away_degrades_the_service(api: Api):
    api.tickets.up = False
    told = await detail(api)
    assert (told["status"], words(told)["broker"]) == ("degraded", "down")


async def test_a_broker_that_is_short_of_memory_is_told(api: Api):
    api.broker.state = BrokerState(queues={QUEUE: BrokerQueue(2, 1, 1)}, memory_alarm=True, asked_at=NOW)
    told = await detail(api)
    assert findings(told, "broker") == ["broker: A node is short of memory, and takes no messages."]
    assert told["components"]["broker"]["figures"]["tickets_ready"] == 2


async def test_a_provider_that_is_down_is_named(api: Api):
    api.health.down.add("qwen2.5-14b")
    told = await detail(api)
    assert words(told)["providers"] == "down"
    assert findings(told, "providers") == ["qwen2.5-14b: The provider accepts no connections."]
    assert told["components"]["providers"]["figures"]["reachable"] == 0


async def test_a_held_queue_and_one_without_workers_are_named(api: Api):
    await api.store.queues.configure(Policies(), [QUEUE, "gpu.speech"])
    await api.client.post("/api/v1/queues/gpu.speech/pause")
    await api.submitted()
    told = await anew(api)
    assert words(told)["queues"] == "down"
    assert findings(told, "queues") == [f"{QUEUE}: Jobs are due, and no worker serves it.", "gpu.speech: It is paused."]
    assert told["components"]["queues"]["figures"]["due"] == 1


async def test_an_infra_target_that_is_down_is_named(api: Api):
    api.infra.targets = (GPU_1, DEAD)
    told = await detail(api)
    assert (told["status"], words(told)["infra"]) == ("degraded", "degraded")
    assert findings(told, "infra") == ["gpu-2: It accepts no connections."]
    figures = told["components"]["infra"]["figures"]
    assert (figures["targets"], figures["answering"], figures["gpu_utilisation_percent"]) == (2, 1, 80.0)


async def test_a_speech_server_that_says_it_is_sick_is_named(api: Api):
    sick = Readings(speech=Speech(healthy=False, latency_seconds=0.01))
    vllm = Readings(model_servers=(ModelServer(model="qwen", running=3.0),))
    api.infra.targets = (
        Target(name="stt", kind=TargetKind.SPEECH, readings=sick),
        Target(name="llm", kind=TargetKind.VLLM, readings=vllm),
    )
    told = await detail(api)
    assert findings(told, "infra") == ["stt: It says that it is not well."]
    assert told["components"]["infra"]["figures"]["requests_running"] == 3.0
    assert told["components"]["infra"]["figures"]["requests_waiting"] is None


async def test_what_was_found_is_told_again_for_a_second(api: Api):
    await detail(api)
    api.tickets.up = False
    assert (await detail(api))["status"] == "ok"
    assert (await anew(api))["status"] == "degraded"


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Api]:
    path = tmp_path / "tokens.json"
    path.write_text(
        json.dumps(
            {
                "reader-token": {"owner": "beeline", "rights": ["read"]},
                "submitter-token": {"owner": "beeline", "rights": ["submit"]},
                "hurried-token": {"owner": "beeline", "rights": ["read"], "rate": 1},
            }
        )
    )
    built = build(Keyring(MASTER, path))
    built.infra.targets = (DEAD,)
    async with built.client:
        yield built


@pytest.mark.parametrize("token", [None, "wrong-key", "submitter-token"])
async def test_without_a_token_that_may_read_words_and_figures_are_told_and_nothing_else(
    guarded: Api, token: str | None
):
    told = await detail(guarded, token)
    assert told["status"] == "degraded"
    assert words(told)["infra"] == "down"
    assert told["components"]["infra"]["figures"]["targets"] == 1
    assert all(component["findings"] is None for component in told["components"].values())
    assert "gpu-2" not in json.dumps(told)


@pytest.mark.parametrize("token", [MASTER, "reader-token"])
async def test_with_a_token_that_may_read_all_is_told(guarded: Api, token: str):
    assert findings(await detail(guarded, token), "infra") == ["gpu-2: It accepts no connections."]


async def test_a_token_beyond_its_rate_is_answered_as_none(guarded: Api):
    assert (await detail(guarded, "hurried-token"))["components"]["infra"]["findings"]
    assert (await detail(guarded, "hurried-token"))["components"]["infra"]["findings"] is None
