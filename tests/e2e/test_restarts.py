"""Rolling restarts under load: nobody's job pays for them, and no caller loses an answer that he was owed.

RESTART_ROUNDS says how often each process is replaced; ten rounds were tried as well.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Api, Process, eventually
from tests.servers.counting import CountingServer

ROUNDS = int(os.environ.get("RESTART_ROUNDS", "2"))
WORKERS = 3
SLOTS = 3


@pytest.fixture
def counting() -> Iterator[CountingServer]:
    with CountingServer(takes=0.5) as server:
        yield server


@contextmanager
def meanwhile(*tasks: Callable[[threading.Event], None]) -> Iterator[None]:
    """Each task goes on, in a thread of its own, until its event is set; what one raises is raised here."""
    over = threading.Event()
    with ThreadPoolExecutor(len(tasks)) as threads:
        going = [threads.submit(task, over) for task in tasks]
        try:
            yield
        finally:
            over.set()
        for task in going:
            task.result()


@pytest.mark.timeout(120 + 60 * ROUNDS)
def test_rolling_restarts_of_all_workers_cost_no_job_an_attempt_and_none_runs_twice_at_a_time(
    install: Install,
    database: str,
    vhost: str,
    counting: CountingServer,
    record_property: Callable[[str, object], None],
) -> None:
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=counting.base_url,
        WORKER_CLAIM_LIMIT=str(SLOTS),
        SHUTDOWN_GRACE="250ms",  # half of the jobs that run at a stop are handed back
    )
    api, first = installation.serve_and_work()
    workers = [first, *(installation.worker() for _ in range(WORKERS - 1))]
    numbers, jobs = count(), list[dict[str, Any]]()

    def keep_them_busy(over: threading.Event) -> None:
        while not over.wait(0.3):
            if api.queue()["pending"] < 4 * SLOTS * WORKERS:
                jobs.extend(api.submit(input={"user": f"Number {next(numbers)}"}) for _ in range(SLOTS * WORKERS))

    with meanwhile(keep_them_busy):
        for each in range(ROUNDS * WORKERS):
            leaving = workers.pop(0)
            if each % 2:
                workers.append(installation.worker())
                leaving.terminate()
            else:
                leaving.terminate()
                workers.append(installation.worker())
            assert leaving.exit_code() == 0

    api.all_finished(jobs, within=60)
    assert installation.rows("SELECT status, attempts, crashes, count(*) FROM jobs GROUP BY 1, 2, 3") == [
        ("completed", 1, 0, len(jobs))
    ]
    assert set(counting.most_of.values()) == {1}
    outcomes = dict(installation.rows("SELECT outcome, count(*) FROM runs GROUP BY 1"))
    assert outcomes.keys() <= {"completed", "released"}
    assert outcomes["completed"] == len(jobs)
    record_property("restarts", ROUNDS * WORKERS)
    record_property("outcomes", outcomes)


@dataclass
class Callers:
    """Callers who go on with the next API process whenever one is gone."""

    urls: list[str]
    """Where API processes are, or were a moment ago."""
    seen: Counter[str] = field(default_factory=Counter)
    """What came instead of an answer, by its kind."""
    jobs: dict[str, str] = field(default_factory=dict)
    """The job of each key whose submission was accepted."""
    followed: list[list[tuple[str, str]]] = field(default_factory=list)
    """The events of each job that was followed: their ids and names."""

    def submit_and_wait(self, over: threading.Event) -> None:
        with httpx.Client(timeout=70, trust_env=False) as http:
            while not over.is_set():
                job = self._submitted(http)
                while not self._asked(http, "GET", f"/api/v1/jobs/{job['id']}?wait=60", 200)["finished_at"]:
                    self.seen["answered early"] += 1

    def follow(self, over: threading.Event) -> None:
        with httpx.Client(timeout=70, trust_env=False) as http:
            while not over.is_set():
                job = self._submitted(http)
                events: list[tuple[str, str]] = []
                self.followed.append(events)
                while not events or events[-1][1] != "done":
                    self._follow_on(http, job["id"], events)

    def _submitted(self, http: httpx.Client) -> dict[str, Any]:
        key = str(uuid4())
        wanted = {
            "owner_service": "e2e",
            "task_type": "chat_completion",
            "model_profile": PROFILE,
            "input": {"user": key},
            "idempotency_key": key,
        }
        job = self._asked(http, "POST", "/api/v1/jobs", 201, 200, json=wanted)
        self.jobs[key] = job["id"]
        return job

    def _asked(self, http: httpx.Client, method: str, path: str, *expected: int, **fields: Any) -> dict[str, Any]:
        while True:
            url = self.urls[-1]
            try:
                answer = http.request(method, f"{url}{path}", **fields)
            except httpx.TransportError as error:
                self._go_on(url, error)
                continue
            assert answer.status_code in expected, answer.text
            found: dict[str, Any] = answer.json()
            return found

    def _follow_on(self, http: httpx.Client, job_id: str, events: list[tuple[str, str]]) -> None:
        """Read the stream to its end, from where it was left."""
        url = self.urls[-1]
        headers = {"Last-Event-ID": events[-1][0]} if events else {}
        try:
            with http.stream("GET", f"{url}/api/v1/jobs/{job_id}/events", headers=headers) as stream:
                assert stream.status_code == 200
                events.extend(read_events(stream))
        except httpx.TransportError as error:
            self._go_on(url, error)
        else:
            if not events or events[-1][1] != "done":
                self.seen["stream ended early"] += 1

    def _go_on(self, url: str, error: httpx.TransportError) -> None:
        self.seen[f"{type(error).__name__}: {error}"] += 1
        eventually(lambda: self.urls[-1] != url, within=30, what="there is another process")


def read_events(stream: httpx.Response) -> Iterator[tuple[str, str]]:
    about: dict[str, str] = {}
    for line in stream.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            about[name] = value
        elif "event" in about:
            yield about["id"], about["event"]
            about = {}


@pytest.mark.timeout(120 + 60 * ROUNDS)
def test_rolling_restarts_of_the_api_lose_no_accepted_request_and_who_waits_is_answered(
    install: Install,
    database: str,
    vhost: str,
    counting: CountingServer,
    record_property: Callable[[str, object], None],
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=counting.base_url)
    api, _ = installation.serve_and_work(WORKER_CLAIM_LIMIT="20")
    serving: list[Api] = [api]
    callers = Callers([api.url])

    with meanwhile(*[callers.submit_and_wait] * 6, *[callers.follow] * 2):
        for _ in range(2 * ROUNDS):
            serving.append(installation.serve())
            eventually(lambda: '"scheduler stands by"' in serving[-1].process.said, within=10, what="it stands by")
            leaving = serving.pop(0)
            leaving.process.terminate()
            left = time.monotonic()
            leaving.process.answers("/readyz", 503)
            assert leads_within(serving[-1].process, 5)
            record_property("lead handed over after", round(time.monotonic() - left, 2))
            # As a load balancer does that has seen it not ready; who holds a connection goes on until it is closed.
            callers.urls.append(serving[-1].url)
            assert leaving.process.exit_code() == 0

    stored = dict(installation.rows("SELECT idempotency_key, job_id::text FROM job_details"))
    assert stored == callers.jobs
    states = installation.rows("SELECT status, attempts, crashes, count(*) FROM jobs GROUP BY 1, 2, 3")
    assert states == [("completed", 1, 0, len(stored))]
    for events in callers.followed:
        assert len(set(events)) == len(events)
        assert [name for _, name in events if name != "token"] == ["status", "status", "status", "done"]
    cut = [kind for kind in callers.seen if not harmless(kind)]
    assert not cut, callers.seen
    record_property("jobs", len(stored))
    record_property("seen", json.dumps(callers.seen))


def harmless(kind: str) -> bool:
    """Said by a stream or a wait that was answered, and of a port where nobody listens any more."""
    return kind in {"answered early", "stream ended early"} or kind.startswith("ConnectError")


def leads_within(process: Process, seconds: float) -> bool:
    eventually(lambda: '"scheduler leads"' in process.said, within=seconds, what="it leads")
    return True
