"""How processes end when they are asked to, at awkward moments too, and when a part of them has ended by itself."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import sabotage
from tests.e2e.conftest import Install
from tests.e2e.service import SCRIPTS, Installation, Process, eventually
from tests.e2e.test_up import lives
from tests.servers.model_server import ModelServer

pytestmark = [pytest.mark.timeout(180), pytest.mark.anew]

NOWHERE = "postgresql://user:secret@127.0.0.1:1/nothing"
ECHO_OVER = 0.6
"""Seconds after which a second signal is a second one."""

ENDED_WITHIN = 60.0
"""Seconds that the loaded machine of a test may take for anything."""


def events(process: Process) -> list[dict[str, Any]]:
    """What its log says."""
    return [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]


def said(process: Process, event: str) -> list[dict[str, Any]]:
    return [each for each in events(process) if each["event"] == event]


def left_by_a_server(folder: Path) -> list[str]:
    """The files that a PostgreSQL keeps only while it runs."""
    return [path.name for path in folder.rglob("*") if path.name.startswith((".s.PGSQL", "postmaster.pid"))]


def server_of(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def test_a_process_that_waits_for_postgresql_ends_at_once_and_well(install: Install) -> None:
    installation = install(DATABASE_URL=NOWHERE, AI_PROVIDER="practice", HTTP_PORT="0")
    processes = [installation.start(command) for command in ("serve", "worker", "scheduler", "up")]
    dramatiq = installation.start("app.worker:setup", "-p", "1", script="dramatiq")
    for process in [*processes, dramatiq]:
        process.says("waiting for postgresql", within=ENDED_WITHIN)
        process.terminate()
    assert [process.exit_code(ENDED_WITHIN) for process in processes] == [0] * 4
    assert not [process.said for process in processes if "Traceback" in process.said]
    assert dramatiq.exit_code(ENDED_WITHIN) in {0, 1}  # it heeds no signal before its workers have started or given up


def test_a_stop_while_the_embedded_postgresql_is_made_leaves_nothing_that_runs(
    install: Install, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    installation = install(DATA_DIR=str(folder), LLM_MODEL="")
    first = installation.start("up", HTTP_PORT="0")
    eventually(lambda: any(folder.glob("postgres*")), within=ENDED_WITHIN, what="it has begun")
    first.terminate()
    assert first.exit_code(ENDED_WITHIN) == 0
    assert "Traceback" not in first.said
    assert not left_by_a_server(folder)

    second = installation.start("up", HTTP_PORT="0")
    second.says("embedded postgres started", within=ENDED_WITHIN)
    second.terminate()
    assert second.exit_code(ENDED_WITHIN) == 0
    assert not left_by_a_server(folder)


def test_ctrl_c_lets_jobs_end_while_the_embedded_postgresql_still_runs_and_twice_is_at_once(
    install: Install, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    installation = install(DATA_DIR=str(folder), LLM_MODEL="", WORKER_CLAIM_LIMIT="1")
    setsid = [shutil.which("setsid") or "setsid"]
    api = installation.up(before=setsid)
    job = api.submit(model_profile="practice", input={"user": "Hi", "practice": {"delay_ms": 2_000}})
    api.is_running(job)
    os.killpg(api.process.popen.pid, signal.SIGINT)
    api.process.answers("/readyz", 503)
    assert api.finished(job)["status"] == "completed"
    assert api.process.exit_code(ENDED_WITHIN) == 0
    [ended] = said(api.process, "job completed")
    [stopped] = said(api.process, "embedded postgres stopped")
    assert ended["timestamp"] < stopped["timestamp"]
    assert not left_by_a_server(folder)

    api = installation.up(before=setsid)
    api.is_running(api.submit(model_profile="practice", input={"user": "Hi", "practice": {"delay_ms": 60_000}}))
    server = server_of(folder)
    os.killpg(api.process.popen.pid, signal.SIGINT)
    api.process.says("Stopping")
    time.sleep(ECHO_OVER)
    os.killpg(api.process.popen.pid, signal.SIGINT)
    assert api.process.exit_code(ENDED_WITHIN) == 128 + signal.SIGINT
    eventually(lambda: not lives(server), within=ENDED_WITHIN, what="the embedded PostgreSQL is gone")
    eventually(lambda: not left_by_a_server(folder), within=5, what="nothing is left of it")


def test_a_terminal_that_is_closed_ends_the_service_in_good_order(install: Install, database: str) -> None:
    installation = install(DATABASE_URL=database, AI_PROVIDER="practice", HTTP_PORT="0")
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [shutil.which("setsid") or "setsid", "--ctty", str(SCRIPTS / "ai-service"), "up"],
        stdin=end,
        stdout=end,
        stderr=end,
        env=installation._environment({}),
        cwd=installation.folder,
    )
    os.close(end)
    shown = b""
    while b"Stop:" not in shown:
        shown += os.read(terminal, 1_000)
    os.close(terminal)
    assert process.wait(ENDED_WITHIN) == 0
    assert installation.rows("SELECT count(*) FROM workers") == [(0,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace")
def test_process_1_of_a_container_heeds_sigterm(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    installation = install(DATA_DIR=str(folder), LLM_MODEL="", HTTP_PORT="0")
    unshare = [shutil.which("unshare") or "unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    early, service = (
        installation.start("up", before=unshare, DATA_DIR=str(tmp_path / name)) for name in ("early", "data")
    )
    [first] = eventually(lambda: children(early.popen.pid), within=10, what="it has begun")
    eventually(lambda: b"ai-service" in command_of(first), within=10, what="it loads")
    time.sleep(0.3)
    os.kill(first, signal.SIGTERM)
    assert early.exit_code(ENDED_WITHIN) in {0, 128 + signal.SIGTERM}

    service.says("AI Service runs", within=ENDED_WITHIN)
    [first] = children(service.popen.pid)
    os.kill(first, signal.SIGTERM)
    assert service.exit_code(ENDED_WITHIN) == 0
    assert not left_by_a_server(folder)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def sabotaged(installation: Installation, part: str, *command: str, **settings: str) -> Process:
    """A command that is about to lose this part."""
    return installation.start(
        sabotage.__file__, part, *command, script="python", **{"HTTP_PORT": "0", "PYTHONPATH": ROOT, **settings}
    )


ROOT = str(Path(sabotage.__file__).parents[2])


def test_a_process_that_loses_a_part_says_which_and_ends_with_a_failure(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    losses = [
        ("the HTTP server", "serve"),
        ("the scheduler", "serve"),
        ("the scheduler", "scheduler"),
        ("the event loop", "worker"),
        ("a worker thread", "up"),
        ("the consumer of gpu.llm", "worker"),
    ]
    processes = [(part, sabotaged(installation, part, command)) for part, command in losses]
    for part, process in processes:
        assert process.exit_code(2 * ENDED_WITHIN) == 1, process.said
        assert [each["part"] for each in said(process, "part died")] == [part]
        assert "Traceback" not in process.said


def test_the_service_ends_when_its_embedded_postgresql_does(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    installation = install(DATA_DIR=str(folder), LLM_MODEL="", SHUTDOWN_GRACE="0s")
    api = installation.up()
    os.kill(server_of(folder), signal.SIGKILL)
    assert api.process.exit_code(ENDED_WITHIN) == 1
    assert said(api.process, "part died")[0]["part"] == "the embedded PostgreSQL"
