"""Workers that die, hang, or are cut off, and what becomes of their jobs; real processes, real signals.

RESCUE_KILLS says how many workers are killed; more of them show more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.service import Api, Installation, Process, eventually
from tests.servers.model_server import ModelServer, Reply, Request, says
from tests.servers.postgres import Databases
from tests.servers.tcp_proxy import TcpProxy

KILLS = int(os.environ.get("RESCUE_KILLS", "2"))
SLOTS = 2
RESCUED_WITHIN, FOUND_OUT_WITHIN = 4.0, 20.0
"""Seconds that are promised: after a death, and after a hang or a cut."""

CRASHED = "SELECT ended_at FROM runs WHERE outcome = 'crashed' AND worker_id LIKE $1 || '/%'"
LEADS = "SELECT 1 FROM leader WHERE now() - steady_since > interval '16 seconds'"


@dataclass
class Ground:
    """An installation whose scheduler has seen enough to rescue."""

    installation: Installation
    api: Api
    model: ModelServer

    def worker(self, name: str, **settings: str) -> Process:
        return self.installation.worker(WORKER_ID=name, WORKER_CLAIM_LIMIT=str(SLOTS), **settings)

    def now(self) -> datetime:
        """The database's time, as that of `crashes`."""
        [(now,)] = self.installation.rows("SELECT clock_timestamp()")
        assert isinstance(now, datetime)
        return now

    def crashes(self, worker: str) -> list[datetime]:
        return [row["ended_at"] for row in self.installation.rows(CRASHED, worker)]

    def busy(self, worker: str, jobs: int = SLOTS) -> None:
        """Block until it runs so many."""
        running = "SELECT 1 FROM jobs WHERE status = 'running' AND worker_id LIKE $1 || '/%'"
        eventually(lambda: len(self.installation.rows(running, worker)) == jobs, within=20, what=f"{worker} is busy")

    def rescued(self, worker: str, since: datetime, *, within: float, jobs: int = SLOTS) -> float:
        """Seconds after which its jobs were taken from it."""
        eventually(lambda: len(self.crashes(worker)) == jobs, within=within + 10, what=f"the jobs of {worker} go back")
        took = (max(self.crashes(worker)) - since).total_seconds()
        assert took <= within, f"{took:.1f} s"
        return took


