"""The steps of the page on adding a provider, taken on a copy of the service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_documents import ROOT, blocks
from tests.e2e.service import SCRIPTS
from tests.servers.model_server import ModelServer, refuses, streams

PAGE = "docs/add-a-provider.md"
TEXT = (ROOT / PAGE).read_text()
NEW = {"adapters/providers/acme_chat.py", "tests/adapters/providers/test_acme_chat.py"}
[ADAPTER] = blocks(PAGE, "python")
[PROFILE] = blocks(PAGE, "toml")
STEPS = re.findall(r"`(app/\w+\.py)`(?:(?!`app/).)*?((?:```diff\n.*?```\s*)+)", TEXT, re.DOTALL)

ASK = """
import asyncio, json, os, sys
from app.configured import Configured
from app.providers import serving
from app.settings import from_env
from domain.chat import parse_chat_input
from domain.errors import RunFailed

async def answers(questions):
    async with serving(Configured(from_env(os.environ))) as current:
        backend = current.chat()["acme-large"]
        for question in questions:
            try:
                told = []
                answer = await backend.provider.chat(parse_chat_input(json.dumps(question).encode()), None, told.append)
                yield [backend.name, answer.model, answer.finish_reason, answer.content, told]
            except RunFailed as failed:
                yield failed.failure.code

async def main():
    print(json.dumps([answer async for answer in answers(json.load(sys.stdin))]))

asyncio.run(main())
"""


def event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service, with the new provider in it."""
    folder = tmp_path_factory.mktemp("service")
    for package in ("app", "actors", "adapters", "domain"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "adapters/providers/acme_chat.py").write_text(ADAPTER)
    for file, diffs in STEPS:
        for diff in re.findall(r"```diff\n(.*?)```", diffs, re.DOTALL):
            change(folder / file, diff)
    return folder


def change(file: Path, diff: str) -> None:
    lines = diff.splitlines(True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    text = file.read_text()
    assert text.count(before) == 1, f"{file.name} has these lines {text.count(before)} times:\n{before}"
    file.write_text(text.replace(before, "".join(line[1:] for line in lines if line[0] in " +")))


def test_the_page_changes_two_files():
    assert [file for file, _ in STEPS] == ["app/endpoint.py", "app/providers.py"]


def test_what_it_shows_is_as_tidy_as_the_rest(tmp_path: Path):
    (adapter := tmp_path / "acme_chat.py").write_text(ADAPTER)
    config = str(ROOT / "pyproject.toml")
    for check in (["format", "--check", "--config", config], ["check", "--config", config, "--ignore", "I001"]):
        done = subprocess.run([SCRIPTS / "ruff", *check, adapter], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_profile_is_served_by_the_new_provider(copy: Path, tmp_path: Path):
    question = {"user": "Hi"}
    behaviours = {
        "said": streams(event(piece="Hello "), event(piece="there"), event(end="done", tokens={"in": 3, "out": 5})),
        "cut": streams(event(piece="Once"), event(end="limit")),
        "rate_limited": refuses(429, {"error": "slowly"}),
        "provider_error": streams(event(piece="Hello "), event(error={"message": "out of memory"})),
        "provider_unavailable": streams(event(piece="Hello ")),
        "bad_response": streams(event(piece=7)),
    }
    with ModelServer() as server:
        (tmp_path / "config.toml").write_text(PROFILE.replace("http://acme:9000", server.base_url))
        server.script(*behaviours.values())
        answers = json.loads(
            said_by(
                ASK,
                copy,
                [
                    {"system": "Be brief.", **question, "max_tokens": 9},
                    *[question] * (len(behaviours) - 1),
                    {**question, "response_format": {"type": "json_object"}},
                ],
                AI_SERVICE_CONFIG=str(tmp_path / "config.toml"),
            )
        )
        asked, *_ = server.requests

    said, cut, *failed = answers
    assert said == ["acme", "large", "stop", "Hello there", ["Hello ", "there"]]
    assert cut == ["acme", "large", "length", "Once", ["Once"]]
    assert failed == [*list(behaviours)[2:], "bad_input"]
    assert asked.path == "/v2/answer"
    assert asked.json == {
        "model": "large",
        "turns": [{"who": "system", "says": "Be brief."}, {"who": "user", "says": "Hi"}],
        "at_most": 9,
    }


def said_by(script: str, service: Path, given: Any, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(given),
        cwd=service,
        env={"PYTHONPATH": str(service), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_and_name_of_the_page_is_there():
    named = set(re.findall(r"`((?:app|adapters|domain|tests|docs)/[\w/]+\.py)`", TEXT)) - NEW
    assert named
    assert all((ROOT / file).is_file() for file in named)
    short = {f"{name}.py" for name in re.findall(r"`(\w+)\.py`", TEXT)}
    known = {
        path.name for folder in ("adapters/providers", "tests/adapters/providers") for path in (ROOT / folder).iterdir()
    }
    assert short <= known
    code = "".join(path.read_text() for path in ROOT.glob("a*/**/*.py")) + "".join(
        path.read_text()
        for folder in ("domain", "tests/servers", "tests/adapters")
        for path in (ROOT / folder).rglob("*.py")
    )
    for name in (
        "EmbeddingProvider",
        "SpeechProvider",
        "Dialect",
        "Rule",
        "ServerKind",
        "HEALTH_PATHS",
        "SAYS",
        "KINDS",
        "SECTIONS",
        "_endpoints",
    ):
        assert f"`{name}`" in TEXT
        assert re.search(rf"^(class|def) {name}\b|^{name}\b.* = ", code, re.MULTILINE), name
