"""The client against the real service."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from app.client import (
    AsyncClient,
    AsyncHeldJob,
    BadRequest,
    BatchJob,
    Client,
    Conflict,
    Failed,
    HeldJob,
    JobFailed,
    LeaseLost,
    NewJob,
    NotFound,
    Unauthorized,
)
from tests.e2e.service import practising
from tests.servers.postgres import Databases


@pytest.fixture(scope="module")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real service, shared by a file's tests: each has owners of its own."""
    with practising(databases, tmp_path_factory.mktemp("service")) as url:
        yield url


@pytest.fixture
def owner() -> str:
    """Of this test's jobs alone."""
    return f"owner-{uuid4().hex[:8]}"


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    with Client(service, trust_env=False) as client:
        yield client


@pytest.fixture
async def async_client(service: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service, trust_env=False) as client:
        yield client


def chat(owner: str, **changes: Any) -> NewJob:
    new: NewJob = {
        "owner_service": owner,
        "task_type": "llm_chat",
        "model_profile": "practice",
        "input": {"user": "Hello"},
    }
    return cast("NewJob", new | changes)


def external(owner: str, **changes: Any) -> NewJob:
    """A job that only an external worker can do, and only one that asks for this owner's."""
    return chat(owner, task_type="measure", model_profile="ruler", **changes)


def test_a_job_from_submission_to_result(client: Client, owner: str):
    job = client.submit(**chat(owner, labels={"shop": "7"}, priority="high", owner_ref="order/1"))

    assert client.result(job.id, timeout=20)["content"] == "Practice answer to: Hello"
    done = client.get(job.id)
    assert (done.status, done.attempts, done.labels, done.priority) == ("completed", 1, {"shop": "7"}, "high")
    assert done.input == {"user": "Hello"}
    [run] = client.runs(job.id)
    assert (run.outcome, run.ended_at is not None) == ("completed", True)


def test_a_key_names_a_job_once_and_for_all(client: Client, owner: str):
    first = client.submit(**chat(owner, idempotency_key="k"))

    assert client.submit(**chat(owner, idempotency_key="k")).id == first.id
    with pytest.raises(BadRequest) as refused:
        client.submit(**chat(owner, idempotency_key="k", priority="low"))
    assert [error["pointer"] for error in refused.value.errors] == ["/idempotency_key"]


def test_a_batch_is_stored_whole_and_listed_page_by_page(client: Client, owner: str):
    later = datetime.now(UTC) + timedelta(hours=1)
    jobs: list[BatchJob] = [{"input": {"user": str(number)}} for number in range(25)]
    batch = client.submit_many(jobs, defaults=cast("BatchJob", chat(owner, run_at=later)))

    listed = list(client.list(owner_service=owner, batch_id=batch.batch_id, page_size=10, oldest_first=True))
    assert (batch.created, batch.existing) == (25, 0)
    assert [job.id for job in listed] == [each.id for each in batch.jobs]
    [newest] = client.page(owner_service=owner, limit=1).jobs
    assert newest.id == batch.jobs[-1].id
    with_input = next(client.list(owner_service=owner, include=["input"], created_after=later - timedelta(hours=2)))
    assert with_input.input == {"user": "24"}


def test_a_batch_with_a_bad_job_is_refused_whole(client: Client, owner: str):
    with pytest.raises(BadRequest, match="/jobs/1/max_attempts"):
        client.submit_many([chat(owner), chat(owner, max_attempts=0)])
    assert not list(client.list(owner_service=owner))


def test_a_failed_job_says_why(client: Client, owner: str):
    job = client.submit(**chat(owner, input={"user": "x", "practice": {"error_code": "context_length"}}))

    with pytest.raises(JobFailed) as failed:
        client.result(job.id, timeout=20)
    assert failed.value.error_code == "context_length"


def test_jobs_are_steered_one_by_one_and_all_together(client: Client, owner: str):
    jobs = [client.submit(**external(owner)) for _ in range(3)]

    assert client.cancel(jobs[0].id).status == "cancelled"
    assert client.cancel_all(owner_service=owner, dry_run=True).matched == 2
    assert client.cancel_all(owner_service=owner, ids=[jobs[1].id]).changed == 1
    assert client.cancel_all(owner_service=owner).changed == 1
    assert client.retry(jobs[0].id).status == "pending"
    assert client.retry_all(owner_service=owner, status="cancelled").changed == 2
    with pytest.raises(BadRequest):
        client.cancel_all()
    with pytest.raises(Conflict):
        client.retry(jobs[0].id)


