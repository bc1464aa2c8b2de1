"""A queue's limit over all who take its jobs, whatever becomes of them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Api, Installation, Process, eventually, ids
from tests.servers.counting import CountingServer

QUEUE = "gpu.llm"
LIMIT = 5
WORKERS, SLOTS = 8, 3
JOBS = int(os.environ.get("LIMITED_JOBS", "400"))
"""That run while workers come and go; more of them show more."""

PATIENCE = 60 + JOBS / 10
"""Seconds for what takes much less on a machine that has nothing else to do."""

BUSY: Any = """
    SELECT
        (SELECT busy FROM lines WHERE name = 'gpu.llm') AS counted,
        (SELECT count(*) FROM jobs WHERE status = 'running') + (SELECT count(*) FROM closing_slots) AS taken,
        (SELECT count(*) FROM jobs WHERE status = 'running') AS running
"""

OUTCOMES = "SELECT outcome, count(*) AS runs FROM runs GROUP BY 1 ORDER BY 1"


@pytest.fixture
def counting() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


def configuration(folder: Path, **parts: Any) -> str:
    file = folder / "configuration.json"
    file.write_text(json.dumps(parts))
    return str(file)


def limited_to(folder: Path, concurrency: int) -> str:
    return configuration(folder, queues={QUEUE: {"concurrency": concurrency}})


def batch(api: Api, count: int, **fields: Any) -> list[dict[str, Any]]:
    """So many jobs; each says its number."""
    defaults = {"owner_service": "e2e", "task_type": "chat_completion", "model_profile": PROFILE, **fields}
    jobs = [{"input": {"user": f"number {number}"}, "owner_ref": str(number)} for number in range(count)]
    answer = api.http.post("/api/v1/jobs/batch", json={"defaults": defaults, "jobs": jobs})
    assert answer.status_code == 201, answer.text
    made: list[dict[str, Any]] = answer.json()["jobs"]
    return made


@pytest.mark.timeout(180 + 2 * PATIENCE)
def test_no_call_is_ever_one_too_many_while_workers_are_killed_and_stopped_and_started(
    install: Install, tmp_path: Path, database: str, vhost: str, counting: CountingServer
) -> None:
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=counting.base_url,
        AI_SERVICE_CONFIG=limited_to(tmp_path, LIMIT),
        WORKER_CLAIM_LIMIT=str(SLOTS),
        SHUTDOWN_GRACE="1s",
        LOG_LEVEL="info",
    )
    api = installation.serve()
    workers = Workers(installation)
    eventually(
        lambda: installation.rows("SELECT count(*) FROM workers") == [(WORKERS,)],
        within=PATIENCE,
        what="all workers live",
    )

    began = time.monotonic()
    jobs = batch(api, JOBS)
    cancelled = disturb(installation, api, workers)
    eventually(lambda: all_final(installation), within=PATIENCE, what="every job is final")
    print(f"{JOBS} jobs in {time.monotonic() - began:.1f} s, {len(counting.begun)} calls, {len(cancelled)} cancelled")

    assert counting.most_at_once == LIMIT
    [(cancelled_jobs,)] = installation.rows("SELECT count(*) FROM jobs WHERE status = 'cancelled'")
    assert cancelled_jobs == len(cancelled) > 0
    completed = installation.rows(
        """
        SELECT j.attempts, (SELECT count(*) FROM job_results AS r WHERE r.job_id = j.id) AS results,
            (SELECT count(*) FROM runs AS r WHERE r.job_id = j.id AND r.outcome = 'completed') AS completions,
            count(*) AS jobs
        FROM jobs AS j WHERE j.id = ANY ($1) AND j.status = 'completed' GROUP BY 1, 2, 3
        """,
        ids(jobs),
    )
    assert completed == [(1, 1, 1, JOBS - len(cancelled))]
    outcomes = {row["outcome"]: row["runs"] for row in installation.rows(OUTCOMES)}
    print(outcomes)
    assert outcomes["crashed"] > 0
    eventually(lambda: installation.rows(BUSY) == [(0, 0, 0)], within=25, what="every slot is free")
    [queue] = api.http.get("/api/v1/queues").json()["queues"]
    assert (queue["busy"], queue["concurrency"], queue["effective_limit"]) == (0, LIMIT, LIMIT)


@dataclass
class Workers:
    """Eight at every moment, or soon again."""

    installation: Installation
    live: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _ in range(WORKERS):
            self.start()

    def start(self) -> None:
        name = f"worker-{len(self.installation.processes)}"
        self.live[name] = self.installation.start("worker", WORKER_ID=name)

    def take_busiest(self) -> Process:
        """The one that runs most jobs; it is being replaced, and its end is the caller's business."""
        held = Counter(
            name
            for (name,) in self.installation.rows(
                "SELECT split_part(worker_id, '/', 1) FROM jobs WHERE status = 'running'"
            )
            if name in self.live
        )
        name = max(self.live, key=lambda name: held[name])
        self.start()
        return self.live.pop(name)


