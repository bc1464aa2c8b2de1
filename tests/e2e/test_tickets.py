"""RabbitMQ only wakes: whatever becomes of its tickets, jobs complete; and where it is, they start at once."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Installation, eventually
from tests.servers.model_server import ModelServer, after, says
from tests.servers.rabbitmq import Broker

QUEUE = "gpu.llm"
PATIENT = "60s"
"""A poll interval so long that only tickets can have woken a worker in time."""


def queue_path(vhost: str, queue: str = "") -> str:
    return f"/queues/{quote(urlsplit(vhost).path[1:], safe='') or '%2F'}/{queue}".rstrip("/")


def queues(rabbitmq: Broker, vhost: str) -> dict[str, dict[str, Any]]:
    """Those that lie there for good: a process that listens to events has its own as long as it is connected."""
    found = {queue["name"]: queue for queue in rabbitmq.management("GET", queue_path(vhost))}
    return {name: queue for name, queue in found.items() if not queue["exclusive"]}


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_there_is_one_queue_per_gpu_queue_and_nothing_beside_it_but_for_events(
    install: Install, database: str, vhost: str, rabbitmq: Broker, model: ModelServer, queue_type: str
) -> None:
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=model.base_url,
        RABBITMQ_QUEUE_TYPE=queue_type,
        WORKER_POLL_INTERVAL=PATIENT,
    )
    api, _ = installation.serve_and_work()
    model.default = after(0.1, says("The answer."))
    assert {job["status"] for job in api.all_finished(api.submit_many(20))} == {"completed"}

    found = eventually(lambda: queues(rabbitmq, vhost), within=10, what="the management API shows queues")
    of_jobs = {name: queue["type"] for name, queue in found.items() if not name.startswith("ai.events.")}
    assert of_jobs == {QUEUE: queue_type}
    assert found[QUEUE]["durable"]


def test_jobs_complete_although_the_queue_is_purged_and_deleted_under_them(
    install: Install, database: str, vhost: str, rabbitmq: Broker, model: ModelServer
) -> None:
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL=PATIENT
    )
    model.default = after(0.1, says("The answer."))
    api, worker = installation.serve_and_work()

    jobs = api.submit_many(40)
    model.wait_until(lambda server: server.calls > 8)
    rabbitmq.management("DELETE", queue_path(vhost, f"{QUEUE}/contents"))
    assert {job["status"] for job in api.all_finished(jobs)} == {"completed"}

    jobs = api.submit_many(40)
    model.wait_until(lambda server: server.calls > 48)
    rabbitmq.management("DELETE", queue_path(vhost, QUEUE))
    jobs += api.submit_many(10)
    assert {job["status"] for job in api.all_finished(jobs)} == {"completed"}

    eventually(lambda: QUEUE in queues(rabbitmq, vhost), within=10, what="the queue is there again")
    assert api.finished(api.submit(), within=10)["status"] == "completed"
    assert worker.running


@pytest.mark.timeout(120)
def test_without_rabbitmq_workers_look_for_themselves_and_tickets_flow_when_it_comes_back(
    install: Install, database: str, own_rabbitmq: Broker, model: ModelServer
) -> None:
    own_rabbitmq.kill()
    installation = install(
        DATABASE_URL=database, AMQP_URL=own_rabbitmq.url, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="500ms"
    )
    api = installation.serve()
    api.process.answers("/readyz")
    worker = installation.worker()
    assert {job["status"] for job in api.all_finished(api.submit_many(10))} == {"completed"}

    own_rabbitmq.restart()
    eventually(lambda: consumers(own_rabbitmq) == 1, within=30, what="the worker consumes")
    patient_worker = only_tickets(installation)
    worker.terminate()
    assert worker.exit_code() == 0
    eventually(lambda: consumers(own_rabbitmq) == 1, within=10, what="only the patient worker consumes")
    for _ in range(3):
        assert api.finished(api.submit(), within=10)["status"] == "completed"
    assert patient_worker.running


def only_tickets(installation: Installation) -> Any:
    return installation.worker(WORKER_POLL_INTERVAL=PATIENT)


def consumers(rabbitmq: Broker) -> int:
    """How many consumers of tickets RabbitMQ knows of right now, which its figures tell only seconds later."""
    return len([each for each in rabbitmq.management("GET", "/consumers") if each["queue"]["name"] == QUEUE])


def test_without_any_broker_a_worker_finds_its_jobs_by_looking(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="200ms")
    api, _ = installation.serve_and_work()
    jobs = api.all_finished(api.submit_many(30))
    assert {(job["status"], job["attempts"]) for job in jobs} == {("completed", 1)}


def test_the_command_of_dramatiq_runs_the_same_worker(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    model.default = after(0.2, says("The answer."))
    api = installation.serve()
    worker = installation.start(
        *("app.worker:setup", "-Q", QUEUE, "-p", "1", "-t", "4"), script="dramatiq", WORKER_POLL_INTERVAL=PATIENT
    )
    eventually(lambda: installation.rows("SELECT 1 FROM workers"), within=20, what="the worker's first heartbeat")
    jobs = api.submit_many(20)
    model.wait_until(lambda server: server.most_at_once == 4)
    assert {(job["status"], job["attempts"]) for job in api.all_finished(jobs)} == {("completed", 1)}

    model.script(after(1, says("The answer.")))
    last = api.submit()
    api.is_running(last)
    worker.terminate()
    assert worker.exit_code() == 0
    assert api.get(last)["status"] == "completed"
    assert installation.rows("SELECT count(*) FROM workers") == [(0,)]