def test_final_jobs_can_be_erased(client: Client, owner: str):
    one, other, unfinished = (client.submit(**external(owner, owner_ref="order/1")) for _ in range(3))
    client.cancel_all(ids=[one.id, other.id])

    client.erase(one.id)
    with pytest.raises(NotFound):
        client.get(one.id)
    with pytest.raises(Conflict):
        client.erase(unfinished.id)
    erased = client.erase_all("order/1", owner_service=owner)
    assert (erased.erased, erased.unfinished) == (1, 1)


def test_a_job_tells_its_story_and_can_be_asked_again_for_the_rest(client: Client, owner: str):
    job = client.submit(**chat(owner))

    events = list(client.events(job.id))
    told = [event.data.get("status", "text") for event in events]
    assert told == ["pending", "running", "text", "completed", "completed"]
    assert events[-1].job is not None
    assert [event.id for event in client.events(job.id, events[1].id)] == [event.id for event in events[2:]]
    assert not list(client.events(job.id, events[-1].id))


def test_the_service_tells_of_itself(client: Client, owner: str):
    client.result(client.submit(**chat(owner)).id, timeout=20)

    queue, speech = client.queues()
    [worker] = client.workers()
    stats = client.stats()
    assert (queue.name, queue.workers, queue.slots) == ("gpu.llm", 1, 4)
    assert (speech.name, speech.workers, speech.slots) == ("gpu.speech", 1, 4)
    assert (queue.paused, queue.concurrency, queue.circuit.state) == (False, None, "closed")
    assert (worker.queues, worker.slots_per_queue) == (("gpu.llm", "gpu.speech"), 4)
    assert stats.as_of.tzinfo is not None
    assert stats.throughput is not None
    assert stats.jobs.raw.keys() >= {"pending", "completed"}


def test_a_queue_is_held_and_let_go(client: Client, owner: str):
    assert client.pause_queue("gpu.llm").paused
    job = client.submit(**chat(owner))
    assert client.claim("outside", owner_services=[owner]) == ()
    assert client.stop_queue("gpu.llm").stopped
    assert client.queue_status("gpu.llm").queue_size >= 0
    held = client.resume_queue("gpu.llm")
    assert (held.paused, held.stopped) == (False, True)
    assert client.get(job.id).status == "pending"
    assert not client.start_queue("gpu.llm").stopped
    assert client.result(job.id, timeout=20)


def test_all_queues_are_held_and_let_go(client: Client):
    assert client.pause_all().paused
    assert not client.stop_all().running
    status = client.queue_status()
    assert (status.running, status.paused, status.current_job_ids) == (False, True, ())
    assert not client.resume_all().paused
    status = client.start_all()
    assert (status.running, [queue.name for queue in status.queues]) == (True, ["gpu.llm", "gpu.speech"])


def test_a_circuit_is_closed(client: Client):
    assert client.close_circuit("gpu.llm").circuit.state == "closed"


def test_an_unknown_queue_is_told_with_those_that_there_are(client: Client):
    for steer in (client.pause_queue, client.start_queue, client.close_circuit, client.queue_status):
        with pytest.raises(NotFound, match=r"There is no queue 'gpu\.cats'; known: gpu\.llm"):
            steer("gpu.cats")


async def test_the_async_client_steers_queues_too(async_client: AsyncClient):
    async with asyncio.timeout(30):
        assert (await async_client.pause_queue("gpu.llm")).paused
        assert not (await async_client.resume_queue("gpu.llm")).paused
        assert (await async_client.stop_queue("gpu.llm")).stopped
        assert not (await async_client.start_queue("gpu.llm")).stopped
        assert (await async_client.pause_all()).paused
        assert not (await async_client.resume_all()).paused
        assert not (await async_client.stop_all()).running
        assert (await async_client.start_all()).running
        assert (await async_client.queue_status()).running
        assert (await async_client.close_circuit("gpu.llm")).circuit.state == "closed"


