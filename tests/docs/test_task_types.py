"""The page on task types of one's own: its example is run by real processes, and is as short as it promises."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import client, extend
from app.extend import Job, task_type
from tests.docs.test_documents import ROOT, blocks
from tests.e2e.service import SCRIPTS, Api, Installation
from tests.servers.postgres import Databases

PAGE = "docs/task-types.md"
TEXT = (ROOT / PAGE).read_text()
EXAMPLE = ROOT / "examples/task_types.py"
START, CLI, CURL = blocks(PAGE, "bash")


@pytest.fixture(scope="module")
def installation(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """As the page starts it, in two processes."""
    variables = dict(re.findall(r"([A-Z_]+)=(\S+)", START.replace("$PWD", str(ROOT))))
    assert set(variables) == {"PYTHONPATH", "AI_SERVICE_PLUGINS", "AI_PROVIDER"}
    dsn = databases.create()
    folder = tmp_path_factory.mktemp("task-types")
    told = {"DATABASE_URL": dsn, "LLM_MODEL": "", "WORKER_POLL_INTERVAL": "100ms", **variables}
    with Installation(folder, **told) as installation:
        yield installation
    databases.drop(dsn)


@pytest.fixture(scope="module")
def api(installation: Installation) -> Api:
    return installation.serve_and_work()[0]


def said_by(script: str, api: Api) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "AI_SERVICE_URL": api.url, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_the_example_and_it_has_less_than_forty_lines():
    assert EXAMPLE.read_text() == blocks(PAGE, "python")[0]
    assert len(EXAMPLE.read_text().splitlines()) < 40


def test_the_commands_of_the_page_run_jobs_of_both_task_types(api: Api):
    said = said_by(CLI, api)
    assert "acme.keywords.v1" in said
    assert "acme.file_digest.v1" in said


def test_a_job_is_answered_and_a_bad_input_is_refused_as_the_page_says(api: Api):
    accepted, refused = (
        json.loads(line) for line in said_by(CURL.replace("curl -sS", "curl -sS -w '\\n'"), api).splitlines()
    )
    finished = api.finished(accepted)
    assert (finished["status"], finished["queue"], finished["attempts"]) == ("completed", "gpu.llm", 1)
    assert finished["result"] == {"schema_version": "acme.keywords.v1", "keywords": ["practice"]}
    assert refused["status"] == 422
    assert f"`{refused['detail']}`" in TEXT.replace("`` ", "`").replace(" ``", "`")


def test_the_queue_of_its_own_is_a_queue_and_the_workers_serve_it(api: Api, tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    with client.Client(api.url, trust_env=False) as ai:
        upload = ai.upload(tmp_path / "abc", owner_service="docs")
        given = {"upload_id": str(upload.upload_id), "algorithm": "blake2b"}
        job = ai.submit(owner_service="docs", task_type="file_digest", model_profile="digest", input=given)
        assert ai.result(job.id, timeout=30)["digest"].startswith("ba80a53f981c4d0d")
        runs = ai.runs(job.id)
    assert [run.outcome for run in runs] == ["completed"]
    assert api.queue("cpu.files")["workers"] == 1
    for wrong in ({**given, "algorithm": "md5"}, {**given, "upload_id": given["upload_id"][:-4] + "0000"}):
        answer = api.http.post("/api/v1/jobs", json={**FILE, "input": wrong})
        assert answer.status_code == 422, answer.text
    wrong_profile = api.http.post("/api/v1/jobs", json={**FILE, "model_profile": "practice", "input": given})
    assert wrong_profile.json()["errors"][0]["pointer"] == "/model_profile"


FILE = {"owner_service": "docs", "task_type": "file_digest", "model_profile": "digest"}


def test_calls_of_models_fail_where_the_input_practises_it(api: Api):
    practice = {"error_code": "context_length"}
    given = {"text": "Hello", "practice": practice}
    job = api.submit(task_type="keyword_extraction", model_profile="practice", input=given)
    failed = api.finished(job)
    assert (failed["status"], failed["error_code"]) == ("failed", "context_length")


def test_an_installation_without_the_module_says_so_in_one_line(installation: Installation):
    code, said = installation.run("worker", PYTHONPATH="")
    assert code == 1
    [line] = [line for line in said.splitlines() if line.strip()]
    assert line.startswith("ai-service: AI_SERVICE_PLUGINS: the module task_types cannot be imported")


def test_the_tests_of_the_page_pass(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    found: dict[str, Any] = {}
    exec(blocks(PAGE, "python")[1], found)
    tests = [test for name, test in found.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        asyncio.run(test())


def test_all_that_a_run_may_ask_is_on_the_page():
    asked = {name for name in dir(Job) if not name.startswith("_")} | set(Job.__dataclass_fields__) - {"tools"}
    table = TEXT.partition("## What a run may ask")[2].partition("\n## ")[0]
    cells = " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))
    assert {name for name in asked if not re.search(rf"`{name}`|job\.{name}\(", cells)} == set()


def test_every_argument_of_a_task_type_is_on_the_page():
    section = TEXT.partition("## What a task type is")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    assert named == set(inspect.signature(task_type).parameters) - {"name"}


def test_whatever_the_page_imports_is_public():
    for name in re.findall(r"from app\.extend import (.*)", TEXT):
        assert {each.strip() for each in name.split(",")} <= set(extend.__all__)
    assert importlib.import_module("app.extend").__doc__
