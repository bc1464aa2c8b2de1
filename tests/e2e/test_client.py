"""The client while the service dies and comes back: nothing that was begun is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app.client import Client, Event, HeldJob
from tests.e2e.conftest import Install
from tests.e2e.service import Api, in_background
from tests.servers.rabbitmq import free_ports


@pytest.fixture
def port() -> int:
    [port] = free_ports(1)
    return port


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{port}", retry_for=60, trust_env=False) as client:
        yield client


def submit(client: Client) -> str:
    """A job for an external worker."""
    return client.submit(owner_service="e2e", task_type="measure", model_profile="ruler", input={}).id


def test_a_killed_service_costs_neither_a_run_nor_an_event_nor_a_wait(
    install: Install, database: str, port: int, client: Client
) -> None:
    installation = install(DATABASE_URL=database, HTTP_PORT=str(port))

    def serve() -> Api:
        process = installation.start("serve")
        process.url = f"http://127.0.0.1:{port}"
        process.answers("/readyz")
        return installation.api(process)

    running, killed, stop = threading.Event(), threading.Event(), threading.Event()

    def measure(job: HeldJob) -> dict[str, Any]:
        job.report({"half": True})
        running.set()
        assert killed.wait(30)
        return {"cm": 3}

    first = serve()
    job_id = submit(client)
    events: list[Event] = []
    seen = threading.Event()

    def follow() -> None:
        for event in client.events(job_id):
            events.append(event)
            if event.kind == "progress":
                seen.set()

    working = threading.Thread(
        target=client.work, args=(measure,), kwargs={"worker_id": "ruler", "stop": stop, "poll": 0.5}, daemon=True
    )
    following = threading.Thread(target=follow, daemon=True)
    following.start()
    working.start()
    waited = in_background(lambda: client.result(job_id, timeout=60))
    assert running.wait(20)
    assert seen.wait(20)

    first.process.kill()
    killed.set()
    serve()

    assert waited() == {"cm": 3}
    following.join(20)
    assert [event.data.get("status", event.kind) for event in events] == [
        "pending",
        "running",
        "progress",
        "completed",
        "completed",
    ]
    assert client.get(job_id).attempts == 1

    again = submit(client)
    assert client.result(again, timeout=20) == {"cm": 3}
    stop.set()
    working.join(20)
    assert not working.is_alive()