def test_a_worker_may_take_every_step_by_itself(client: Client, owner: str):
    submitted = [client.submit(**external(owner, max_attempts=1)) for _ in range(3)]
    done, failed, given_back = client.claim("ruler-1", limit=10, lease_timeout=30, owner_services=[owner])

    assert [job.id for job in (done, failed, given_back)] == [job.id for job in submitted]
    assert client.heartbeat(done.id, done.lease_token, {"half": True}).job_id == done.id
    assert client.get(done.id).progress == {"half": True}
    assert client.complete(done.id, done.lease_token, {"cm": 3}).result == {"cm": 3}
    assert client.complete(done.id, done.lease_token, {"cm": 3}).status == "completed"
    assert client.fail(failed.id, failed.lease_token, "bad_input", "No object.").status == "failed"
    assert client.release(given_back.id, given_back.lease_token).status == "pending"
    with pytest.raises(LeaseLost):
        client.heartbeat(given_back.id, given_back.lease_token)


def test_a_wrong_token_is_told(databases: Databases, tmp_path: Path):
    with practising(databases, tmp_path, AI_SERVICE_TOKEN="s3cret-à") as service:
        with Client(service, token="s3cret-à", trust_env=False) as client:
            assert client.page().jobs == ()
        with Client(service, token="wrong", trust_env=False) as client, pytest.raises(Unauthorized):
            client.page()


def test_a_worker_in_threads_does_what_others_submit(client: Client, owner: str):
    stop = threading.Event()

    def measure(job: HeldJob) -> dict[str, Any]:
        assert job.input
        job.report({"measured": job.input["n"]})
        if job.input["n"] == 2:
            raise Failed("bad_input", "Two cannot be measured.")
        return {"cm": job.input["n"]}

    jobs = [client.submit(**external(owner, input={"n": number})) for number in range(5)]
    terms: dict[str, Any] = {
        "worker_id": "ruler",
        "concurrency": 2,
        "owner_services": [owner],
        "poll": 0.5,
        "stop": stop,
    }
    working = threading.Thread(target=client.work, args=(measure,), kwargs=terms)
    working.start()
    ended = [client.wait(job.id, timeout=20) for job in jobs]
    stop.set()
    working.join(20)

    assert [job.status for job in ended] == ["completed", "completed", "failed", "completed", "completed"]
    assert ended[4].result == {"cm": 4}
    assert (ended[2].error_code, ended[2].error_message) == ("bad_input", "Two cannot be measured.")


async def test_a_worker_in_tasks_stops_when_its_job_is_cancelled(async_client: AsyncClient, owner: str):
    job = await async_client.submit(**external(owner))
    stop, started, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def measure(held: AsyncHeldJob) -> dict[str, Any]:
        started.set()
        try:
            while True:
                await held.report({})
        finally:
            stopped.set()

    working = asyncio.create_task(
        async_client.work(measure, worker_id="ruler", owner_services=[owner], poll=0.5, lease_timeout=5, stop=stop)
    )
    async with asyncio.timeout(20):
        await started.wait()
        await async_client.cancel(job.id)
        await stopped.wait()
        stop.set()
        await working
    assert (await async_client.get(job.id)).status == "cancelled"


async def test_the_async_client_reads_all_of_it_too(async_client: AsyncClient, owner: str):
    async with asyncio.timeout(30):
        job = await async_client.submit(**chat(owner))
        await async_client.submit_many([chat(owner)])
        events = [event.kind async for event in async_client.events(job.id)]
        result = await async_client.result(job.id)
        listed = [each.id async for each in async_client.list(owner_service=owner, page_size=1)]

    assert events[-1] == "done"
    assert result["model"] == "practice"
    assert (len(listed), listed[-1]) == (2, job.id)
    assert await async_client.runs(job.id)
    assert await async_client.queues()
    assert await async_client.workers()
    assert (await async_client.stats()).as_of
    assert (await async_client.page(owner_service=owner)).next_cursor is None


WORKER = """
import sys
import time

from app.client import Client


def measure(job):
    print(job.id, flush=True)
    job.lost.wait(30)
    job.report({})


with Client(sys.argv[1], trust_env=False) as client:
    client.work(measure, worker_id="ruler", owner_services=[sys.argv[2]], poll=0.5)
"""


def test_a_worker_that_is_interrupted_gives_its_job_back(client: Client, service: str, owner: str):
    job = client.submit(**external(owner))
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, service, owner], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as working:
        assert working.stdout
        assert working.stdout.readline().strip() == job.id
        working.send_signal(signal.SIGINT)
        _, complaint = working.communicate(timeout=30)

    given_back = client.get(job.id)
    assert (given_back.status, given_back.attempts) == ("pending", 0)
    assert complaint.rstrip().endswith("KeyboardInterrupt")
