"""The machines behind the model servers, over HTTP."""

from __future__ import annotations

from typing import Any

from domain.infra import Container, Gpu, ModelServer, Readings, Speech, Target, TargetKind
from tests.app.conftest import Api, problem

GPU = Gpu(index=0, uuid="GPU-1", name="NVIDIA L40S", utilisation_percent=87.0, memory_used_bytes=10)


async def status(api: Api) -> dict[str, Any]:
    response = await api.client.get("/api/v1/infra/status")
    assert response.status_code == 200, response.text
    return dict(response.json())


def target(kind: TargetKind, **told: Any) -> Target:
    return Target(name=f"the-{kind}", kind=kind, age_seconds=1.5, readings=Readings(**told))


async def test_where_nothing_is_configured_it_says_so(api: Api):
    assert await status(api) == {"configured": False, "targets": []}


async def test_a_gpu_is_told_with_null_for_what_its_source_does_not_tell(api: Api):
    api.infra.targets = (target(TargetKind.DCGM, gpus=(GPU,)),)
    assert await status(api) == {
        "configured": True,
        "targets": [
            {
                "name": "the-dcgm",
                "kind": "dcgm",
                "ok": True,
                "age_seconds": 1.5,
                "error": None,
                "rates_over_seconds": None,
                "gpus": [
                    {
                        "index": 0,
                        "uuid": "GPU-1",
                        "name": "NVIDIA L40S",
                        "mig_profile": None,
                        "utilisation_percent": 87.0,
                        "memory_used_bytes": 10,
                        "memory_total_bytes": None,
                        "temperature_celsius": None,
                        "memory_temperature_celsius": None,
                        "power_watts": None,
                        "xid_error": None,
                    }
                ],
                "containers": [],
                "model_servers": [],
                "speech": None,
            }
        ],
    }


async def test_each_kind_is_told_with_its_own_figures(api: Api):
    api.infra.targets = (
        target(TargetKind.CADVISOR, containers=(Container(name="vllm", cpu_cores=1.5),)),
        target(TargetKind.VLLM, model_servers=(ModelServer(model="qwen", running=3.0),)),
        target(TargetKind.SPEECH, speech=Speech(healthy=True, latency_seconds=0.0123)),
    )
    cadvisor, vllm, speech = (await status(api))["targets"]
    assert cadvisor["containers"][0] | {"name": "vllm", "cpu_cores": 1.5} == cadvisor["containers"][0]
    assert vllm["model_servers"][0] | {"model": "qwen", "running": 3.0} == vllm["model_servers"][0]
    assert speech["speech"] == {"healthy": True, "latency_ms": 12.3, "running": None, "waiting": None}


async def test_a_target_that_does_not_answer_is_named_beside_those_that_do(api: Api):
    dead = Target(name="gpu-2", kind=TargetKind.DCGM, error="It accepts no connections.", age_seconds=60.0)
    api.infra.targets = (dead, target(TargetKind.DCGM, gpus=(GPU,)))
    first, second = (await status(api))["targets"]
    assert (first["ok"], first["error"], first["age_seconds"]) == (False, "It accepts no connections.", 60.0)
    assert first["gpus"] == []
    assert (second["ok"], len(second["gpus"])) == (True, 1)


async def test_it_needs_a_token_where_there_are_any(guarded_api: Api):
    problem(await guarded_api.client.get("/api/v1/infra/status"), 401)