@pytest.fixture(scope="module")
def ground(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    dsn = databases.create()
    with (
        ModelServer() as model,
        Installation(
            tmp_path_factory.mktemp("installation"),
            DATABASE_URL=dsn,
            LLM_BASE_URL=model.base_url,
            MAX_CRASHES="3",
            WORKER_POLL_INTERVAL="200ms",
        ) as installation,
    ):
        installation.forks = True
        installation.scheduler()
        api = installation.serve()
        eventually(lambda: installation.rows(LEADS), within=40, what="the leader has seen enough")
        yield Ground(installation, api, model)
    databases.drop(dsn)


@pytest.fixture(autouse=True)
def emptied(ground: Ground) -> Iterator[None]:
    """Whatever a test leaves behind ends with it."""
    yield
    for process in ground.installation.processes:
        if process.running and "worker" in process.name:
            process.popen.send_signal(signal.SIGCONT)
            process.kill()
    ground.model.let_go()
    ground.model.default = says("Done.")
    ground.api.http.post("/api/v1/jobs/cancel", json={"status": ["pending", "running"]})


@pytest.mark.timeout(60 + 20 * KILLS)
def test_the_jobs_of_a_killed_worker_are_rescued_within_seconds(ground: Ground) -> None:
    ground.model.hold()
    took = []
    for number in range(KILLS):
        name = f"killed-{number}"
        ground.api.submit_many(SLOTS)
        doomed = ground.worker(name)
        ground.busy(name)
        killed_at = ground.now()
        doomed.kill()
        took.append(ground.rescued(name, killed_at, within=RESCUED_WITHIN))
        ground.api.http.post("/api/v1/jobs/cancel", json={"status": ["pending"]})
    print("rescued after", " ".join(f"{seconds:.2f}" for seconds in sorted(took)))


@pytest.mark.timeout(120)
def test_a_worker_that_is_stopped_loses_its_jobs_and_changes_nothing_when_it_wakes(ground: Ground) -> None:
    ground.model.hold()
    stopped = ground.worker("stopped")
    jobs = ground.api.submit_many(SLOTS)
    ground.busy("stopped")
    stopped.popen.send_signal(signal.SIGSTOP)
    ground.rescued("stopped", ground.now(), within=FOUND_OUT_WITHIN)
    other = ground.worker("other")
    ground.model.let_go()  # the stopped one's calls are answered too: it finds the answers when it wakes
    done = ground.api.all_finished(jobs)
    assert {(job["status"], job["attempts"], job["crashes"]) for job in done} == {("completed", 1, 1)}

    stopped.popen.send_signal(signal.SIGCONT)
    eventually(lambda: stopped.said.count('"run without effect"') == SLOTS, within=10, what="it finds its jobs lost")
    assert [ground.api.get(job) for job in jobs] == done
    results = ground.installation.rows("SELECT job_id, count(*) FROM job_results GROUP BY 1 HAVING count(*) > 1")
    assert results == []
    other.terminate()
    assert other.exit_code() == 0
    assert ground.api.finished(ground.api.submit())["status"] == "completed", "it goes on working"


@pytest.mark.timeout(120)
def test_a_worker_that_is_cut_off_loses_its_jobs_and_works_again_when_it_is_back(
    ground: Ground, databases: Databases
) -> None:
    port = urlsplit(databases.server).port
    assert port
    with TcpProxy("127.0.0.1", port) as door:
        behind = ground.installation.settings["DATABASE_URL"].replace(f":{port}/", f":{door.port}/")
        ground.model.hold()
        cut_off = ground.worker("cut-off", DATABASE_URL=behind)
        jobs = ground.api.submit_many(SLOTS)
        ground.busy("cut-off")
        door.shut()
        ground.rescued("cut-off", ground.now(), within=FOUND_OUT_WITHIN)
        ground.model.let_go()
        door.open()
        done = ground.api.all_finished(jobs)
        assert {(job["status"], job["attempts"], job["crashes"]) for job in done} == {("completed", 1, 1)}
        assert cut_off.running


@pytest.mark.timeout(150)
def test_a_job_that_kills_its_workers_is_stopped_and_hurts_no_other_twice(ground: Ground) -> None:
    """The worker is killed whenever it has sent the poison to the model."""
    at_the_model: list[str] = []
    beside_the_poison: list[list[str]] = []

    async def serve(request: Request, reply: Reply) -> None:
        said = request.last_message
        at_the_model.append(said)
        try:
            if said == "poison":
                beside_the_poison.append(list(at_the_model))
                await ground.model.until(lambda server: False)
            await says("Sound.", pause=0.01)(request, reply)
        finally:
            at_the_model.remove(said)

    ground.model.default = serve
    sound = ground.api.submit_many(3, input={"user": "sound"})
    poison = ground.api.submit(input={"user": "poison"})
    sound += ground.api.submit_many(30, input={"user": "sound"})
    for death in range(3):
        doomed = ground.worker(f"poisoned-{death}")
        eventually(lambda: len(beside_the_poison) > death, within=30, what="the poison runs")  # noqa: B023  # at once
        doomed.kill()
        eventually(lambda: ground.api.get(poison)["crashes"] == death + 1, within=10, what="it counts")  # noqa: B023
        if death < 2:
            sound += ground.api.submit_many(3, input={"user": "sound"})

    stopped = ground.api.finished(poison)
    assert (stopped["status"], stopped["error_code"], stopped["attempts"]) == ("failed", "stale_worker", 0)
    assert "died 3 times" in stopped["error_message"]
    assert beside_the_poison[2:] == [["poison"]], "the third time it was alone"
    ground.worker("healthy")
    done = ground.api.all_finished(sound)
    assert {job["status"] for job in done} == {"completed"}
    assert max(job["crashes"] for job in done) <= 2


@pytest.mark.timeout(120)
def test_a_job_that_crashed_twice_gets_its_turn_under_a_load_that_never_ends(ground: Ground) -> None:
    ground.model.hold()
    [job] = ground.api.submit_many(1)
    for name in ("doomed-1", "doomed-2"):
        doomed = ground.worker(name)
        ground.busy(name, 1)
        doomed.kill()
        ground.rescued(name, ground.now(), within=RESCUED_WITHIN + 1, jobs=1)
    ground.model.default = says("Done.", pause=0.05)
    ground.api.submit_batch(3_000)
    ground.model.let_go()
    ground.worker("busy-1")
    ground.worker("busy-2")
    done = ground.api.finished(job, within=30)
    assert (done["status"], done["crashes"]) == ("completed", 2)
    waiting: list[Any] = ground.installation.rows("SELECT count(*) FROM jobs WHERE status = 'pending'")
    assert waiting[0][0] > 0, "it did not wait for the end of all others"
