from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from actors.runtime import BEAT_INTERVAL
from app.server import bind
from app.worker_endpoints import READY_WITHIN, WorkerEndpoints
from tests.actors.rig import Shop, Stage, until
from tests.factories import new_job


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0, "WORKER_HTTP_PORT") as listener:
        yield listener


def ask(listener: socket.socket, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", trust_env=False, timeout=5)


def test_a_worker_shows_figures_and_no_payload(listener: socket.socket) -> None:
    held = Stage(holds=True)
    with Shop({"llm_chat": held}) as shop:
        endpoints = WorkerEndpoints(shop.runtime, host="", port=0, listener=listener)
        endpoints.after_worker_boot(shop.broker, shop.worker)
        (job,) = shop.submit(new_job())
        until(lambda: held.started)
        until(lambda: shop.runtime.status().last_beat_at)
        status = ask(listener, "/worker/status")
        assert ask(listener, "/healthz").status_code == 200
        assert ask(listener, "/readyz").status_code == 200
        endpoints.after_worker_shutdown(shop.broker, shop.worker)
        held.let_go(job)
        shop.done(job)

    assert status.json()["current_jobs"] == [{"id": str(job), "task_type": "llm_chat", "queue": "gpu.llm"}]
    assert "Hello" not in status.text
    assert "worker-http" not in {thread.name for thread in threading.enumerate()}


def test_a_worker_whose_beats_are_lost_is_not_ready(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert READY_WITHIN.total_seconds() > 2 * BEAT_INTERVAL
    monkeypatch.setattr("app.worker_endpoints.READY_WITHIN", READY_WITHIN * 0)
    with Shop({"llm_chat": Stage()}) as shop:
        endpoints = WorkerEndpoints(shop.runtime, host="", port=0, listener=listener)
        endpoints.after_worker_boot(shop.broker, shop.worker)
        assert ask(listener, "/readyz").status_code == 503
        assert ask(listener, "/healthz").status_code == 200
        endpoints.after_worker_shutdown(shop.broker, shop.worker)


def test_the_first_process_owns_the_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with Shop({"llm_chat": Stage()}) as shop:
        second = WorkerEndpoints(shop.runtime, host="127.0.0.1", port=port)
        second.after_worker_boot(shop.broker, shop.worker)
        second.after_worker_shutdown(shop.broker, shop.worker)

    assert "worker-http" not in {thread.name for thread in threading.enumerate()}


def test_endpoints_that_are_stopped_at_once_end(listener: socket.socket) -> None:
    with Shop({"llm_chat": Stage()}) as shop:
        endpoints = WorkerEndpoints(shop.runtime, host="", port=0, listener=listener)
        endpoints.after_worker_boot(shop.broker, shop.worker)
        endpoints.after_worker_shutdown(shop.broker, shop.worker)

    assert "worker-http" not in {thread.name for thread in threading.enumerate()}
