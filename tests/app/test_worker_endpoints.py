"""What a worker process shows of itself, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from structlog.testing import capture_logs

from actors.runtime import Identity, Runtime, WorkerParts
from app.scrape import Sample
from app.server import bind, url_of
from app.worker_endpoints import READY_WITHIN, WorkerEndpoints


def never_opened() -> AbstractAsyncContextManager[WorkerParts]:
    raise AssertionError


class FakeRuntime(Runtime):
    """A worker that is not started; its last beat is as old as a test wants it."""

    def __init__(self) -> None:
        identity = Identity(uuid4(), "gpu-1", "host-1")
        super().__init__(never_opened, identity=identity, slots=4, poll_interval=2.0, grace=1.0)

    def beaten(self, ago: timedelta) -> None:
        self._last_beat = datetime.now(UTC) - ago


class Counting:
    """Counts nothing, and shows what it is told besides."""

    def page(self, accept: str, figures: Iterable[Sample] = ()) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", "".join(
            f"{name}{labels} {value}\n" for name, labels, value in figures
        ).encode()


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def worker() -> Worker:
    return Worker(StubBroker())


@pytest.fixture
def client(runtime: FakeRuntime, worker: Worker) -> Iterator[httpx.Client]:
    listener = bind("127.0.0.1", 0, "WORKER_HTTP_PORT")
    endpoints = WorkerEndpoints(runtime, Counting(), host="", port=0, listener=listener)
    endpoints.after_worker_boot(worker.broker, worker)
    with httpx.Client(base_url=url_of(listener), timeout=10) as client:
        yield client
    endpoints.after_worker_shutdown(worker.broker, worker)


def test_a_process_that_answers_is_alive(client: httpx.Client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_it_is_ready_while_its_last_beat_is_young(client: httpx.Client, runtime: FakeRuntime):
    assert client.get("/readyz").status_code == 503
    runtime.beaten(timedelta(0))
    assert client.get("/readyz").status_code == 200
    runtime.beaten(READY_WITHIN)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "down"})


def test_its_status_is_figures(client: httpx.Client, runtime: FakeRuntime):
    answer = client.get("/worker/status")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "worker_id": runtime.identity.worker_id,
        "host": "host-1",
        "queues": [],
        "concurrency": 0,
        "paused": False,
        "current_jobs": [],
        "outcomes": {},
        "last_claim_at": None,
        "last_beat_at": None,
    }


def test_its_metrics_say_what_it_can_use(client: httpx.Client, runtime: FakeRuntime):
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"
    assert "aijobs_up('storage',) 0.0\n" in answer.text
    runtime.beaten(timedelta(0))
    assert client.get("/metrics").text == "aijobs_up('storage',) 1.0\naijobs_up('broker',) 1.0\n"


def test_there_is_nothing_else(client: httpx.Client):
    assert client.get("/schema").status_code == 404


def test_it_is_only_read(client: httpx.Client):
    refused = client.post("/healthz")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    head = client.head("/healthz")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "15", b"")


def test_a_second_process_on_the_port_goes_on_without(client: httpx.Client, worker: Worker):
    endpoints = WorkerEndpoints(FakeRuntime(), Counting(), host="127.0.0.1", port=client.base_url.port or 0)
    with capture_logs() as events:
        endpoints.after_worker_boot(worker.broker, worker)
    endpoints.after_worker_shutdown(worker.broker, worker)
    assert [event["event"] for event in events] == ["the worker port is not ours"]
    assert client.get("/healthz").status_code == 200


def test_after_its_shutdown_the_port_is_free(runtime: FakeRuntime, worker: Worker):
    listener = bind("127.0.0.1", 0, "WORKER_HTTP_PORT")
    port = listener.getsockname()[1]
    endpoints = WorkerEndpoints(runtime, Counting(), host="", port=0, listener=listener)
    endpoints.after_worker_boot(worker.broker, worker)
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
    endpoints.after_worker_shutdown(worker.broker, worker)
    bind("127.0.0.1", port, "WORKER_HTTP_PORT").close()
