"""Chats over HTTP, above a store in memory in which the test is the worker."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from domain.circuit import Circuit, CircuitState
from domain.errors import ErrorCode, Failure
from domain.job import LeasedJob
from domain.retry import RetryPolicy, settle_failure
from tests.app.conftest import Api, build, pointers, problem, until
from tests.factories import QUEUE

ASKED = {"messages": [{"role": "user", "content": "Hello"}]}
RESULT = {
    "schema_version": "ai.chat_result.v1",
    "content": "Hello to you.",
    "model": "Qwen/Qwen2.5-14B-Instruct",
    "usage": {"prompt_tokens": 3, "total_tokens": 7},
    "finish_reason": "stop",
    "duration_ms": 12,
}


@asynccontextmanager
async def asking(api: Api, path: str = "/chat", **more: Any) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A request that waits for its job."""
    headers = more.pop("headers", {})
    task = asyncio.create_task(api.client.post(path, content=json.dumps(ASKED | more), headers=headers))
    await until(lambda: api.watch.waiting > 0 or task.done())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(api: Api, job: LeasedJob, result: dict[str, Any] | Failure) -> None:
    """Settle the run, and let those who wait look."""
    if isinstance(result, Failure):
        settlement = settle_failure(job, result, RetryPolicy(), jitter=0)
    else:
        settlement = job.complete(json.dumps(result).encode())
    await api.store.exchange([settlement], None)
    await api.watch.tick()


async def answered(api: Api, result: dict[str, Any] | Failure, path: str = "/chat", **more: Any) -> httpx.Response:
    async with asking(api, path, **more) as task:
        await ended(api, await api.claim(), result)
        return await asyncio.wait_for(task, 5)


async def test_a_chat_is_answered_with_what_the_model_said(api: Api) -> None:
    response = await answered(api, RESULT)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert await api.status(answer.pop("job_id")) == "completed"
    assert answer == {
        "content": "Hello to you.",
        "model": "Qwen/Qwen2.5-14B-Instruct",
        "provider": "vllm",
        "usage": {"prompt_tokens": 3, "total_tokens": 7},
        "finish_reason": "stop",
        "duration_ms": 12,
    }


async def test_a_chat_is_a_job_that_is_tried_once_and_does_not_start_late(api: Api) -> None:
    async with asking(api, temperature=0.5, timeout=60, nonsense=1, owner_ref="call-1") as _:
        [row] = (await api.client.get("/api/v1/jobs?include=input")).json()["jobs"]
    assert (row["task_type"], row["model_profile"]) == ("chat_completion", "qwen2.5-14b")
    assert (row["owner_service"], row["owner_ref"], row["max_attempts"]) == ("default", "call-1", 1)
    assert row["deadline_at"] == "2026-03-01T12:01:00Z"
    assert row["input"] == {**ASKED, "temperature": 0.5}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("bad_input", 422),
        ("context_length", 422),
        ("unsupported_task", 422),
        ("rate_limited", 429),
        ("model_unavailable", 503),
        ("auth_error", 503),
        ("quota_exhausted", 503),
        ("timeout", 504),
        ("provider_unavailable", 502),
        ("bad_response", 502),
        ("internal_error", 502),
    ],
)
@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_how_a_run_failed_is_told_by_the_status_and_the_code(api: Api, code: str, status: int, path: str) -> None:
    response = await answered(api, Failure(ErrorCode(code), "It went wrong."), path)
    document = problem(response, status)
    assert (document["error_code"], document["detail"]) == (code, "It went wrong.")
    assert await api.status(document["job_id"]) == "failed"
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/messages"),
        ({"messages": []}, "/messages"),
        ({"messages": [{"role": "owl", "content": "Hu"}]}, "/messages/0/role"),
        ({**ASKED, "priority": "urgent"}, "/priority"),
        ({**ASKED, "timeout": 0}, "/timeout"),
        ({**ASKED, "timeout": 1e9}, "/timeout"),
        ({**ASKED, "max_tokens": 0}, "/max_tokens"),
    ],
)
@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/queue/jobs"])
async def test_a_question_that_is_wrong_is_422_and_says_where(
    api: Api, body: dict[str, Any], pointer: str, path: str
) -> None:
    response = await api.client.post(path, json=body)
    assert pointers(response) == [pointer]
    assert response.json()["error_code"] == "bad_input"


async def test_a_chat_whose_time_is_up_is_cancelled(api: Api) -> None:
    response = await api.client.post("/chat", json={**ASKED, "timeout": 1})
    document = problem(response, 504)
    assert document["error_code"] == "timeout"
    assert await api.status(document["job_id"]) == "cancelled"


async def test_a_chat_that_somebody_cancels_has_no_answer(api: Api) -> None:
    async with asking(api) as task:
        [row] = (await api.client.get("/api/v1/jobs")).json()["jobs"]
        await api.client.post(f"/api/v1/jobs/{row['id']}/cancel")
        document = problem(await asyncio.wait_for(task, 5), 502)
    assert document["error_code"] == "cancelled"


