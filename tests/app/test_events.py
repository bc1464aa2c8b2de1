"""What happens to a job, as Server-Sent Events: in process where the stream ends by itself, else over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
import uvicorn

from app.wire.events import Mark
from domain.access import ANYBODY
from domain.errors import BadInput, StorageUnavailable
from domain.job import CANCELLED_BY_CALLER, JobId
from tests.app.conftest import Api, pointers, problem, until
from tests.factories import NO_JOB


@dataclass(frozen=True)
class Seen:
    """One event as a caller reads it."""

    event: str
    id: str
    data: dict[str, Any]

    @property
    def brief(self) -> tuple[str, str, Any]:
        return self.event, self.id, self.data.get("status", self.data.get("progress"))


def parse(block: str) -> Seen | None:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if line and line[0] not in ":r")
    return Seen(fields["event"], fields["id"], json.loads(fields["data"])) if fields else None


def parse_all(text: str) -> list[Seen]:
    assert text.endswith("\n\n")
    return [seen for block in text.split("\n\n") if (seen := parse(block))]


def brief(events: Iterable[Seen]) -> list[tuple[str, str, Any]]:
    return [seen.brief for seen in events]


async def follow(api: Api, job_id: str, last: str | None = None) -> httpx.Response:
    headers = {} if last is None else {"Last-Event-ID": last}
    return await api.client.get(f"/api/v1/jobs/{job_id}/events", headers=headers)


async def told(api: Api, job_id: str, last: str | None = None) -> list[tuple[str, str, Any]]:
    """What a stream tells that ends by itself."""
    response = await follow(api, job_id, last)
    assert response.status_code == 200, response.text
    return brief(parse_all(response.text))


async def completed(api: Api) -> str:
    """A job with some history: it reported twice, and ended."""
    job_id = await api.submitted(task_type="summary")
    job = await api.lent()
    await api.report(job, "heartbeat", progress={"percent": 10})
    await api.report(job, "heartbeat", progress={"percent": 90})
    await api.report(job, "complete", result={"answer": 42})
    return job_id


HISTORY = [
    ("status", "1", "pending"),
    ("status", "2", "running"),
    ("progress", "2.2", {"percent": 90}),
    ("status", "3", "completed"),
    ("done", "3.done", "completed"),
]


async def test_a_final_job_tells_all_that_happened_and_ends(api: Api) -> None:
    assert await told(api, await completed(api)) == HISTORY


async def test_a_stream_says_what_it_is_and_that_nobody_may_keep_it(api: Api) -> None:
    response = await follow(api, await completed(api))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.text.startswith("retry: 1000\n\n")


async def test_the_events_carry_what_the_contract_says(api: Api) -> None:
    job_id = await completed(api)
    status, _, progress, _, done = parse_all((await follow(api, job_id)).text)
    assert status.data == {
        "job_id": job_id,
        "status": "pending",
        "at": "2026-03-01T12:00:00Z",
        "error_code": None,
        "error_message": None,
    }
    assert progress.data == {"job_id": job_id, "progress": {"percent": 90}, "at": "2026-03-01T12:00:00Z"}
    row = (await api.client.get(f"/api/v1/jobs/{job_id}")).json()
    assert done.data == {name: value for name, value in row.items() if name not in {"input", "result"}}


async def test_a_failure_tells_why_and_when_it_is_tried_again(api: Api) -> None:
    job_id = await api.submitted(task_type="summary")
    await api.report(await api.lent(), "fail", error_code="timeout", error_message="too slow")
    stream = cast("AsyncIterator[bytes]", await api.services.follow.job(ANYBODY, to_id(job_id), Mark(2)))
    await anext(stream)
    seen = parse((await anext(stream)).decode())
    assert seen is not None
    assert seen.brief == ("status", "3", "pending")
    assert (seen.data["error_code"], seen.data["error_message"]) == ("timeout", "too slow")
    assert seen.data["run_at"] == "2026-03-01T12:00:30Z"
    await cast("Any", stream).aclose()


async def test_what_a_worker_reports_over_several_lines_is_one_line(api: Api) -> None:
    await api.submitted(task_type="summary")
    job = await api.lent()
    body = b'{"lease_token":"%s","progress":{\r\n "text":"a\\nb",\n\r "x":1}}' % job["lease_token"].encode()
    await api.client.post(f"/api/v1/jobs/{job['id']}/heartbeat", content=body)
    await api.report(job, "complete", result={})
    [progress] = [seen for seen in parse_all((await follow(api, job["id"])).text) if seen.event == "progress"]
    assert progress.data["progress"] == {"text": "a\nb", "x": 1}


@pytest.mark.parametrize(
    ("last", "missed"),
    [("", 0), ("1", 1), ("2", 2), ("2.1", 2), ("2.2", 3), ("2.7", 3), ("3", 4)],
)
async def test_a_stream_is_taken_up_where_it_was_cut_off(api: Api, last: str, missed: int) -> None:
    assert await told(api, await completed(api), last) == HISTORY[missed:]


async def test_whoever_has_seen_the_end_is_told_that_there_is_nothing_more(api: Api) -> None:
    response = await follow(api, await completed(api), "3.done")
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    "last",
    [
        "x",
        "0",
        "-1",
        "01",
        "1.",
        "1.0",
        ".1",
        "1.1.0",
        "1.01.5",
        "1.doned",
        " 1",
        "1,2",
        "1" * 10,
        "9",
        "9.done",
        "4.1",
    ],
)
async def test_an_id_that_no_event_of_the_job_has_is_422(api: Api, last: str) -> None:
    job_id = await completed(api)
    with pytest.raises(BadInput):
        await api.services.follow.job(ANYBODY, to_id(job_id), Mark.read(last))


async def test_a_malformed_id_is_named(api: Api) -> None:
    assert pointers(await follow(api, await completed(api), "x")) == ["/Last-Event-ID"]


async def test_the_end_of_a_job_that_has_not_ended_is_no_event(api: Api) -> None:
    assert pointers(await follow(api, await api.submitted(), "1.done")) == ["/Last-Event-ID"]


async def test_a_stream_goes_on_after_the_end_that_a_retry_undid(api: Api) -> None:
    job_id = await completed(api)
    assert await follow(api, job_id, "3.done")
    failed = await api.submitted(task_type="summary")
    await api.report(await api.lent(), "fail", error_code="bad_input")
    assert (await told(api, failed))[-1] == ("done", "3.done", "failed")
    await api.client.post(f"/api/v1/jobs/{failed}/retry")
    await api.report(await api.lent(), "complete", result={})
    assert await told(api, failed, "3.done") == [
        ("status", "4", "pending"),
        ("status", "5", "running"),
        ("status", "6", "completed"),
        ("done", "6.done", "completed"),
    ]
    assert [event for event, _, _ in await told(api, failed)] == ["status"] * 6 + ["done"]


@pytest.mark.parametrize("job_id", [NO_JOB, "nonsense"])
async def test_an_unknown_job_is_404(api: Api, job_id: str) -> None:
    problem(await follow(api, job_id), 404)


async def test_nothing_is_streamed_while_the_storage_is_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await api.submitted()

    async def be_away(_: object) -> Any:
        raise StorageUnavailable

    monkeypatch.setattr(api.store, "get", be_away)
    problem(await follow(api, job_id), 503)


def to_id(job_id: str) -> JobId:
    return JobId(UUID(job_id))


class Reader:
    """A caller that reads a stream, block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self._text = response.aiter_text()
        self._read = ""

    async def block(self) -> str:
        async with asyncio.timeout(10):
            while "\n\n" not in self._read:
                self._read += await anext(self._text)
        block, _, self._read = self._read.partition("\n\n")
        return block

    async def event(self) -> tuple[str, str, Any]:
        while (seen := parse(await self.block())) is None:
            pass
        return seen.brief

    async def rest(self) -> list[tuple[str, str, Any]]:
        async with asyncio.timeout(10):
            async for text in self._text:
                self._read += text
        return brief(parse_all(self._read)) if self._read else []


