"""The whole service in one process with a PostgreSQL of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import eventually, one_line

pytestmark = pytest.mark.anew


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # also one that ends while it is looked at
        return False


@pytest.mark.timeout(120)
def test_the_embedded_service_survives_a_kill_with_all_its_jobs_and_leaves_no_server_behind(
    install: Install, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    installation = install(DATA_DIR=str(folder), LLM_MODEL="")
    api = installation.up()
    eventually(lambda: greeting(api.process.said), within=10, what="it greets")  # which it does once it answers
    assert api.url in greeting(api.process.said)

    done = api.finished(api.submit(model_profile="practice"))
    assert (done["status"], done["result"]["model"]) == ("completed", "practice")
    code, said = installation.run("up", HTTP_PORT="0")
    assert code == 1
    line = one_line(said)
    assert str(folder) in line
    assert f"pid {api.process.popen.pid}" in line

    running = api.submit(model_profile="practice", input={"user": "Hi", "practice": {"delay_ms": 1_000}})
    api.is_running(running)

    server = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
    assert lives(server)
    api.process.kill()
    eventually(lambda: not lives(server), within=10, what="the embedded PostgreSQL is gone")

    again = installation.up()
    assert again.get(done) == done
    finished = again.finished(running, within=40)
    assert (finished["status"], finished["attempts"], finished["crashes"]) == ("completed", 1, 1)

    server = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
    again.process.terminate()
    assert again.process.exit_code() == 0
    assert not lives(server)


def greeting(said: str) -> str:
    """The line that tells where the service is; empty as long as it has not been said whole."""
    return next((line for line in said.splitlines(True) if line.startswith("AI Service") and line.endswith("\n")), "")
