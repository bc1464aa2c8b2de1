"""Backups that are made while the service works, and services that go on from them elsewhere. The commands are those
of docs/backup.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.embedded.binaries import find_binaries
from tests.docs.test_documents import blocks
from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, SCRIPTS, Api, eventually, one_line, query
from tests.servers.model_server import Behaviour, ModelServer, Reply, Request, after, says
from tests.servers.postgres import Databases
from tests.servers.replicas import Replicas
from tests.servers.tcp_proxy import TcpProxy

DUMP, RESTORE, EMBEDDED_BACKUP, EMBEDDED_RESTORE = blocks("docs/backup.md", "bash")
RESCUED_WITHIN = timedelta(seconds=20)
"""After the start of the first scheduler: what the page promises."""

AGREES = {
    "busy slots": """
        SELECT l.name, l.busy, (SELECT count(*) FROM jobs AS j WHERE j.line = l.name AND j.status = 'running')
            + (SELECT count(*) FROM closing_slots AS c WHERE c.line = l.name) AS taken
        FROM lines AS l WHERE l.busy <> 0
    """,
    "counts": """
        SELECT j.status, count(*), (
            SELECT sum(c.jobs) FROM (
                SELECT status, jobs FROM job_counts UNION ALL SELECT status, jobs FROM job_count_changes
            ) AS c WHERE c.status = j.status
        )
        FROM jobs AS j GROUP BY j.status
    """,
}


def run(script: str, folder: Path, **environment: str) -> None:
    """Run a script of the page with PostgreSQL's programs of the wheel."""
    path = os.pathsep.join((str(SCRIPTS), str(find_binaries()), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": path, "LOG_LEVEL": "error", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def slowly(slow: Behaviour, quick: Behaviour) -> Behaviour:
    """The one for whoever says "slow", the other for all."""

    async def behave(request: Request, reply: Reply) -> None:
        await (slow if "slow" in request.last_message else quick)(request, reply)

    return behave


@contextmanager
def again_and_again(submit: Callable[[], object]) -> Iterator[None]:
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            submit()

    submitting = threading.Thread(target=work)
    submitting.start()
    try:
        yield
    finally:
        enough.set()
        submitting.join()


def claim(api: Api) -> dict[str, Any]:
    """A job for an external worker, which it holds."""
    api.submit(task_type="measure", model_profile="ruler")
    answer = api.http.post("/api/v1/jobs/claim", json={"worker_id": "mine", "task_types": ["measure"]})
    [job] = answer.raise_for_status().json()["jobs"]
    return dict(job)


def look(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in query(dsn, statement)]


def agrees(dsn: str) -> None:
    for what, statement in AGREES.items():
        rows = look(dsn, statement)
        assert rows, what
        assert all(row[1] == row[2] for row in rows), (what, rows)
    [(next_seq, last_seq)] = look(dsn, "SELECT nextval('jobs_seq'), max(seq) FROM jobs")
    assert next_seq > last_seq


@pytest.mark.timeout(180)
def test_a_dump_made_under_load_goes_on_elsewhere(
    install: Install, database: str, databases: Databases, model: ModelServer, tmp_path: Path
) -> None:
    model.default = slowly(slow=after(90, says("Late.")), quick=after(0.05, says("The answer.")))
    lost = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="8")
    api = lost.up()
    slow = api.submit_many(3, input={"user": "slow"})
    external = claim(api)
    waiting = api.submit_batch(300)
    done = api.finished(api.submit(priority="high"))
    query(database, "INSERT INTO queues (name, paused, circuit_state) VALUES ('gpu.other', true, 'open')")
    for job in slow:
        api.is_running(job)

    with again_and_again(lambda: api.submit(owner_service="meanwhile", priority="high")):
        run(DUMP, tmp_path, DATABASE_URL=database)
    keyed = {"owner_service": "telephony", "idempotency_key": "call/7"}
    late = api.submit(**keyed)
    api.all_finished(waiting[:50])
    lost.end()

    restored = databases.create(migrated=False)
    run(RESTORE, tmp_path, NEW_DATABASE_URL=restored)
    agrees(restored)
    [(jobs,)] = look(restored, "SELECT count(*) FROM jobs")
    kept = {str(row[0]) for row in look(restored, "SELECT id FROM jobs WHERE status = 'running' AND queue IS NOT NULL")}
    assert kept >= {job["id"] for job in slow}

    model.default = says("The answer.")
    api = install(DATABASE_URL=restored, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="8").up()
    [(ready,)] = look(restored, "SELECT now()")
    assert api.get(done) == done
    assert api.queue("gpu.other")["paused"] is True
    assert api.http.get(f"/api/v1/jobs/{late['id']}").status_code == 404
    again = api.submit(**keyed)
    assert api.finished(again)["status"] == "completed"
    completion = {"lease_token": external["lease_token"], "result": {"centimetres": 3}}
    api.http.post(f"/api/v1/jobs/{external['id']}/complete", json=completion).raise_for_status()

    ended = eventually(lambda: everything_ended(restored), within=60, what="all jobs have ended")
    [(rescued,)] = look(restored, "SELECT max(ended_at) FROM runs WHERE outcome = 'crashed'")
    assert rescued - ready < RESCUED_WITHIN
    assert ended == [("completed", 1, 0, jobs + 1 - len(kept)), ("completed", 1, 1, len(kept))]
    crashed = look(restored, "SELECT id FROM jobs WHERE crashes = 1")
    assert {str(row[0]) for row in crashed} == kept
    eventually(lambda: look(restored, "SELECT FROM lines WHERE busy <> 0") == [], within=5, what="no slot is taken")
    databases.drop(restored)


def everything_ended(dsn: str) -> list[tuple[Any, ...]]:
    """How many jobs ended how, once all have."""
    if look(dsn, "SELECT FROM jobs WHERE finished_at IS NULL"):
        return []
    return look(dsn, "SELECT status, attempts, crashes, count(*) FROM jobs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")


@pytest.mark.timeout(180)
def test_an_embedded_folder_goes_on_from_a_backup_and_from_a_copy(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    first = install(DATA_DIR=str(folder), LLM_MODEL="")
    api = first.up(SHUTDOWN_GRACE="100ms")
    done = api.finished(practise(api))
    running = practise(api, delay_ms=60_000)
    api.is_running(running)
    run(EMBEDDED_BACKUP, tmp_path, DATA_DIR=str(folder))
    after_the_backup = api.finished(practise(api))
    api.process.terminate()
    api.process.exit_code()
    shutil.copytree(folder, tmp_path / "copied")
    (tmp_path / "cut.dump").write_bytes((tmp_path / "jobs.dump").read_bytes()[:-1000])
    code, said = first.run("restore", str(tmp_path / "cut.dump"), DATA_DIR=str(tmp_path / "restored"), within=60)
    assert (code, one_line(said).startswith("ai-service: pg_restore failed: ")) == (1, True)
    run(EMBEDDED_RESTORE, tmp_path)

    both = [install(DATA_DIR=str(tmp_path / name), LLM_MODEL="").up_soon() for name in ("copied", "restored")]
    from_the_copy, from_the_backup = (ready() for ready in both)

    assert from_the_copy.get(after_the_backup) == after_the_backup
    assert from_the_backup.http.get(f"/api/v1/jobs/{after_the_backup['id']}").status_code == 404
    assert from_the_copy.is_running(running)["crashes"] == 0, "it was handed back at the stop"
    assert from_the_backup.is_running(running)["crashes"] == 1, "it was rescued at the start"
    from_the_backup.cancel(running)
    for api in (from_the_copy, from_the_backup):
        assert api.get(done) == done
        assert api.finished(practise(api))["status"] == "completed"


def practise(api: Api, **practice: Any) -> dict[str, Any]:
    return api.submit(model_profile="practice", input={"user": "Hi", "practice": practice})


@pytest.mark.timeout(180)
def test_a_failover_loses_no_accepted_job_and_takes_none_from_its_worker(
    install: Install, tmp_path: Path, model: ModelServer
) -> None:
    model.default = slowly(slow=after(5, says("Late.")), quick=after(0.1, says("The answer.")))
    with Replicas(tmp_path / "replicas") as servers, TcpProxy("127.0.0.1", servers.primary.port) as door:
        both = f"127.0.0.1:{servers.primary.port},127.0.0.1:{servers.standby.port}"
        installation = install(
            DATABASE_URL=f"postgresql://postgres@{both}/postgres?target_session_attrs=read-write",
            LLM_BASE_URL=model.base_url,
            WORKER_CLAIM_LIMIT="8",
        )
        api = installation.serve()
        worker = installation.worker(DATABASE_URL=f"postgresql://postgres@127.0.0.1:{door.port}/postgres")
        accepted: list[dict[str, Any]] = []

        def submit() -> None:
            body = {"owner_service": "e2e", "task_type": "llm_chat", "model_profile": PROFILE, "input": {"user": "Hi"}}
            answer = api.http.post("/api/v1/jobs", json=body)
            assert answer.status_code in {201, 503}, answer.text
            if answer.status_code == 201:
                accepted.append(answer.json())

        slow = api.submit_many(4, input={"user": "slow"}, priority="high")
        for job in slow:
            api.is_running(job)
        with again_and_again(submit):
            eventually(lambda: len(accepted) > 20, within=20, what="jobs are accepted")
            door.shut()
            servers.fail_over()
            door.target = servers.standby.port
            door.open()
            before = len(accepted)
            eventually(lambda: len(accepted) > before + 20, within=30, what="jobs are accepted again")
        worker.answers("/readyz")
        done = api.all_finished([*slow, *accepted], within=60)
        assert {(job["status"], job["attempts"], job["crashes"]) for job in done} == {("completed", 1, 0)}
        outcomes = look(servers.standby.dsn, "SELECT outcome, count(*) FROM runs GROUP BY outcome")
        assert [outcome for outcome, _ in outcomes] == ["completed"]
        agrees_on_counts = look(servers.standby.dsn, AGREES["counts"])
        assert all(count == counted for _, count, counted in agrees_on_counts)
