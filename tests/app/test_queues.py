"""Queues: what is told of them, how they are held and released, and how their circuits are closed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keyring import Keyring
from domain.adaptive import Adapted
from domain.circuit import Circuit, CircuitState
from domain.errors import ErrorCode
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from tests.app.conftest import WANTED, Api, build, pointers, problem
from tests.factories import NOW, QUEUE, new_beat, new_claim

CLOSED = {
    "state": "closed",
    "reason": None,
    "message": None,
    "model_profile": None,
    "opened_at": None,
    "probe_at": None,
}
EMPTY = {
    "name": QUEUE,
    "paused": False,
    "stopped": False,
    "circuit": CLOSED,
    "pending": 0,
    "due": 0,
    "running": 0,
    "busy": 0,
    "concurrency": None,
    "effective_limit": None,
    "adaptive": False,
    "preempt": False,
    "reserved_share": 0.0,
    "ageing_seconds": None,
    "workers": 0,
    "slots": 0,
    "idle": 0,
    "broker": None,
}
OPEN = Circuit(
    CircuitState.OPEN,
    ErrorCode.PROVIDER_UNAVAILABLE,
    "The provider accepts no connections.",
    "qwen2.5-14b",
    opened_at=NOW,
    probe_at=NOW + timedelta(seconds=1),
)


async def listed(api: Api) -> list[dict[str, Any]]:
    """The queues, with figures that are read anew."""
    api.clock.advance(timedelta(seconds=2))
    response = await api.client.get("/api/v1/queues")
    assert response.status_code == 200, response.text
    return list(response.json()["queues"])


async def told(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(response.json())


async def ask(api: Api, path: str) -> dict[str, Any]:
    return await told(await api.client.post(path))


async def standing(api: Api, query: str = "") -> dict[str, Any]:
    api.clock.advance(timedelta(seconds=2))
    return await told(await api.client.get(f"/queue/status{query}"))


class TestList:
    async def test_a_configured_queue_is_listed_also_while_nothing_is_in_it(self, api: Api) -> None:
        assert await listed(api) == [EMPTY]

    async def test_a_queue_tells_its_jobs_and_who_serves_it(self, api: Api) -> None:
        await api.submitted()
        await api.submitted(run_at="2026-03-01T13:00:00Z")
        await api.store.beat(new_beat(running={QUEUE: 1}))
        assert await listed(api) == [EMPTY | {"pending": 2, "due": 1, "workers": 1, "slots": 4, "idle": 3}]

    async def test_a_queue_tells_what_limits_it(self, api: Api) -> None:
        policy = QueuePolicy(
            concurrency=8, preempt=True, reserved_share=0.1, ageing=timedelta(minutes=5), adaptive=True
        )
        await api.store.queues.configure(Policies({QUEUE: policy}), [])
        await api.store.queues.adapt(QUEUE, Adapted(5))
        limits = {"concurrency": 8, "effective_limit": 5, "reserved_share": 0.1, "ageing_seconds": 300}
        assert await listed(api) == [EMPTY | limits | {"preempt": True, "adaptive": True}]

    async def test_a_queue_tells_why_its_circuit_is_open(self, api: Api) -> None:
        await api.store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        [queue] = await listed(api)
        assert queue["circuit"] == {
            "state": "open",
            "reason": "provider_unavailable",
            "message": "The provider accepts no connections.",
            "model_profile": "qwen2.5-14b",
            "opened_at": "2026-03-01T12:00:00Z",
            "probe_at": "2026-03-01T12:00:01Z",
        }


class TestOne:
    async def test_a_queue_is_paused_and_resumed(self, api: Api) -> None:
        paused = EMPTY | {"paused": True}
        assert await ask(api, f"/api/v1/queues/{QUEUE}/pause") == paused
        assert await listed(api) == [paused]
        assert await ask(api, f"/api/v1/queues/{QUEUE}/resume") == EMPTY
        assert await listed(api) == [EMPTY]

    @pytest.mark.parametrize("verb", ["pause", "resume", "close-circuit"])
    async def test_the_same_again_changes_nothing(self, api: Api, verb: str) -> None:
        once = await ask(api, f"/api/v1/queues/{QUEUE}/{verb}")
        assert await ask(api, f"/api/v1/queues/{QUEUE}/{verb}") == once

    async def test_an_operator_closes_a_circuit(self, api: Api) -> None:
        await api.store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        assert await ask(api, f"/api/v1/queues/{QUEUE}/close-circuit") == EMPTY

    async def test_its_workers_are_woken_when_it_goes_on(self, api: Api) -> None:
        await api.store.beat(new_beat())
        await ask(api, f"/api/v1/queues/{QUEUE}/pause")
        await api.submitted()
        api.tickets.published.clear()
        await ask(api, f"/api/v1/queues/{QUEUE}/resume")
        assert api.tickets.published == [(QUEUE, 1)]

    async def test_while_it_is_held_nobody_gets_its_jobs(self, api: Api) -> None:
        job_id = await api.submitted()
        for verb, wanted in (("pause", []), ("resume", [job_id])):
            await ask(api, f"/api/v1/queues/{QUEUE}/{verb}")
            claimed = await api.client.post("/api/v1/jobs/claim", json={"worker_id": "w"})
            assert [job["id"] for job in claimed.json()["jobs"]] == wanted

    async def test_a_job_tells_that_its_queue_is_held(self, api: Api) -> None:
        job_id = await api.submitted()
        await ask(api, f"/api/v1/queues/{QUEUE}/pause")
        assert (await api.client.get(f"/api/v1/jobs/{job_id}")).json()["waiting_for"] == "paused"
        await ask(api, f"/api/v1/queues/{QUEUE}/resume")
        await api.store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        assert (await api.client.get(f"/api/v1/jobs/{job_id}")).json()["waiting_for"] == "circuit"

    async def test_a_job_that_runs_goes_on_and_keeps_its_slot_busy(self, api: Api) -> None:
        await api.submitted()
        job = await api.lent()
        assert (await ask(api, f"/api/v1/queues/{QUEUE}/pause"))["busy"] == 1
        assert (await api.report(job, "complete", result={})).status_code == 200
        [queue] = await listed(api)
        assert (queue["busy"], queue["running"], queue["paused"]) == (0, 0, True)

    @pytest.mark.parametrize("path", ["/api/v1/queues/gpu.cats/{}", "/queue/{}?queue=gpu.cats"])
    @pytest.mark.parametrize("verb", ["pause", "resume"])
    async def test_an_unknown_queue_is_404_and_the_known_ones_are_named(self, api: Api, path: str, verb: str) -> None:
        document = problem(await api.client.post(path.format(verb)), 404)
        assert document["type"] == "urn:problem:ai-service:queue-not-found"
        assert document["detail"] == f"There is no queue 'gpu.cats'; known: {QUEUE}."

    async def test_so_is_the_circuit_of_one(self, api: Api) -> None:
        problem(await api.client.post("/api/v1/queues/gpu.cats/close-circuit"), 404)

    async def test_a_queue_in_whose_name_there_is_a_nul_is_unknown(self, api: Api) -> None:
        problem(await api.client.post("/api/v1/queues/%00/pause"), 404)


class TestAll:
    async def test_nothing_happens(self, api: Api) -> None:
        assert await standing(api) == {
            "running": True,
            "paused": False,
            "queue_size": 0,
            "current_job_id": None,
            "current_job_ids": [],
            "queues": [EMPTY],
        }

    async def test_jobs_wait_and_run(self, api: Api) -> None:
        first, second = await api.submitted(), await api.submitted()
        await api.submitted()
        await api.submitted(task_type="summary")
        await api.store.exchange([], new_claim(limit=2))
        status = await standing(api)
        assert (status["queue_size"], status["current_job_id"]) == (1, first)
        assert status["current_job_ids"] == [first, second]

    @pytest.mark.parametrize(
        ("verbs", "running", "paused"),
        [
            (["pause"], True, True),
            (["stop"], False, False),
            (["stop", "pause"], False, True),
            (["stop", "pause", "resume"], False, False),
            (["stop", "pause", "start"], True, True),
            (["stop", "pause", "start", "resume"], True, False),
            (["pause", "pause"], True, True),
        ],
    )
    async def test_to_pause_and_to_stop_are_two_flags(
        self, api: Api, verbs: list[str], running: bool, paused: bool
    ) -> None:
        for verb in verbs:
            answered = await ask(api, f"/queue/{verb}")
        assert (answered["running"], answered["paused"]) == (running, paused)
        assert await standing(api) == answered

    async def test_one_queue_among_others_is_held_by_its_name(self, api: Api) -> None:
        await api.store.queues.configure(Policies(), ["gpu.speech"])
        status = await ask(api, f"/queue/stop?queue={QUEUE}")
        assert (status["running"], [queue["name"] for queue in status["queues"]]) == (False, [QUEUE])
        status = await standing(api)
        assert status["running"]
        assert [queue["stopped"] for queue in status["queues"]] == [True, False]
        assert (await standing(api, "?queue=gpu.speech"))["running"]

    @pytest.mark.parametrize("query", ["queue=", "queue=a&queue=b", "name=gpu.llm", "queue=%00"])
    async def test_what_names_no_queue_is_refused_and_nothing_is_held(self, api: Api, query: str) -> None:
        pointers(await api.client.post(f"/queue/pause?{query}"))
        assert not (await standing(api))["paused"]

    async def test_an_unknown_queue_has_no_status(self, api: Api) -> None:
        problem(await api.client.get("/queue/status?queue=gpu.cats"), 404)


TOKENS: dict[str, Any] = {
    "ours-token": {"owner": "ours", "rights": ["submit", "read"]},
    "theirs-token": {"owner": "theirs", "rights": ["submit", "read"]},
    "operator-token": {"owner": "*", "rights": ["operate"]},
    "watcher-token": {"owner": "*", "rights": ["read", "work"]},
}
STEERING = [
    f"/api/v1/queues/{QUEUE}/pause",
    f"/api/v1/queues/{QUEUE}/resume",
    f"/api/v1/queues/{QUEUE}/close-circuit",
    "/queue/pause",
    "/queue/resume",
    "/queue/start",
    "/queue/stop",
]


class Guarded:
    """Callers with a right or two each."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def call(self, who: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {who}-token"} if who else {}
        return await self.api.client.request(method, path, headers=headers, **more)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(TOKENS))
    api = build(Keyring(tokens=path))
    async with api.client:
        yield Guarded(api)


