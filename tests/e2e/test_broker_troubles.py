"""RabbitMQ in every trouble: no job is lost, processes go on by themselves, and what it costs is only a little time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import httpx
import pytest
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, Process, eventually
from tests.servers.model_server import ModelServer, after, says
from tests.servers.rabbitmq import Broker
from tests.servers.tcp_proxy import TcpProxy

QUEUE = "gpu.llm"
EXCHANGE = "ai.events"
PATIENT = "60s"
"""A poll interval so long that only tickets can have woken a worker in time."""

OF_BROKER = ("broker", "dramatiq", "pika", "declared otherwise", "tickets refused")
"""What log lines say that have to do with RabbitMQ."""

SECONDS = 0.2
"""What a job takes."""

SLOTS = 4

LOAD = 0.6
"""Of what could be done: jobs that come one by one."""

WATCHED = 2.5
"""Seconds for which they come."""

KEPT = 0.8
"""Of the throughput with RabbitMQ, without it."""


def wake_by_tickets(api: Api, *, within: float = 30) -> None:
    """Return when jobs start at once on a worker that does not look for itself."""

    def starts_at_once() -> bool:
        began = time.monotonic()
        return api.finished(api.submit(), within=within)["status"] == "completed" and time.monotonic() - began < 2

    eventually(starts_at_once, within=within, what="tickets wake a worker")


def is_calm(*processes: Process) -> None:
    """No flood in the log: however long RabbitMQ is away, and however often it is tried."""
    for process in processes:
        lines = [line for line in process.said.splitlines() if any(word in line for word in OF_BROKER)]
        assert len(lines) < 40, "\n".join(lines)
        assert "Traceback" not in process.said, process.said[-3000:]


@contextmanager
def by_hand(url: str) -> Iterator[BlockingChannel]:
    connection = BlockingConnection(URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


@pytest.mark.timeout(120)
def test_every_process_starts_without_rabbitmq_and_uses_it_when_it_comes_and_when_it_was_emptied(
    install: Install, database: str, own_rabbitmq: Broker, model: ModelServer
) -> None:
    own_rabbitmq.kill()
    installation = install(DATABASE_URL=database, AMQP_URL=own_rabbitmq.url, LLM_BASE_URL=model.base_url)
    api, worker = installation.serve_and_work(WORKER_POLL_INTERVAL="300ms")
    scheduler = installation.start("scheduler")
    assert component(api, "broker") == "down"
    began = time.monotonic()
    jobs = api.submit_many(20)
    assert time.monotonic() - began < 10, "publishing does not hold callers up"
    assert {(job["status"], job["attempts"]) for job in api.all_finished(jobs)} == {("completed", 1)}
    patient = installation.worker(WORKER_POLL_INTERVAL=PATIENT)
    worker.terminate()

    own_rabbitmq.restart()
    wake_by_tickets(api)
    eventually(lambda: component(api, "broker") == "ok", within=10, what="the broker is said to be there")
    own_rabbitmq.wipe()
    wake_by_tickets(api)
    assert worker.exit_code() == 0
    is_calm(api.process, patient, scheduler)


def component(api: Api, name: str) -> str:
    """What the readiness of a component is."""
    answer = httpx.get(f"{api.url}/readyz", trust_env=False, timeout=5)
    assert answer.status_code == 200, "RabbitMQ is no reason not to be ready"
    return str(answer.json()["components"][name])


@pytest.mark.timeout(120)
def test_what_somebody_declared_by_hand_is_used_as_it_is(
    install: Install, database: str, vhost: str, rabbitmq: Broker, model: ModelServer
) -> None:
    with by_hand(vhost) as channel:
        channel.queue_declare(QUEUE, durable=False, arguments={"x-max-length": 100})
        channel.exchange_declare(EXCHANGE, "fanout")
        installation = install(
            DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL=PATIENT
        )
        api, worker = installation.serve_and_work()
        wake_by_tickets(api)
        jobs = api.submit_many(20)
        assert {(job["status"], job["attempts"]) for job in api.all_finished(jobs)} == {("completed", 1)}
        is_calm(api.process, worker)
        for process, name in ((api.process, EXCHANGE), (worker, QUEUE), (worker, EXCHANGE)):
            warnings = [line for line in process.said.splitlines() if "declared otherwise" in line and name in line]
            assert len(warnings) == 1

        for _ in range(2):  # under live consumers and publishers
            channel.queue_purge(QUEUE)
            jobs = api.submit_many(5)
            channel.queue_delete(QUEUE)
            channel.exchange_delete(EXCHANGE)
            jobs += api.submit_many(5)
            assert {(job["status"], job["attempts"]) for job in api.all_finished(jobs)} == {("completed", 1)}
        wake_by_tickets(api)
        eventually(lambda: declared(channel), within=15, what="what is missing is declared as configured")
    is_calm(api.process, worker)


def declared(channel: BlockingChannel) -> bool:
    """Whether our own declarations hold; asked on a channel that a refusal may close."""
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "classic"})
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    return True


@pytest.mark.timeout(120)
def test_a_connection_that_falls_silent_is_found_out_and_meanwhile_workers_look_for_themselves(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    address = urlsplit(vhost)
    with TcpProxy(address.hostname or "", address.port or 0) as door:
        through = address._replace(netloc=address.netloc.replace(f":{address.port}", f":{door.port}")).geturl()
        installation = install(DATABASE_URL=database, AMQP_URL=f"{through}?heartbeat=1", LLM_BASE_URL=model.base_url)
        api, worker = installation.serve_and_work(WORKER_POLL_INTERVAL="300ms")
        wake_by_tickets(api)
        door.hush()
        began = time.monotonic()
        jobs = api.submit_many(10)
        assert time.monotonic() - began < 10, "publishing does not hold callers up"
        assert {job["status"] for job in api.all_finished(jobs)} == {"completed"}
        for link in ("ticket-publisher", "event-publisher", "event-listener"):
            connects_again(api.process, link)
        for link in (f"tickets of {QUEUE}", "event-publisher", "event-listener"):
            connects_again(worker, link)
        wake_by_tickets(api)
        is_calm(api.process, worker)


def connects_again(process: Process, link: str) -> None:
    def times() -> int:
        return len([line for line in process.said.splitlines() if "broker connected" in line and link in line])

    eventually(lambda: times() >= 2, within=30, what=f"{process.name} connects its {link} again")


@pytest.mark.timeout(180)
def test_without_rabbitmq_for_good_nearly_as_many_jobs_of_200_ms_complete_as_with_it(
    install: Install,
    database: str,
    own_rabbitmq: Broker,
    model: ModelServer,
    record_property: Callable[[str, object], None],
) -> None:
    model.default = after(SECONDS, says("The answer."))
    installation = install(
        DATABASE_URL=database, AMQP_URL=own_rabbitmq.url, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS)
    )
    api, _ = installation.serve_and_work()
    wake_by_tickets(api)
    before = Throughput.measured(installation, api)
    own_rabbitmq.kill()
    eventually(lambda: component(api, "broker") == "down", within=10, what="its absence is noticed")
    without = Throughput.measured(installation, api)

    record_property("with RabbitMQ", asdict(before))
    record_property("without RabbitMQ", asdict(without))
    assert without.backlog >= KEPT * before.backlog, (before, without)
    assert without.arriving >= KEPT * before.arriving, (before, without)


@dataclass(frozen=True)
class Throughput:
    """Jobs per second."""

    backlog: float
    """Of many jobs that were there at once."""
    arriving: float
    """Of jobs that came one by one, at `LOAD` of what could be done."""
    waited: float
    """Seconds from the submission of one that came by itself to its start, at the median."""

    @classmethod
    def measured(cls, installation: Installation, api: Api) -> Throughput:
        jobs = [job["id"] for job in api.submit_batch(int(WATCHED * SLOTS / SECONDS))]
        backlog = jobs_per_second(installation, jobs, since="started_at")
        arrived: list[str] = []
        began = time.monotonic()
        while (late := time.monotonic() - began) < WATCHED:
            if len(arrived) <= late * LOAD * SLOTS / SECONDS:
                arrived.append(api.submit()["id"])
            else:
                time.sleep(0.005)
        arriving = jobs_per_second(installation, arrived, since="created_at")
        waited = installation.rows(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - created_at))::float "
            "FROM jobs WHERE id = ANY($1)",
            arrived,
        )
        return cls(backlog, arriving, waited[0][0])


def jobs_per_second(installation: Installation, jobs: list[str], *, since: str) -> float:
    """Until the last one ended."""
    ended = "SELECT count(*) FROM jobs WHERE id = ANY($1) AND status = 'completed'"
    eventually(lambda: installation.rows(ended, jobs)[0][0] == len(jobs), within=60, what="all complete")
    took = f"SELECT extract(epoch FROM max(finished_at) - min({since}))::float FROM jobs WHERE id = ANY($1)"
    return len(jobs) / float(installation.rows(took, jobs)[0][0])