@pytest.fixture
async def address(api: Api) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, ws="none", log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    api.watch.dismiss()
    server.should_exit = True
    await serving


@asynccontextmanager
async def stream(address: str, job_id: str, **headers: str) -> AsyncIterator[Reader]:
    async with (
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=10) as client,
        client.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=headers) as response,
    ):
        assert response.status_code == 200
        yield Reader(response)


async def test_events_come_as_they_happen(api: Api, address: str) -> None:
    job_id = await api.submitted(task_type="summary")
    async with stream(address, job_id) as reader:
        assert await reader.event() == ("status", "1", "pending")
        job = await api.lent()
        assert await reader.event() == ("status", "2", "running")
        for percent in (10, 20):
            await api.report(job, "heartbeat", progress={"percent": percent})
            event, _, progress = await reader.event()
            assert (event, progress) == ("progress", {"percent": percent})
        await api.report(job, "complete", result={})
        assert await reader.event() == ("status", "3", "completed")
        assert await reader.rest() == [("done", "3.done", "completed")]
    assert api.watch.waiting == 0


async def test_a_run_that_loses_its_job_to_a_retry_is_told_as_the_change_of_state_that_it_is(
    api: Api, address: str
) -> None:
    """The event that tells workers of it wakes the stream too, and is nothing new."""
    job_id = await api.submitted(task_type="summary")
    async with stream(address, job_id) as reader:
        await reader.event()
        await api.lent()
        await reader.event()
        await api.client.post(f"/api/v1/jobs/{job_id}/retry")
        assert [event.kind for event in api.events.published][-2:] == ["pending", "revoked"]
        assert await reader.event() == ("status", "3", "pending")
        await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
        assert await reader.rest() == [("status", "4", "cancelled"), ("done", "4.done", "cancelled")]