class TestRights:
    @pytest.mark.parametrize("path", STEERING)
    async def test_only_operators_steer(self, guarded: Guarded, path: str) -> None:
        problem(await guarded.call(None, "POST", path), 401)
        problem(await guarded.call("ours", "POST", path), 403)
        problem(await guarded.call("watcher", "POST", path), 403)
        assert (await guarded.call("operator", "POST", path)).status_code == 200

    async def test_to_look_needs_the_right_to_read(self, guarded: Guarded) -> None:
        problem(await guarded.call(None, "GET", "/queue/status"), 401)
        problem(await guarded.call("operator", "GET", "/queue/status"), 403)
        assert (await guarded.call("watcher", "GET", "/queue/status")).status_code == 200

    async def test_running_jobs_are_named_to_their_owner(self, guarded: Guarded) -> None:
        for who in ("ours", "theirs"):
            body = json.dumps(WANTED | {"owner_service": who})
            assert (await guarded.call(who, "POST", "/api/v1/jobs", content=body)).status_code == 201
        held = {
            job.owner_service: str(job.id) for job in (await guarded.api.store.exchange([], new_claim(limit=2))).claimed
        }
        seen = {who: (await guarded.call(who, "GET", "/queue/status")).json() for who in ("ours", "watcher")}
        assert seen["ours"]["current_job_ids"] == [held["ours"]]
        assert seen["watcher"]["current_job_ids"] == [held["ours"], held["theirs"]]

    async def test_words_about_an_open_circuit_are_for_operators(self, guarded: Guarded) -> None:
        await guarded.api.store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        seen = (await guarded.call("watcher", "GET", "/api/v1/queues")).json()["queues"][0]["circuit"]
        assert (seen["reason"], seen["message"]) == ("provider_unavailable", None)
        seen = (await guarded.call("operator", "POST", f"/api/v1/queues/{QUEUE}/pause")).json()["circuit"]
        assert seen["message"] == "The provider accepts no connections."


async def test_too_many_waiting_jobs_are_429_and_it_is_said_when_to_come_back(api: Api) -> None:
    api.file.policies = Policies(owners={"beeline": OwnerPolicy(max_pending=2)})
    await api.submitted()
    twins = {"jobs": [WANTED, WANTED]}
    refused = [await api.client.post("/api/v1/jobs/batch", json=twins)]
    await api.submitted()
    refused.append(await api.submit())
    for response in refused:
        document = problem(response, 429)
        assert document["type"] == "urn:problem:ai-service:too-many-pending"
        assert "'beeline' may have 2 waiting jobs" in document["detail"]
        assert response.headers["retry-after"] == "5"
    await api.claim()
    await api.submitted()
