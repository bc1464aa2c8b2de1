"""The examples of the tutorial and of the client's and the command line's pages are run, against a real service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import client as module
from app.client import Client
from tests.docs.test_documents import ROOT, blocks
from tests.e2e.service import SCRIPTS, practising
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import free_ports

EXAMPLES = blocks("docs/client.md", "python")
*CALLERS, WORKER = EXAMPLES


@pytest.fixture(scope="module")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with practising(databases, tmp_path_factory.mktemp("service"), RETRY_DELAY_FAST="30s") as url:  # the default
        yield url


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder into which a consumer has copied the client."""
    shutil.copy(module.__file__, tmp_path / "ai_client.py")
    return tmp_path


def environment(service: str) -> dict[str, str]:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "AI_SERVICE_URL": service, "NO_PROXY": "127.0.0.1", "PYTHONWARNINGS": "error"}


def test_the_pages_have_examples():
    assert len(CALLERS) == 4
    assert "work(" in WORKER


@pytest.mark.parametrize("example", CALLERS)
def test_an_example_of_the_client_runs(example: str, service: str, project: Path):
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=project,
        env=environment(service),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_example_of_a_worker_works_until_it_is_stopped(service: str, project: Path):
    working = subprocess.Popen([sys.executable, "-c", WORKER], cwd=project, env=environment(service))
    try:
        with Client(service, trust_env=False) as client:
            job = client.submit(
                owner_service="docs", task_type="measure", model_profile="ruler", input={"text": "four"}
            )
            assert client.result(job.id, timeout=30) == {"characters": 4}
        working.send_signal(signal.SIGTERM)
        assert working.wait(20) == 0
    finally:
        working.kill()
        working.wait()


@pytest.mark.parametrize("script", blocks("docs/cli.md", "bash"))
def test_the_commands_of_the_page_run(script: str, service: str, tmp_path: Path):
    shutil.copy(Path(__file__).parents[1] / "data/speech/go-forward.flac", tmp_path / "call.wav")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(service),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


CURL = f"""#!{sys.executable}
import sys, urllib.request
rest = [word for word in sys.argv[1:] if word not in ("-s", "-sN")]
body = rest[rest.index("-d") + 1].encode() if "-d" in rest else None
sys.stdout.write(urllib.request.urlopen(rest[0], body, timeout=30).read().decode())
"""
"""What curl does with the few options that the tutorial uses."""


def test_the_tutorial_goes_as_it_says(service: str, tmp_path: Path):
    steps = re.findall(r"```(bash|text)\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    (tmp_path / "curl").write_text(CURL)
    (tmp_path / "curl").chmod(0o755)
    script = "\n".join(
        f"{text}\nprintf '\\n=%s=\\n' {number}" for number, (kind, text) in enumerate(steps) if kind == "bash"
    )
    variables = environment(service)
    variables |= {"PATH": f"{tmp_path}{os.pathsep}{variables['PATH']}", "COLUMNS": "200"}

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    *said, _ = re.split(r"^=\d+=\n", done.stdout, flags=re.MULTILINE)
    shown = [text for kind, text in steps if kind == "text"]
    for output, lines in zip(said, shown, strict=True):
        assert re.search(_loosely(lines), " ".join(output.split()), re.DOTALL), output


def _loosely(shown: str) -> str:
    """A pattern for what is shown: its lines in that order, whatever stands between, and anything for each ellipsis."""
    lines = [re.escape(" ".join(line.split())).replace("…", ".*?") for line in shown.splitlines()]
    return ".*?".join(lines)


@pytest.fixture
def moving(service: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page on moving has a domain service put into two files, and the new service with its copies' client."""
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.delitem(sys.modules, "ai_client", raising=False)
    given: dict[str, Any] = {}
    for example in blocks("docs/moving.md", "python"):
        exec(example, given)
    given["new"], given["copies"] = given["clients"](service, trust_env=False)
    with given["new"], given["copies"]:
        yield given


def analysis(of: str) -> dict[str, Any]:
    return {
        "owner_service": "moving",
        "owner_ref": of,
        "task_type": "call_analysis",
        "model_profile": "practice",
        "input": {"user": "Is the caller angry?"},
    }


def test_a_flag_says_which_service_does_the_work(moving: dict[str, Any]):
    submitted: list[str] = []

    def old(job: dict[str, Any]) -> str:
        submitted.append(job["owner_ref"])
        return "its id there"

    places = [
        moving["Moving"](flags, old, moving["new"], moving["copies"]).submit(analysis(key), key)
        for key, flags in (
            ("one", {}),
            ("two", {"call_analysis": "mirror"}),
            ("three", {"call_analysis": "new"}),
        )
    ]

    assert [place for place, _ in places] == ["old", "old", "new"]
    assert submitted == ["one", "two"]
    for job in moving["new"].list(owner_service="moving"):
        moving["new"].result(job.id, timeout=30)
    ours = {job.owner_ref: (job.priority, job.labels) for job in moving["new"].list(owner_service="moving")}
    assert ours == {"two": ("low", {"mirror": "yes"}), "three": ("normal", {})}
    counted = {"two": {"content": "Practice answer to: Is the caller angry?"}}
    told = moving["compare"](
        moving["new"],
        "moving",
        "call_analysis",
        counted.get,
        lambda one, other: bool(one and other) and one["content"] == other["content"],
    )
    assert told == (1, [])


def test_a_copy_that_cannot_be_sent_hurts_nobody(moving: dict[str, Any]):
    [port] = free_ports(1)
    new, copies = moving["clients"](f"http://127.0.0.1:{port}", trust_env=False)
    with new, copies:
        mirror = moving["Moving"]({"call_analysis": "mirror"}, lambda _job: "its id", new, copies)

        assert mirror.submit(analysis("four"), "four") == ("old", "its id")
