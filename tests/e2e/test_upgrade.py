"""One version beside the other, up and back again under load: with the real program of before the newest revision."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.postgres.migrate import _newest
from tests.docs.test_documents import ROOT
from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, Process, eventually
from tests.servers.model_server import ModelServer, after, says

PACE = 0.03
"""Seconds between two submissions."""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program as it was just before the newest revision was added to it."""
    [revision] = (ROOT / "migrations/versions").glob(f"{_newest()}_*.py")
    added = git("log", "--diff-filter=A", "--format=%H", "--", str(revision.relative_to(ROOT)))
    if not added:
        pytest.skip(f"needs git and the history of before revision {_newest()}")
    folder = tmp_path_factory.mktemp("former")
    if git("archive", f"--output={folder}/program.tar", f"{added.split()[-1]}^") is None:
        pytest.skip(f"the history ends with revision {_newest()}")
    shutil.unpack_archive(folder / "program.tar", folder)
    if not (start := folder / "app/start.py").exists():  # where this environment's command begins
        start.write_text("from app.cli import main\n")
    return folder


def git(*arguments: str) -> str | None:
    """What git says of this repository; None where there is no git, no repository, or it refuses."""
    program = shutil.which("git")
    if program is None or not (ROOT / ".git").exists():
        return None
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


class Load:
    """Submits jobs by every API that it is told of, one after the other, and remembers them."""

    def __init__(self) -> None:
        self.apis: tuple[Api, ...] = ()
        self.jobs: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self._enough = threading.Event()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        submitting = threading.Thread(target=self._work)
        submitting.start()
        try:
            yield
        finally:
            self._enough.set()
            submitting.join()

    def _work(self) -> None:
        while not self._enough.wait(PACE):
            for api in self.apis:
                self.jobs.append(api.submit(owner_service=f"by-{len(self.jobs) % 2}"))


def leave(load: Load, *gone: Api | Process, to: tuple[Api, ...]) -> None:
    """Move the callers, then stop processes as an operator does. They end by themselves, without an error."""
    load.apis = to
    processes = [end.process if isinstance(end, Api) else end for end in gone]
    for process in processes:
        process.terminate()
    assert [process.exit_code() for process in processes] == [0] * len(processes)
    for process in processes:
        assert '"level": "error"' not in process.said


def works(installation: Installation, load: Load, *workers: str) -> None:
    """Block until each of these has ended ten more jobs than by now."""
    ended = "SELECT count(*) FROM runs WHERE outcome = 'completed' AND split_part(worker_id, '/', 1) = $1"
    before = {worker: installation.rows(ended, worker)[0][0] for worker in workers}
    for worker in workers:
        eventually(
            lambda worker=worker: installation.rows(ended, worker)[0][0] >= before[worker] + 10,  # type: ignore[misc]
            within=60,
            what=f"{worker} works",
        )


def serves(api: Api) -> None:
    """All that callers and external workers do, done once."""
    external = {"task_type": "measure", "model_profile": "ruler"}
    for verb, body in (("complete", {"result": {}}), ("release", {}), ("fail", {"error_code": "bad_input"})):
        api.submit(**external)
        claimed = api.http.post("/api/v1/jobs/claim", json={"worker_id": "mine", "task_types": ["measure"]})
        [job] = claimed.raise_for_status().json()["jobs"]
        token = {"lease_token": job["lease_token"]}
        api.http.post(f"/api/v1/jobs/{job['id']}/heartbeat", json=token).raise_for_status()
        api.http.post(f"/api/v1/jobs/{job['id']}/{verb}", json={**token, **body}).raise_for_status()
    assert api.cancel(api.retry(api.cancel(api.submit(**external))))["status"] == "cancelled"
    api.http.post("/api/v1/jobs/cancel", json={"task_type": ["measure"]}).raise_for_status()
    for path in ("/api/v1/jobs", "/api/v1/stats", "/api/v1/workers", "/api/v1/queues", "/readyz"):
        api.http.get(path).raise_for_status()
    for verb in ("pause", "resume"):
        api.http.post(f"/api/v1/queues/gpu.llm/{verb}").raise_for_status()


def ended_once(installation: Installation, load: Load) -> None:
    """Every job that was accepted is completed by its first run."""
    found = installation.rows(
        """
        SELECT j.status, j.attempts, j.crashes, j.give_backs, (
            SELECT array_agg(outcome) FROM runs AS r WHERE r.job_id = j.id AND outcome <> 'released'
        ), count(*)
        FROM jobs AS j WHERE j.task_type = 'chat_completion' GROUP BY 1, 2, 3, 4, 5
        """
    )
    assert found == [("completed", 1, 0, 0, ["completed"], len(load.jobs))]


@pytest.mark.timeout(240)
def test_versions_work_side_by_side_forwards_and_back_and_no_job_notices(
    install: Install, empty_database: str, vhost: str, model: ModelServer, former: Path
) -> None:
    model.default = after(0.2, says("The answer."))
    installation = install(DATABASE_URL=empty_database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    before = {"PYTHONPATH": str(former)}
    old, old_worker = installation.serve_and_work(**before, WORKER_ID="old")
    [(first,)] = installation.rows("SELECT version_num FROM alembic_version")
    assert first < _newest()
    load = Load()
    with load.going_on():
        load.apis = (old,)
        works(installation, load, "old")

        scheduler = installation.start("scheduler")
        new, new_worker = installation.serve_and_work(WORKER_ID="new")
        assert installation.rows("SELECT version_num FROM alembic_version") == [(_newest(),)]
        load.apis = (old, new)
        works(installation, load, "old", "new")
        serves(old)
        serves(new)
        leave(load, old, old_worker, to=(new,))
        works(installation, load, "new")
        eventually(lambda: "scheduler leads" in scheduler.said + new.process.said, within=10, what="a new one leads")

        installation.start("scheduler", **before).says("database is newer than this version, which can use it")
        old, old_worker = installation.serve_and_work(**before, WORKER_ID="back")
        load.apis = (old, new)
        works(installation, load, "back", "new")
        leave(load, new, new_worker, scheduler, to=(old,))
        code, said = installation.run("migrate", "--to", first, "--yes", within=60)
        assert (code, f"at revision {first}." in said) == (0, True), said
        works(installation, load, "back")
        serves(old)
        load.apis = ()
    old.all_finished(load.jobs[-50:])
    eventually(
        lambda: not installation.rows("SELECT FROM jobs WHERE finished_at IS NULL"), within=20, what="all have ended"
    )
    ended_once(installation, load)
    leave(load, old, old_worker, to=())
