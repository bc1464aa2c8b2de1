"""Chats through real processes: an API, a worker, RabbitMQ and a model server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, Process, eventually, in_background
from tests.servers.model_server import ModelServer, Reply, Request, after, chunk, refuses, says
from tests.servers.rabbitmq import Broker

ASKED = {"messages": [{"role": "user", "content": "Hello"}]}
TEXT = " ".join(f"word{n}" for n in range(40))

Event = tuple[str, dict[str, Any]]


def events(lines: Iterator[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def streamed(api: Api, **more: Any) -> list[Event]:
    """All events of a stream that ends by itself."""
    with api.http.stream("POST", "/chat/stream", json=ASKED | more) as response:
        assert response.status_code == 200, response.read()
        return list(events(response.iter_lines()))


def text_of(told: list[Event]) -> str:
    """The text of all tokens, of which each stands where the one before it ends."""
    text = ""
    for name, data in told:
        if name == "token":
            assert data["offset"] == len(text)
            text += data["text"]
    return text


@pytest.fixture
def installation(install: Install, database: str, vhost: str, model: ModelServer) -> Installation:
    return install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)


def both(installation: Installation) -> tuple[Api, Process]:
    api, worker = installation.serve_and_work()
    api.process.says("text-listener")
    worker.says("text-publisher")
    return api, worker


def begins(text: str, go_on: threading.Event, rest: str = "") -> Callable[[Request, Reply], Awaitable[None]]:
    """Streams this much, then the rest when it may."""

    async def behave(request: Request, reply: Reply) -> None:
        await reply.start_stream()
        await reply.piece(chunk({"index": 0, "delta": {"content": text}, "finish_reason": None}))
        while not go_on.is_set():  # noqa: ASYNC110  # another thread sets it
            await asyncio.sleep(0.02)
        if rest:
            await reply.piece(chunk({"index": 0, "delta": {"content": rest}, "finish_reason": None}))
        await reply.piece(chunk({"index": 0, "delta": {}, "finish_reason": "stop"}))
        await reply.piece(b"data: [DONE]\n\n")
        await reply.end_stream()

    return behave


class Reading:
    """A stream that is read in the background."""

    def __init__(self, api: Api, **more: Any) -> None:
        self.told: list[Event] = []
        self.status: int | None = None
        self._client = httpx.Client(base_url=api.url, timeout=60, trust_env=False)
        self._thread = threading.Thread(target=self._read, args=(more,), daemon=True)
        self._thread.start()

    def _read(self, more: dict[str, Any]) -> None:
        with suppress(httpx.HTTPError), self._client.stream("POST", "/chat/stream", json=ASKED | more) as response:
            self.status = response.status_code
            for event in events(response.iter_lines()):
                self.told.append(event)

    def begun(self) -> None:
        eventually(lambda: self.told, within=15, what="the first token")

    def ended(self, within: float = 30) -> list[Event]:
        self._thread.join(within)
        assert not self._thread.is_alive(), self.told
        self._client.close()
        return self.told


def test_a_chat_and_a_stream_give_the_same_answer(installation: Installation, model: ModelServer) -> None:
    model.default = says(TEXT, pause=0.01)
    api, _ = both(installation)
    answer = api.http.post("/chat", json=ASKED).json()
    told = streamed(api)
    assert answer["content"] == TEXT == text_of(told)
    name, done = told[-1]
    assert name == "done"
    same = ("content", "model", "provider", "usage", "finish_reason")
    assert [done[field] for field in same] == [answer[field] for field in same]
    assert len(told) > 3  # it came in parts


def test_whoever_follows_a_job_reads_its_text_as_it_comes_and_takes_it_up_where_it_was_cut_off(
    installation: Installation, model: ModelServer
) -> None:
    go_on = threading.Event()
    model.script(begins("Once upon ", go_on, "a time."))
    api, _ = both(installation)
    job = api.submit()
    api.is_running(job)
    path, last = f"/api/v1/jobs/{job['id']}/events", ""
    with api.http.stream("GET", path) as response:
        for line in response.iter_lines():
            last = line.removeprefix("id: ") if line.startswith("id: ") else last
            if line.startswith("data: ") and "Once upon" in line:
                break
    assert last == "2.0.10"
    go_on.set()
    api.finished(job)
    with api.http.stream("GET", path, headers={"Last-Event-ID": last}) as response:
        told = list(events(response.iter_lines()))
    assert [name for name, _ in told] == ["token", "status", "done"]
    assert told[0][1] == {"job_id": job["id"], "offset": 10, "text": "a time."}
    with api.http.stream("GET", path) as response:
        late = list(events(response.iter_lines()))
    assert text_of(late) == "Once upon a time."


def test_who_goes_away_cancels_a_chat_that_waits_and_one_that_runs(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="1")
    model.default = after(60, says("Too late."))
    api, _ = both(installation)

    def leaves(path: str, after: float) -> None:
        with suppress(httpx.TimeoutException), httpx.Client(base_url=api.url, timeout=after, trust_env=False) as client:
            client.post(path, json=ASKED)

    running = in_background(lambda: leaves("/chat", 5))
    model.wait_until(lambda server: server.running == 1)
    leaves("/chat/stream", 1)
    running()
    model.wait_until(lambda server: server.hang_ups == 1)
    eventually(
        lambda: installation.rows("SELECT status::text FROM jobs") == [("cancelled",), ("cancelled",)],
        within=5,
        what="both are cancelled",
    )
    assert model.calls == 1


def test_who_goes_away_in_the_middle_of_a_stream_cancels_it(installation: Installation, model: ModelServer) -> None:
    model.script(begins("Once ", threading.Event()))
    api, _ = both(installation)
    # The connection itself is closed, as by a browser's window.
    with httpx.stream("POST", f"{api.url}/chat/stream", json=ASKED, timeout=30, trust_env=False) as response:
        next(response.iter_lines())
    model.wait_until(lambda server: server.hang_ups == 1)


def test_a_chat_with_a_key_goes_on_without_its_caller_and_is_found_again(
    installation: Installation, model: ModelServer
) -> None:
    model.default = after(2, says("Here it is."))
    api, _ = both(installation)
    keyed = {"Idempotency-Key": "one"}
    with pytest.raises(httpx.TimeoutException), httpx.Client(base_url=api.url, timeout=1, trust_env=False) as client:
        client.post("/chat", json=ASKED, headers=keyed)
    answer = api.http.post("/chat", json=ASKED, headers=keyed)
    assert answer.json()["content"] == "Here it is."
    assert model.calls == 1


def test_a_chat_whose_time_is_up_is_504_whether_it_waits_or_runs(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="1")
    model.default = after(60, says("Too late."))
    api, _ = both(installation)
    running = in_background(lambda: httpx.post(f"{api.url}/chat", json=ASKED | {"timeout": 3}, timeout=30))
    model.wait_until(lambda server: server.running == 1)
    waiting = api.http.post("/chat", json=ASKED | {"timeout": 1})
    for response in (waiting, running()):
        assert response.status_code == 504, response.text
        assert response.json()["error_code"] == "timeout"
        assert api.get({"id": response.json()["job_id"]})["status"] == "cancelled"
    model.wait_until(lambda server: server.hang_ups == 1)


def test_a_rate_limit_is_429_at_once_and_an_unknown_model_503(installation: Installation, model: ModelServer) -> None:
    api, _ = both(installation)
    model.script(refuses(429, {"error": {"message": "slow down"}}), refuses(404, {"error": {"message": "no model"}}))
    limited, unknown = api.http.post("/chat", json=ASKED), api.http.post("/chat", json=ASKED)
    assert (limited.status_code, limited.json()["error_code"]) == (429, "rate_limited")
    assert limited.headers["retry-after"]
    assert (unknown.status_code, unknown.json()["error_code"]) == (503, "model_unavailable")


def test_an_open_circuit_is_503_at_once(installation: Installation, model: ModelServer) -> None:
    api, _ = both(installation)
    model.healthy = False
    model.go_down()
    first = api.http.post("/chat", json=ASKED)
    assert first.status_code == 502
    api.opened()

    def refused() -> httpx.Response | None:
        response = api.http.post("/chat", json=ASKED)
        return response if response.status_code == 503 else None

    response = eventually(refused, within=5, what="the circuit refuses")
    assert response
    assert response.json()["error_code"] == "provider_unavailable"
    assert 1 <= int(response.headers["retry-after"]) <= 6


@pytest.mark.timeout(180)
def test_a_worker_that_dies_in_the_middle_of_a_text_ends_the_stream_and_before_its_first_token_it_does_not(
    installation: Installation, model: ModelServer
) -> None:
    api, worker = both(installation)
    go_on = threading.Event()
    model.script(begins("Once ", go_on))
    reading = Reading(api)
    reading.begun()
    worker.kill()
    told = reading.ended()
    assert [name for name, _ in told] == ["token", "error"]
    assert told[-1][1]["error_code"] == "stale_worker"
    assert api.get({"id": told[-1][1]["job_id"]})["status"] == "cancelled"

    go_on.set()
    second = installation.worker()
    model.script(after(60, says("Never.")))
    calls = model.calls
    reading = Reading(api)
    model.wait_until(lambda server: server.calls == calls + 1)
    second.kill()
    model.default = says("All is well.")
    installation.worker()
    told = reading.ended(60)
    assert told[-1][0] == "done", told
    assert text_of(told) == "All is well."


@pytest.mark.timeout(180)
def test_a_text_is_whole_although_rabbitmq_went_away_in_its_middle(
    install: Install, database: str, own_rabbitmq: Broker, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=own_rabbitmq.url, LLM_BASE_URL=model.base_url)
    go_on = threading.Event()
    model.script(begins("Once upon ", go_on, "a time."))
    api, _ = both(installation)
    reading = Reading(api)
    reading.begun()
    own_rabbitmq.kill()
    go_on.set()
    told = reading.ended()
    own_rabbitmq.restart()
    assert text_of(told) == "Once upon a time."
    assert told[-1][0] == "done"


def test_without_a_broker_the_whole_text_comes_at_the_end(install: Install, database: str, model: ModelServer) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="100ms")
    model.default = says(TEXT, pause=0.01)
    api, _ = installation.serve_and_work()
    told = streamed(api)
    assert [name for name, _ in told] == ["token", "done"]
    assert text_of(told) == TEXT


def test_many_streams_at_once_are_each_whole_and_in_order(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    async def echoes(request: Request, reply: Reply) -> None:
        await says(" ".join([request.last_message] * 30), pause=0.005)(request, reply)

    model.default = echoes
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="50")
    api, _ = both(installation)

    def one(n: int) -> tuple[str, str]:
        asked = {"messages": [{"role": "user", "content": f"number-{n}"}]}
        with httpx.stream("POST", f"{api.url}/chat/stream", json=asked, timeout=60) as response:
            return " ".join([f"number-{n}"] * 30), text_of(list(events(response.iter_lines())))

    with ThreadPoolExecutor(50) as pool:
        for wanted, told in pool.map(one, range(50)):
            assert told == wanted