async def test_a_chat_whose_job_is_erased_has_no_answer(api: Api) -> None:
    async with asking(api) as task:
        job = await api.claim()
        await api.store.exchange([job.complete(json.dumps(RESULT).encode())], None)
        assert (await api.client.delete(f"/api/v1/jobs/{job.id}")).status_code == 204
        await api.watch.tick()
        document = problem(await asyncio.wait_for(task, 5), 502)
    assert (document["error_code"], document["job_id"]) == ("unknown", str(job.id))


async def opened(api: Api) -> None:
    later = api.clock.now() + timedelta(seconds=3)
    sick = Circuit(state=CircuitState.OPEN, reason=ErrorCode.PROVIDER_UNAVAILABLE, probe_at=later)
    await api.store.queues.change_circuit(QUEUE, lambda _circuit, _now: sick)


async def test_with_an_open_circuit_a_chat_is_refused_at_once_and_not_stored(api: Api) -> None:
    await opened(api)
    response = await api.client.post("/chat", json=ASKED)
    assert problem(response, 503)["error_code"] == "provider_unavailable"
    assert response.headers["retry-after"] == "3"
    assert (await api.client.get("/api/v1/jobs")).json()["jobs"] == []


async def test_a_circuit_that_opens_refuses_those_who_wait_and_cancels_their_jobs(api: Api) -> None:
    async with asking(api) as task:
        await opened(api)
        document = problem(await asyncio.wait_for(task, 5), 503)
    assert await api.status(document["job_id"]) == "cancelled"


async def test_a_process_that_stops_refuses_those_who_wait_and_cancels_their_jobs(api: Api) -> None:
    async with asking(api) as task:
        api.watch.dismiss()
        response = await asyncio.wait_for(task, 5)
    assert response.headers["retry-after"] == "1"
    assert await api.status(problem(response, 503)["job_id"]) == "cancelled"


async def test_who_waits_for_the_answer_alone_is_not_held_to_the_text_that_others_read(api: Api) -> None:
    async with asking(api) as task:
        first = await api.claim()
        api.tell(first, 0, "Good bye")
        await asyncio.sleep(0.05)
        await api.store.exchange([first.release()], None)
        await api.watch.tick()
        second = await api.claim()
        api.tell(second, 0, "Good evening")
        await asyncio.sleep(0.05)
        await ended(api, second, RESULT)
        response = await asyncio.wait_for(task, 5)
    assert response.json()["content"] == "Hello to you."


async def test_the_same_chat_under_its_key_finds_its_answer(api: Api) -> None:
    keyed: Any = {"headers": {"Idempotency-Key": "one"}}
    first = await answered(api, RESULT, **keyed)
    again = await api.client.post("/chat", content=json.dumps(ASKED), **keyed)
    assert again.json() == first.json()
    other = await api.client.post("/chat", content=json.dumps(ASKED | {"seed": 1}), **keyed)
    assert pointers(other) == ["/idempotency_key"]


async def test_without_a_model_a_chat_is_refused() -> None:
    api = build(routed=False)
    async with api.client:
        for path in ("/chat", "/chat/stream", "/queue/jobs"):
            assert problem(await api.client.post(path, json=ASKED), 503)["error_code"] == "model_unavailable"


async def test_a_chat_is_of_its_tokens_owner(guarded_api: Api) -> None:
    assert (await guarded_api.client.post("/chat", json=ASKED)).status_code == 401


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block.splitlines() for block in response.text.split("\n\n") if block and not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_a_stream_tells_the_text_as_it_comes_and_then_the_answer(api: Api) -> None:
    async with asking(api, "/chat/stream") as task:
        job = await api.claim()
        assert json.loads(bytes(job.input))["stream"] is True
        api.tell(job, 0, "Hello ")
        api.tell(job, 6, "to ")
        await asyncio.sleep(0)
        await ended(api, job, RESULT)
        told = events(await asyncio.wait_for(task, 5))
    assert [name for name, _ in told][-1] == "done"
    assert "".join(data["text"] for name, data in told if name == "token") == "Hello to you."
    assert told[0] == ("token", {"offset": 0, "text": told[0][1]["text"]})
    assert told[-1][1]["content"] == "Hello to you."


async def test_a_gap_in_the_text_is_asked_for_and_never_told(api: Api) -> None:
    async with asking(api, "/chat/stream") as task:
        job = await api.claim()
        await api.watch.tick()
        api.tell(job, 6, "to ")
        await until(lambda: any(event.kind == "followed" for event in api.events.published))
        api.tell(job, 0, "Hello to ")
        await ended(api, job, RESULT)
        told = events(await asyncio.wait_for(task, 5))
    assert "".join(data["text"] for name, data in told if name == "token") == "Hello to you."


