"""The examples of the guide are run, in the order in which they are read, against a real service."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.client import Client
from tests.docs.test_client import environment, project
from tests.docs.test_documents import DOCUMENTED, ROOT
from tests.e2e.service import practising
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import free_ports

__all__ = ["project"]

PAGE = (ROOT / "docs/guide.md").read_text()
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
CALLER, WORKER, CI, OPERATOR = (PAGE.partition(f"\n## {number}. ")[2].partition("\n## ")[0] for number in (1, 2, 3, 4))

ANYTHING = "…"

WARNINGS = {"PYTHONWARNINGS": "error,ignore::ResourceWarning"}
"""The guide's programs keep one client for as long as they live."""


@pytest.fixture(scope="module")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with practising(databases, tmp_path_factory.mktemp("service")) as url:
        yield url


def python(section: str) -> list[str]:
    return [code for language, code in BLOCK.findall(section) if language == "python"]


def words_of(command: str, variables: dict[str, str]) -> list[str]:
    """What curl is told, as a shell expands it."""
    shell = ["bash", "-euc", f'curl() {{ printf "%s\\0" "$@"; }}\n{command}']
    done = subprocess.run(shell, env=variables, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.removesuffix("\0").split("\0")


def curl(words: list[str]) -> httpx.Response:
    """What curl does with the few options that the guide uses."""
    options: dict[str, list[str]] = {"-H": [], "-d": [], "--data-urlencode": [], "-X": []}
    url, rest = "", iter(words)
    for word in rest:
        if word in options:
            options[word].append(next(rest))
        elif not word.startswith("-"):
            url = word
    headers = dict(header.split(": ", 1) for header in options["-H"])
    with httpx.Client(trust_env=False, timeout=40, headers=headers) as http:
        if "-G" in words:
            encoded = [str(httpx.QueryParams(dict([each.split("=", 1)]))) for each in options["--data-urlencode"]]
            return http.get(f"{url}?{'&'.join(options['-d'] + encoded)}")
        method = options["-X"][0] if options["-X"] else "POST" if options["-d"] else "GET"
        return http.request(method, url, content=options["-d"][0] if options["-d"] else None)


def must_show(shown: object, given: Any) -> None:
    """Whatever is shown is in what was given."""
    if shown == ANYTHING:
        return
    if isinstance(shown, dict):
        assert shown.keys() <= given.keys()
        for name, value in shown.items():
            must_show(value, given[name])
    elif isinstance(shown, list):
        assert len(shown) == len(given)
        for one, other in zip(shown, given, strict=True):
            must_show(one, other)
    else:
        assert shown == given


def must_stream(shown: str, given: str) -> None:
    """The events that are shown are those that were sent."""
    for one, other in zip(shown.strip().splitlines(), given.strip().splitlines(), strict=True):
        if one.startswith("data: "):
            must_show(json.loads(one[6:]), json.loads(other[6:]))
        else:
            assert one == other


@pytest.mark.parametrize("section", [CALLER, WORKER, OPERATOR], ids=["a caller", "an external worker", "an operator"])
def test_the_commands_are_answered_as_the_guide_says(section: str, service: str):
    variables = {"PATH": os.environ["PATH"], "AI": f"{service}/api/v1"}
    answer = httpx.Response(0)
    for language, text in BLOCK.findall(section):
        if language == "bash":
            *commands, rest = re.split(r"[ \t]+# (\d{3})\n", text)
            assert not rest.strip(), f"without a status: {rest}"
            for command, status in zip(commands[::2], commands[1::2], strict=True):
                answer = curl(words_of(command, variables))
                assert answer.status_code == int(status), f"{command}\n{answer.text}"
                variables |= remembered(answer)
        elif language == "json":
            must_show(json.loads(text), answer.json())
        elif language == "text":
            must_stream(text, answer.text)


def remembered(answer: httpx.Response) -> dict[str, str]:
    """What the commands that follow call $JOB and $LEASE."""
    if not answer.is_success or "json" not in answer.headers.get("content-type", ""):
        return {}
    document = answer.json()
    [job] = document.get("jobs", ()) if len(document.get("jobs", ())) == 1 else [document]
    return {name: job[field] for name, field in (("JOB", "id"), ("LEASE", "lease_token")) if field in job}


@pytest.mark.parametrize("example", python(CALLER), ids=["ask", "follow", "list"])
def test_a_callers_program_runs(example: str, service: str, project: Path):
    done = subprocess.run(
        [sys.executable, "-c", example.replace(DOCUMENTED, service)],
        cwd=project,
        env=environment(service) | WARNINGS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete" in done.stdout or "classified" in done.stdout


@pytest.mark.parametrize("example", python(WORKER), ids=["by hand", "with the client"])
def test_a_worker_works_until_it_is_stopped(example: str, service: str, project: Path):
    code = example.replace(DOCUMENTED, service)
    working = subprocess.Popen([sys.executable, "-c", code], cwd=project, env=environment(service) | WARNINGS)
    try:
        with Client(service, trust_env=False) as client:
            job = client.submit(
                owner_service="docs", task_type="ocr", model_profile="paddle-ocr", input={"scan": "17.png"}
            )
            assert client.result(job.id, timeout=30) == {"text": "What stands on 17.png"}
        working.send_signal(signal.SIGTERM)
        assert working.wait(20) == 0
    finally:
        working.kill()
        working.wait()


def test_a_build_runs_the_service_and_its_own_tests(databases: Databases, project: Path):
    [test] = python(CI)
    [script] = [text for language, text in BLOCK.findall(CI) if language == "bash"]
    (project / "test_our_calls.py").write_text(test)
    [port] = free_ports(1)
    settings = {
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "WORKER_HTTP_PORT": "0",
        "TMPDIR": str(project),
        "DATABASE_URL": (database := databases.create()),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONWARNINGS": "default",
    }
    log = project / "build.log"
    with log.open("w") as output:
        build = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=project,
            env=environment(f"http://127.0.0.1:{port}") | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        assert build.wait(100) == 0, log.read_text()
    finally:
        with suppress(ProcessLookupError):  # the service has ended already
            os.killpg(build.pid, signal.SIGKILL)
        build.wait()
    databases.drop(database)
