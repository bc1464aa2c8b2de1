"""`ai-service queues`: what is shown of them, and how they are held and let go."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from app.client import Circuit, Client, Queue
from app.commands import output
from tests.commands.conftest import Command
from tests.e2e.service import eventually, practising
from tests.servers.postgres import Databases


@pytest.fixture(autouse=True)
def released(client: Client) -> Iterator[None]:
    """Whatever a test holds is let go after it."""
    yield
    client.resume_all()
    client.start_all()


def shown(*queues: Queue) -> list[str]:
    """The table's cells, row by row."""
    console = Console(width=140, color_system=None)
    with console.capture() as captured:
        console.print(output.queues_table(queues))
    return [" ".join(line.split()) for line in captured.get().splitlines() if "gpu" in line]


def test_queues_are_a_table_or_json_lines(command: Command):
    table = command("queues").out
    assert "gpu.llm" in table
    assert "running" in table
    # Workers are counted anew every two seconds.
    eventually(
        lambda: [queue["slots"] for queue in command("queues", "--json").documents] == [4, 4],
        within=10,
        what="the worker is counted",
    )


def test_a_queue_is_held_and_let_go(command: Command, client: Client):
    assert " paused " in command("queues", "pause", "gpu.llm").out
    assert " paused, stopped " in command("queues", "stop", "gpu.llm").out
    assert " stopped " in command("queues", "resume", "gpu.llm").out
    assert client.queues()[0].stopped
    assert " running " in command("queues", "start", "gpu.llm").out
    assert not client.queues()[0].stopped


@pytest.mark.parametrize(("verb", "flag", "value"), [("pause", "paused", True), ("stop", "stopped", True)])
def test_all_queues_are_held_at_once(verb: str, flag: str, value: bool, command: Command):
    assert [queue[flag] for queue in command("queues", verb, "--all", "--json").documents] == [value, value]
    undone = {"pause": "resume", "stop": "start"}[verb]
    assert [queue[flag] for queue in command("queues", undone, "--all", "--json").documents] == [not value, not value]


def test_a_circuit_is_closed(command: Command):
    assert command("queues", "close-circuit", "gpu.llm", "--json").document["circuit"]["state"] == "closed"


def test_an_unknown_queue_is_one_line(command: Command, service: str):
    line = command("queues", "pause", "gpu.cats").line
    told = "There is no queue 'gpu.cats'; known: gpu.llm, gpu.speech."
    assert line == f"{told} ({service}/api/v1/queues/gpu.cats/pause)"
    assert command("queues", "start", "gpu.cats").line == f"{told} ({service}/queue/start)"


@pytest.mark.parametrize(
    "words",
    [["pause"], ["pause", "gpu.llm", "--all"], ["resume"], ["start"], ["stop"], ["close-circuit"], ["--json", "pause"]],
)
def test_which_queues_must_be_said(words: list[str], command: Command):
    ended = command("queues", *words)
    assert (ended.code, ended.out) == (2, "")


def test_a_token_that_may_only_look_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, databases: Databases, tmp_path: Path
):
    (tokens := tmp_path / "tokens.toml").write_text('watching-token = {owner = "*", rights = ["read"]}\n')
    with practising(databases, tmp_path, AI_SERVICE_TOKENS=str(tokens)) as guarded:
        monkeypatch.setenv("AI_SERVICE_URL", guarded)
        monkeypatch.setenv("AI_SERVICE_TOKEN", "watching-token")
        assert command("queues", "--json").code == 0
        assert "it lacks the right 'operate'" in command("queues", "pause", "--all").line


def test_the_table_says_what_holds_a_queue():
    circuit = Circuit(state="open", reason="auth_error", opened_at=datetime.now(UTC))
    half_open = Circuit(state="half_open", reason="provider_unavailable")
    rows = shown(
        Queue(name="gpu.llm", paused=True, circuit=circuit),
        Queue(name="gpu.speech", circuit=half_open),
        Queue(name="gpu.new", circuit=Circuit(state="melted", reason="[b]")),
    )
    assert rows[0].startswith("gpu.llm paused, circuit open: auth_error 0 ")
    assert rows[1].startswith("gpu.speech circuit half open: provider_unavailable 0 ")
    assert rows[2].startswith("gpu.new circuit melted: [b] 0 ")


def test_the_table_says_what_is_left_of_a_limit():
    limits = {"gpu.a": (None, None), "gpu.b": (8, 8), "gpu.c": (8, 5), "gpu.d": (None, 5)}
    rows = shown(*(Queue(name=name, concurrency=c, effective_limit=now) for name, (c, now) in limits.items()))
    assert [row.removeprefix(f"{name} running 0 0 0 0 ") for name, row in zip(limits, rows, strict=True)] == [
        "- 0 0 0",
        "8 0 0 0",
        "5 of 8 0 0 0",
        "5 0 0 0",
    ]