def disturb(installation: Installation, api: Api, workers: Workers) -> set[str]:
    """Kill, stop and start workers, and cancel what runs, until three quarters of the jobs are final."""
    cancelled: set[str] = set()
    for turn in range(12):
        share = JOBS * (turn + 1) // 16
        eventually(lambda share=share: final(installation) >= share, within=PATIENCE, what=f"{share} jobs are final")  # type: ignore[misc]
        match turn % 3:
            case 0:
                workers.take_busiest().kill()
            case 1:
                workers.take_busiest().terminate()
            case 2:
                running = api.http.get("/api/v1/jobs", params={"status": "running"}).json()["jobs"]
                # A dead worker's are left to be rescued.
                for job in [job for job in running if job["worker_id"].partition("/")[0] in workers.live]:
                    answer = api.http.post(f"/api/v1/jobs/{job['id']}/cancel")
                    cancelled |= {job["id"]} if answer.status_code == 200 else set()
    return cancelled


def final(installation: Installation) -> int:
    """How many jobs are final; and the count of busy slots is right at this moment."""
    [busy] = installation.rows(BUSY)
    assert busy["counted"] in (busy["taken"], None), dict(busy)
    assert busy["taken"] <= LIMIT
    [(jobs,)] = installation.rows("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
    return int(jobs)


def all_final(installation: Installation) -> bool:
    return final(installation) == JOBS


class External:
    """A worker outside, which claims over HTTP."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def claim(self, limit: int = 1, **wanted: Any) -> list[dict[str, Any]]:
        body = {"worker_id": "outside", "limit": limit, **wanted}
        answer = self.api.http.post("/api/v1/jobs/claim", json=body)
        assert answer.status_code == 200, answer.text
        claimed: list[dict[str, Any]] = answer.json()["jobs"]
        return claimed

    def end(self, how: str, job: dict[str, Any], **said: Any) -> int:
        path = f"/api/v1/jobs/{job['id']}/{how}"
        return self.api.http.post(path, json={"lease_token": job["lease_token"], **said}).status_code


@pytest.fixture
def served(install: Install, tmp_path: Path, database: str, counting: CountingServer) -> tuple[Installation, Api]:
    """An API whose queue runs two jobs at once; no worker."""
    installation = install(
        DATABASE_URL=database, LLM_BASE_URL=counting.base_url, AI_SERVICE_CONFIG=limited_to(tmp_path, 2)
    )
    api = installation.serve()
    eventually(lambda: limit_of(api) == 2, within=10, what="the limit is in force")
    return installation, api


def limit_of(api: Api) -> int | None:
    [queue] = api.http.get("/api/v1/queues").json()["queues"]
    limit: int | None = queue["effective_limit"]
    return limit


def test_a_worker_outside_gets_no_more_than_the_queue_has_slots_and_the_next_as_each_run_ends(
    served: tuple[Installation, Api],
) -> None:
    installation, api = served
    outside = External(api)
    batch(api, 12)
    first, second = outside.claim(10)
    assert outside.claim(10) == []

    assert outside.end("complete", first, result={"ok": True}) == 200
    [third] = outside.claim(10)
    assert outside.end("fail", second, error_code="bad_input") == 200
    [fourth] = outside.claim(10)
    assert outside.end("release", third) == 200
    [fifth] = outside.claim(10)
    assert outside.claim(10) == []

    for job in (fourth, fifth):
        api.cancel(job)
    assert outside.claim(10) == [], "their calls may still be open"
    assert outside.end("release", fourth) == 409
    [sixth] = outside.claim(10)
    assert outside.end("complete", fifth, result={}) == 409
    [seventh] = outside.claim(10)
    api.retry(sixth)
    assert outside.claim(10) == []
    assert outside.end("fail", sixth, error_code="unknown") == 409
    assert outside.end("fail", sixth, error_code="unknown") == 409
    assert [job["id"] for job in outside.claim(10)] == [sixth["id"]], "it keeps its place, and its slot is freed once"
    assert installation.rows(BUSY) == [(2, 2, 2)]
    assert outside.end("release", seventh) == 200
    assert installation.rows(BUSY) == [(1, 1, 1)]


@pytest.mark.timeout(60)
def test_slots_of_a_worker_outside_that_vanished_are_free_when_its_leases_end(
    served: tuple[Installation, Api],
) -> None:
    installation, api = served
    outside = External(api)
    batch(api, 4)
    _, cancelled = outside.claim(10, lease_timeout=5)
    api.cancel(cancelled)
    assert outside.claim(10) == []
    eventually(lambda: installation.rows(BUSY) == [(0, 0, 0)], within=30, what="both slots are free")
    assert len(outside.claim(10)) == 2


@pytest.mark.timeout(60)
def test_a_worker_that_is_there_before_any_scheduler_obeys_the_limit(
    install: Install, tmp_path: Path, empty_database: str, counting: CountingServer
) -> None:
    installation = install(DATABASE_URL=empty_database, LLM_BASE_URL=counting.base_url, WORKER_POLL_INTERVAL="200ms")
    installation.worker(AI_SERVICE_CONFIG=limited_to(tmp_path, 2), WORKER_CLAIM_LIMIT="6")
    installation.rows(
        "INSERT INTO leader (name, holder, expires_at) "
        "VALUES ('scheduler', gen_random_uuid(), now() + interval '1 hour')"
    )
    api = installation.serve()
    assert {job["status"] for job in api.all_finished(batch(api, 20))} == {"completed"}
    assert counting.most_at_once == 2