async def test_whatever_happens_between_two_looks_is_told_once_and_in_order(api: Api, address: str) -> None:
    api.events.listeners.clear()
    job_id = await api.submitted(task_type="summary")
    async with stream(address, job_id) as reader:
        assert await reader.event() == ("status", "1", "pending")
        await until(lambda: api.watch.waiting == 1)
        await api.report(await api.lent(), "release")
        job = await api.lent()
        await api.report(job, "heartbeat", progress={"percent": 10})
        await api.watch.tick()
        seen = [await reader.event() for _ in range(4)]
        await until(lambda: api.watch.waiting == 1)
        await api.report(job, "heartbeat", progress={"percent": 99})
        await api.report(job, "fail", error_code="bad_input")
        await api.watch.tick()
        seen += await reader.rest()
    assert [(event, number) for event, number, _ in seen] == [
        ("status", "2"),
        ("status", "3"),
        ("status", "4"),
        ("progress", "4.1"),
        ("progress", "4.2"),
        ("status", "5"),
        ("done", "5.done"),
    ]


async def test_a_stream_goes_on_when_a_retry_comes_before_the_next_look(api: Api, address: str) -> None:
    api.events.listeners.clear()
    job_id = await api.submitted()
    async with stream(address, job_id) as reader:
        await reader.event()
        await until(lambda: api.watch.waiting == 1)
        await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
        await api.client.post(f"/api/v1/jobs/{job_id}/retry")
        await api.watch.tick()
        assert [await reader.event() for _ in range(2)] == [("status", "2", "cancelled"), ("status", "3", "pending")]
        await until(lambda: api.watch.waiting == 1)
        await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
        await api.watch.tick()
        assert await reader.rest() == [("status", "4", "cancelled"), ("done", "4.done", "cancelled")]


async def test_silence_is_broken_by_comments(api: Api, address: str) -> None:
    object.__setattr__(api.services.follow, "keep_alive", 0.01)
    job_id = await api.submitted()
    async with stream(address, job_id) as reader:
        await reader.event()
        assert [await reader.block() for _ in range(3)] == [": keep-alive"] * 3


async def test_a_stream_ends_with_the_erasure_of_its_job(api: Api, address: str) -> None:
    job_id = await api.submitted()
    api.events.listeners.clear()
    async with stream(address, job_id) as reader:
        await reader.event()
        await until(lambda: api.watch.waiting == 1)
        await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
        await api.client.delete(f"/api/v1/jobs/{job_id}")
        await api.watch.tick()
        assert await reader.rest() == []


async def test_a_stream_ends_when_the_process_stops(api: Api, address: str) -> None:
    job_id = await api.submitted()
    async with stream(address, job_id) as reader:
        await reader.event()
        await until(lambda: api.watch.waiting == 1)
        api.watch.dismiss()
        assert await reader.rest() == []


async def test_of_a_caller_that_goes_away_nothing_is_left(api: Api, address: str) -> None:
    job_id = await api.submitted()
    for _ in range(3):
        async with stream(address, job_id) as reader:
            await reader.event()
            await until(lambda: api.watch.waiting == 1)
        await until(lambda: api.watch.waiting == 0)


async def test_head_of_a_stream_does_not_wait_for_its_end(api: Api, address: str) -> None:
    job_id = await api.submitted()
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=10) as client:
        for _ in range(2):
            response = await client.head(f"/api/v1/jobs/{job_id}/events")
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["content-type"].startswith("text/event-stream")
    await until(lambda: api.watch.waiting == 0)


async def test_a_stream_outlives_a_storage_that_is_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.follow.AGAIN_AFTER", 0.0)
    job_id = await api.submitted()
    get, outages = api.store.get, iter([True, True])

    async def get_or_not(asked: JobId) -> Any:
        if next(outages, False):
            raise StorageUnavailable
        return await get(asked)

    follow = replace(api.services.follow, keep_alive=0.01)
    events = cast("Any", await follow.job(ANYBODY, to_id(job_id), Mark()))
    assert parse((await anext(events)).decode()) is None
    first = parse((await anext(events)).decode())
    assert first is not None
    assert first.brief == ("status", "1", "pending")
    monkeypatch.setattr(api.store, "get", get_or_not)
    api.clock.advance(timedelta(seconds=1))
    await api.store.cancel([to_id(job_id)], CANCELLED_BY_CALLER)
    rest = [parse(text.decode()) async for text in events]
    assert brief(seen for seen in rest if seen) == [("status", "2", "cancelled"), ("done", "2.done", "cancelled")]
