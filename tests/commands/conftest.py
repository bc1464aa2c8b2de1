"""Commands, run in this process as a user's shell would run them, against the real service."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from app.cli import main
from app.client import Client
from tests.e2e.service import practising
from tests.servers.postgres import Databases


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        [document] = self.documents
        return document

    @property
    def line(self) -> str:
        """The one line with which the command gave up."""
        assert (self.code, self.out) == (1, "")
        [line] = self.err.splitlines()
        return line.removeprefix("ai-service: ")


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real service, shared by a file's tests: each has owners of its own."""
    with practising(databases, tmp_path_factory.mktemp("service")) as url:
        yield url


@pytest.fixture
def command(service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `ai-service` with these words, and with this text on its standard input."""
    monkeypatch.setenv("AI_SERVICE_URL", service)
    monkeypatch.delenv("AI_SERVICE_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(*words: str, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["ai-service", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        said = capsys.readouterr()
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    with Client(service, trust_env=False) as client:
        yield client


@pytest.fixture
def owner() -> str:
    """Of this test's jobs alone."""
    return f"owner-{uuid4().hex[:8]}"