async def test_a_job_that_goes_back_after_its_first_token_is_cancelled_and_the_stream_ends_with_the_error(
    api: Api,
) -> None:
    async with asking(api, "/chat/stream") as task:
        job = await api.claim()
        api.tell(job, 0, "Hello ")
        await asyncio.sleep(0.05)
        await api.store.exchange([job.release()], None)
        await api.watch.tick()
        told = events(await asyncio.wait_for(task, 5))
    assert [name for name, _ in told] == ["token", "error"]
    assert (told[-1][1]["status"], told[-1][1]["error_code"]) == (502, "stale_worker")
    assert await api.status(told[-1][1]["job_id"]) == "cancelled"


async def test_a_job_that_goes_back_before_its_first_token_is_answered_by_its_next_run(api: Api) -> None:
    async with asking(api, "/chat/stream") as task:
        await api.store.exchange([(await api.claim()).release()], None)
        await api.watch.tick()
        await asyncio.sleep(0)
        await ended(api, await api.claim(), RESULT)
        told = events(await asyncio.wait_for(task, 5))
    assert [name for name, _ in told] == ["token", "done"]


async def test_a_failure_after_the_first_token_ends_the_stream_with_the_problem(api: Api) -> None:
    async with asking(api, "/chat/stream") as task:
        job = await api.claim()
        api.tell(job, 0, "Hello ")
        await asyncio.sleep(0.05)
        await ended(api, job, Failure(ErrorCode.PROVIDER_UNAVAILABLE, "Cut off."))
        told = events(await asyncio.wait_for(task, 5))
    assert told[-1][0] == "error"
    assert (told[-1][1]["status"], told[-1][1]["detail"]) == (502, "Cut off.")


async def test_a_text_that_is_not_the_answers_ends_the_stream_with_an_error(api: Api) -> None:
    async with asking(api, "/chat/stream") as task:
        job = await api.claim()
        api.tell(job, 0, "Good bye")
        await asyncio.sleep(0.05)
        await ended(api, job, RESULT)
        told = events(await asyncio.wait_for(task, 5))
    assert told[-1][1]["error_code"] == "bad_response"


async def test_a_chat_that_is_enqueued_is_fetched_later(api: Api) -> None:
    response = await api.client.post("/queue/jobs", json=ASKED)
    assert response.status_code == 202, response.text
    job_id = response.json()["job_id"]
    assert response.json()["position"] == 0
    assert response.headers["location"] == f"/queue/jobs/{job_id}"
    assert (await api.client.get(f"/queue/jobs/{job_id}")).json() == {
        "job_id": job_id,
        "status": "pending",
        "position": 0,
        "result": None,
        "error": None,
        "error_code": None,
    }
    await ended(api, await api.claim(), RESULT)
    done = (await api.client.get(f"/queue/jobs/{job_id}")).json()
    assert (done["status"], done["result"]["content"]) == ("completed", "Hello to you.")


async def test_an_enqueued_chat_is_withdrawn_only_before_it_starts(api: Api) -> None:
    job_id = (await api.client.post("/queue/jobs", json=ASKED)).json()["job_id"]
    withdrawn = await api.client.delete(f"/queue/jobs/{job_id}")
    assert (withdrawn.status_code, withdrawn.json()) == (200, {"job_id": job_id, "status": "cancelled"})
    problem(await api.client.delete(f"/queue/jobs/{job_id}"), 409)

    running = (await api.client.post("/queue/jobs", json=ASKED)).json()["job_id"]
    await api.claim()
    problem(await api.client.delete(f"/queue/jobs/{running}"), 409)
    assert await api.status(running) == "running"


async def test_a_job_that_does_not_exist_is_404(api: Api) -> None:
    for method in ("GET", "DELETE"):
        problem(await api.client.request(method, "/queue/jobs/01981a52-1c00-7c4e-9d2f-3b1a5e6f7081"), 404)


async def test_who_goes_away_while_text_is_on_its_way_to_them_has_the_job_cancelled(api: Api) -> None:
    gone, stuck = asyncio.Event(), asyncio.Event()
    received = iter([{"type": "http.request", "body": json.dumps(ASKED).encode(), "more_body": False}])

    async def receive() -> Any:
        if message := next(received, None):
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            stuck.set()
            await asyncio.Event().wait()

    whence: Any = {"client": ("127.0.0.1", 1), "server": ("test", 80), "scheme": "http", "http_version": "1.1"}
    what: Any = {"method": "POST", "path": "/chat/stream", "raw_path": b"/chat/stream", "root_path": ""}
    scope: Any = {"type": "http", "query_string": b"", "headers": [(b"host", b"test")], **whence, **what}
    gc.disable()
    try:
        task = asyncio.ensure_future(api.app(scope, receive, send))
        await until(lambda: api.watch.waiting > 0)
        job = await api.claim()
        api.tell(job, 0, "Hello ")
        await asyncio.wait_for(stuck.wait(), 5)
        gone.set()
        await asyncio.wait_for(task, 5)
        assert (api.watch.waiting, api.readers.reading) == (0, 0)
        await asyncio.gather(*api.services.chats._partings)
        assert await api.status(str(job.id)) == "cancelled"
    finally:
        gc.enable()
