"""`ai-service jobs`: what scripts read, what people see, what goes wrong in one line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.client import Client, Job
from tests.commands.conftest import Command
from tests.e2e.service import eventually, practising
from tests.servers.postgres import Databases

CHAT = ("--task-type", "llm_chat", "--profile", "practice")
EXTERNAL = ("--task-type", "measure", "--profile", "ruler")
"""Jobs that nobody does."""
HELLO = '{"user": "Hello"}'
FAILING = '{"user": "x", "practice": {"error_code": "context_length"}}'


def lines(*jobs: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(job)}\n" for job in jobs)


def waiting(client: Client, owner: str, count: int = 1) -> list[Job]:
    """Jobs that nobody does."""
    return [
        client.submit(owner_service=owner, task_type="measure", model_profile="ruler", input={"n": number})
        for number in range(count)
    ]


def moment_of(document: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(document[name])


# submit


def test_a_job_is_submitted_with_every_field_that_can_be_said(command: Command, owner: str):
    said = (
        "--owner-ref",
        "order/1",
        "--priority",
        "high",
        "--max-attempts",
        "5",
        "--label",
        "shop=7",
        "--label",
        "a=b=c",
    )
    times = ("--run-at", "2030-01-01T00:00:00Z", "--deadline-at", "2030-01-02T00:00:00+03:00")
    ended = command("jobs", "submit", "--owner", owner, *CHAT, "--input", HELLO, *said, *times, "--json")

    job = ended.document
    assert (ended.code, ended.err) == (0, "")
    assert (job["owner_service"], job["owner_ref"], job["priority"], job["max_attempts"]) == (
        owner,
        "order/1",
        "high",
        5,
    )
    assert job["labels"] == {"shop": "7", "a": "b=c"}
    assert (job["run_at"], job["deadline_at"]) == ("2030-01-01T00:00:00Z", "2030-01-01T21:00:00Z")


def test_a_time_can_be_said_as_a_while(command: Command, owner: str):
    job = command("jobs", "submit", "--owner", owner, *CHAT, "--input", HELLO, "--run-at", "2h", "--json").document
    assert timedelta(hours=1.9) < moment_of(job, "run_at") - datetime.now(UTC) < timedelta(hours=2.1)


def test_waiting_ends_with_the_job_and_its_result(command: Command, owner: str):
    ended = command("jobs", "submit", "--owner", owner, *CHAT, "--input", HELLO, "--wait")
    assert ended.code == 0
    assert "Practice answer to: Hello" in ended.out


def test_a_job_that_fails_has_an_exit_code_of_its_own(command: Command, owner: str):
    ended = command("jobs", "submit", "--owner", owner, *CHAT, "--input", FAILING, "--wait", "--json")
    assert (ended.code, ended.document["error_code"]) == (3, "context_length")
    assert command("jobs", "get", ended.document["id"], "--wait", "--json").code == 3
    assert command("jobs", "get", ended.document["id"]).code == 0


def test_a_job_that_takes_too_long_is_one_line(command: Command, owner: str):
    ended = command("jobs", "submit", "--owner", owner, *EXTERNAL, "--input", HELLO, "--wait", "--timeout", "0")
    assert ended.line.endswith("is still pending.")


def test_the_same_key_is_the_same_job(command: Command, owner: str):
    words = ("jobs", "submit", "--owner", owner, *EXTERNAL, "--input", HELLO, "--key", "k", "--json")
    assert command(*words).document["id"] == command(*words).document["id"]


def test_a_job_can_be_a_file_and_the_command_line_wins(command: Command, owner: str, tmp_path: Path):
    file = tmp_path / "job.json"
    job = {
        "owner_service": "other",
        "task_type": "measure",
        "model_profile": "ruler",
        "input": {},
        "labels": {"a": "1"},
    }
    file.write_text(json.dumps(job, indent=2), encoding="utf-8-sig")

    ended = command("jobs", "submit", "--file", str(file), "--owner", owner, "--label", "b=2", "--json")
    assert ended.document["owner_service"] == owner
    assert ended.document["labels"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize("form", ["lines", "list"])
def test_many_jobs_become_a_batch(form: str, command: Command, client: Client, owner: str):
    jobs = [{"input": {"n": number}} for number in range(3)]
    stdin = lines(*jobs) if form == "lines" else json.dumps(jobs, indent=1)
    ended = command("jobs", "submit", "--file", "-", "--owner", owner, *EXTERNAL, "--json", stdin=stdin)

    assert ended.code == 0
    assert [told["line"] for told in ended.documents] == [1, 2, 3]
    assert {told["status"] for told in ended.documents} == {"pending"}
    stored = client.list(owner_service=owner, oldest_first=True, batch_id=ended.documents[0]["batch_id"])
    assert [job.id for job in stored] == [told["id"] for told in ended.documents]


def test_a_batch_under_a_key_can_be_sent_again(command: Command, owner: str):
    words = ("jobs", "submit", "--file", "-", "--owner", owner, *EXTERNAL, "--key", "monday")
    stdin = lines({"input": {"n": 1}}, {"input": {"n": 2}})

    assert "2 created, 0 existing" in command(*words, stdin=stdin).out
    assert "0 created, 2 existing" in command(*words, stdin=stdin).out


def test_waiting_for_a_batch_ends_with_all_of_it(command: Command, owner: str):
    words = ("jobs", "submit", "--file", "-", "--owner", owner, *CHAT, "--wait", "--json")
    ended = command(*words, stdin=lines({"input": json.loads(HELLO)}, {"input": json.loads(FAILING)}))

    assert ended.code == 3
    assert [job["status"] for job in ended.documents] == ["completed", "failed"]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "the input is empty"),
        ("{", "The input is not JSON"),
        ('{"input": {}}\n{"input": {}\n', "Line 2 is not JSON"),
        ('{"input": {}}\n[]\n', "Job 2 is not a JSON object"),
        ('{"input": {"n": NaN}}', "NaN is no number there"),
        (
            lines({"input": {}}, {"input": {}, "max_attempts": 0}),
            "Line 2: /max_attempts: Expected `int` >= 1. Nothing was stored.",
        ),
    ],
)
def test_what_cannot_be_submitted_is_one_line(stdin: str, message: str, command: Command, client: Client, owner: str):
    ended = command("jobs", "submit", "--file", "-", "--owner", owner, *EXTERNAL, stdin=stdin)
    assert message in ended.line
    assert not list(client.list(owner_service=owner))


def test_what_is_stored_already_is_said_when_the_rest_is_refused(
    command: Command, owner: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.commands.submission.JOBS_PER_CALL", 2)
    jobs: list[dict[str, Any]] = [{"input": {}}, {"input": {}}, {"input": {}}, {"input": 3}]
    ended = command("jobs", "submit", "--file", "-", "--owner", owner, *EXTERNAL, stdin=lines(*jobs))

    assert ended.code == 1
    assert "Line 4: /input: " in ended.err
    assert "Lines up to 2 are stored: send only the rest again." in ended.err


def test_a_file_that_is_not_there_is_one_line(command: Command):
    assert (
        command("jobs", "submit", "--file", "/nowhere.json").line
        == "/nowhere.json cannot be read: No such file or directory."
    )


@pytest.mark.parametrize(
    "words",
    [
        ["submit"],
        ["submit", "--input", "{}", "--file", "-"],
        ["submit", "--input", "{}", "--label", "x"],
        ["submit", "--input", "{}", "--run-at", "soon"],
        ["submit", "--input", "{}", "--priority", "urgent"],
        ["list", "--status", "lost"],
        ["cancel"],
        ["retry"],
        ["get"],
    ],
)
def test_a_wrong_use_is_exit_code_2(words: list[str], command: Command):
    ended = command("jobs", *words)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: ai-service jobs" in ended.err


# get and list


def test_a_job_is_shown_in_full(command: Command, client: Client, owner: str):
    [job] = waiting(client, owner)
    shown = command("jobs", "get", job.id)
    assert (shown.code, shown.err) == (0, "")
    assert job.id in shown.out
    assert command("jobs", "get", job.id, "--json").document["input"] == {"n": 0}


def test_a_list_is_a_table_or_json_lines(command: Command, client: Client, owner: str):
    jobs = waiting(client, owner, 3)
    shown, told = command("jobs", "list", "--owner", owner), command("jobs", "list", "--owner", owner, "--json")

    assert all(job.id in shown.out for job in jobs)
    assert [job["id"] for job in told.documents] == [job.id for job in reversed(jobs)]
    assert "input" not in told.documents[0]
    with_input = command("jobs", "list", "--owner", owner, "--json", "--payloads", "--oldest-first").documents
    assert [job["input"] for job in with_input] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_list_that_is_cut_off_says_so_aside(command: Command, client: Client, owner: str):
    waiting(client, owner, 3)
    cut = command("jobs", "list", "--owner", owner, "--limit", "2", "--json")

    assert len(cut.documents) == 2
    assert "There are more than these 2" in cut.err
    assert len(command("jobs", "list", "--owner", owner, "--limit", "2", "--all", "--json").documents) == 3
    assert command("jobs", "list", "--owner", owner, "--limit", "3").err == ""


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--status", "pending"], 2),
        (["--status", "failed", "--status", "cancelled"], 0),
        (["--task-type", "measure", "--profile", "ruler"], 2),
        (["--label", "shop=7"], 1),
        (["--label", "shop=7", "--label", "shop=8"], 2),
        (["--owner-ref", "order/1"], 1),
        (["--priority", "low"], 1),
        (["--queue", "gpu.llm"], 0),
        (["--error-code", "timeout"], 0),
        (["--created-after", "1h"], 2),
        (["--created-before", "1h"], 0),
        (["--created-after", "2020-01-01"], 2),
    ],
)
def test_a_list_can_be_filtered_by_all_there_is(
    filters: list[str], found: int, command: Command, client: Client, owner: str
):
    new: dict[str, Any] = {"owner_service": owner, "task_type": "measure", "model_profile": "ruler", "input": {}}
    client.submit(**new, labels={"shop": "7"}, owner_ref="order/1")
    client.submit(**new, labels={"shop": "8"}, priority="low")

    assert len(command("jobs", "list", "--owner", owner, *filters, "--json").documents) == found


# watch


def test_a_job_is_followed_to_its_end(command: Command, client: Client, owner: str):
    job = client.submit(owner_service=owner, task_type="llm_chat", model_profile="practice", input={"user": "x"})
    told = command("jobs", "watch", job.id, "--json")

    assert told.code == 0
    assert [event["event"] for event in told.documents] == ["status", "status", "token", "status", "done"]
    shown = command("jobs", "watch", job.id).out.splitlines()
    assert [line.split(" ", 1)[1] for line in shown] == [
        f"{job.id} {status}" for status in ("pending", "running", "completed")
    ]


def test_whatever_matches_is_followed(command: Command, client: Client, owner: str):
    practice = {"error_code": "context_length", "delay_ms": 2_000}  # no command starts later than that
    for number in range(2):
        client.submit(
            owner_service=owner,
            task_type="llm_chat",
            model_profile="practice",
            input={"user": f"{number}", "practice": practice},
        )
    told = command("jobs", "watch", "--owner", owner, "--json")

    assert told.code == 3
    assert [event["data"]["status"] for event in told.documents if event["event"] == "done"] == ["failed", "failed"]
    assert command("jobs", "watch", "--owner", owner).err == "No job matches.\n"


# cancel and retry


def test_jobs_are_cancelled_and_retried_by_their_ids(command: Command, client: Client, owner: str):
    one, other = waiting(client, owner, 2)

    assert command("jobs", "cancel", one.id, other.id).out == f"{one.id} cancelled\n{other.id} cancelled\n"
    assert command("jobs", "retry", one.id, "--json").document["status"] == "pending"


def test_a_job_that_cannot_be_steered_does_not_keep_the_others_from_it(command: Command, client: Client, owner: str):
    [job] = waiting(client, owner)
    ended = command("jobs", "cancel", "nope", job.id)

    assert ended.code == 1
    assert ended.out == f"{job.id} cancelled\n"
    assert ended.err == "nope: There is no such job.\nai-service: 1 of 2 jobs could not be cancelled.\n"


def test_what_matches_is_cancelled_once_that_is_confirmed(command: Command, client: Client, owner: str):
    waiting(client, owner, 3)
    words = ("jobs", "cancel", "--owner", owner)

    assert command(*words, "--dry-run").out == "3 jobs would be cancelled.\n"
    refused = command(*words, stdin="n\n")
    assert (refused.code, refused.out) == (1, "")
    assert "Cancel 3 jobs? [y/n] (n)" in refused.err
    assert command(*words, stdin="y\n").out == "3 of 3 jobs cancelled.\n"
    assert command("jobs", "retry", "--owner", owner, "--status", "cancelled", "--yes", "--json").document == {
        "matched": 3,
        "changed": 3,
    }


def test_where_nobody_can_be_asked_nothing_is_done(command: Command, client: Client, owner: str):
    [job] = waiting(client, owner)
    ended = command("jobs", "cancel", "--owner", owner)
    assert ended.code == 1
    assert "--yes does it without asking" in ended.err
    assert client.get(job.id).status == "pending"


def test_ids_alone_can_be_piped(command: Command, owner: str):
    words = ("--owner", owner, *EXTERNAL, "--quiet")
    one = command("jobs", "submit", "--input", "{}", *words).out
    many = command("jobs", "submit", "--file", "-", *words, stdin=lines({"input": {}}, {"input": {}})).out
    listed = command("jobs", "list", "--owner", owner, "--oldest-first", "--quiet").out
    assert listed == one + many


def test_nothing_that_matches_is_not_worth_a_question(command: Command, owner: str):
    assert command("jobs", "retry", "--owner", owner).out == "0 of 0 jobs retried.\n"


def test_ids_and_filters_together_mean_both(command: Command, client: Client, owner: str):
    one, _ = waiting(client, owner, 2)
    assert command("jobs", "cancel", one.id, "--owner", "another", "--yes", "--json").document["matched"] == 0
    assert command("jobs", "cancel", one.id, "--dry-run", "--json").document == {"matched": 1, "changed": 0}


# what goes wrong


def test_an_unknown_job_is_one_line(command: Command, service: str):
    for words in (["get", "nope"], ["watch", "nope"]):
        assert command("jobs", *words).line == f"There is no such job. ({service}/api/v1/jobs/nope)"


def test_a_service_that_is_not_there_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
):
    url = f"http://127.0.0.1:{unused_tcp_port}"
    monkeypatch.setenv("AI_SERVICE_URL", url)
    monkeypatch.setattr("app.commands.connection.PATIENCE", 0)
    line = command("queues").line
    assert line.startswith(f"AI Service at {url} cannot be reached")
    assert "AI_SERVICE_URL says where" in line


def test_an_address_that_is_none_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AI_SERVICE_URL", "localhost:8080")
    assert command("queues").line.startswith("AI_SERVICE_URL, AI_SERVICE_TOKEN: 'localhost:8080' is not the address")


def test_a_token_that_is_missing_or_wrong_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, databases: Databases, tmp_path: Path
):
    with practising(databases, tmp_path, AI_SERVICE_TOKEN="s3cret") as guarded:
        monkeypatch.setenv("AI_SERVICE_URL", guarded)
        assert command("queues").line == f"{guarded} wants a token, and AI_SERVICE_TOKEN is not set."
        monkeypatch.setenv("AI_SERVICE_TOKEN", "wrong")
        assert command("queues").line == f"{guarded} wants a token, and AI_SERVICE_TOKEN is not the one it wants."
        monkeypatch.setenv("AI_SERVICE_TOKEN", "s3cret")
        assert command("queues", "--json").code == 0


# as a process


def test_a_pipe_of_a_thousand_and_some_jobs_is_sent_in_batches(service: str, client: Client, owner: str):
    job = {"owner_service": owner, "task_type": "measure", "model_profile": "ruler"}
    sent = lines(*({**job, "input": {"n": number, "text": "ё"}} for number in range(1_001)))
    code, out = run(service, "jobs", "submit", "--file", "-", "--json", given=sent, stdout=subprocess.PIPE)

    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len({each["batch_id"] for each in told}) == 2
    assert [each["line"] for each in told] == list(range(1, 1_002))
    stored = client.list(owner_service=owner, include=["input"], oldest_first=True, page_size=500)
    assert [job.input and job.input["n"] for job in stored] == list(range(1_001))


class Terminal:
    """A pseudo-terminal, as people have it, and what it shows."""

    def __init__(self) -> None:
        self._ours, self.end = pty.openpty()
        self._seen: list[bytes] = []
        self._reading = threading.Thread(target=self._read)

    def __enter__(self) -> Terminal:
        self._reading.start()
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.end)
        self._reading.join(10)
        os.close(self._ours)

    @property
    def shown(self) -> str:
        return b"".join(self._seen).decode()

    def _read(self) -> None:
        with suppress(OSError):  # nobody writes to it any more
            while piece := os.read(self._ours, 65536):
                self._seen.append(piece)


def start(service: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", "from app.cli import main; main()", *words],
        env=kept | {"AI_SERVICE_URL": service, "TERM": "xterm", "COLUMNS": "150"},
        text=True,
        **options,
    )


def run(service: str, *words: str, given: str = "", **options: Any) -> tuple[int, str]:
    """A command from start to end: its exit code, and what it wrote to stdout."""
    process = start(service, *words, stdin=subprocess.PIPE, **options)
    out, _ = process.communicate(given, timeout=60)
    return process.returncode, out or ""


def test_a_terminal_is_shown_a_table_that_lives(service: str, client: Client, owner: str):
    job = client.submit(
        owner_service=owner,
        task_type="llm_chat",
        model_profile="practice",
        input={"user": "x", "practice": {"delay_ms": 500}},
    )
    with Terminal() as terminal:
        code, _ = run(service, "jobs", "watch", job.id, stdout=terminal.end, stderr=terminal.end)

    assert code == 0, terminal.shown
    assert "1 of 1 final" in terminal.shown
    assert "completed" in terminal.shown


@pytest.mark.parametrize(
    ("words", "sign", "code"), [(["queues", "--watch"], "gpu.llm", 0), (["jobs", "watch"], "measure", 130)]
)
def test_what_goes_on_for_ever_ends_with_ctrl_c(
    words: list[str], sign: str, code: int, service: str, client: Client, owner: str
):
    ids = [job.id for job in waiting(client, owner)] if words[0] == "jobs" else []
    with Terminal() as terminal:
        watching = start(service, *words, *ids, stdin=terminal.end, stdout=terminal.end, stderr=terminal.end)
        eventually(lambda: sign in terminal.shown, within=30, what=f"{words} shows {sign}")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == code
    assert "Traceback" not in terminal.shown


def test_data_goes_into_the_pipe_and_the_bar_to_the_terminal(service: str, owner: str):
    words = ("jobs", "submit", "--file", "-", "--owner", owner, *CHAT, "--wait", "--quiet")
    two = lines({"input": json.loads(HELLO)}, {"input": json.loads(HELLO)})
    with Terminal() as terminal:
        code, out = run(service, *words, given=two, stdout=subprocess.PIPE, stderr=terminal.end)

    assert code == 0, terminal.shown
    assert [len(told) for told in out.splitlines()] == [36, 36]
    assert "jobs finished" in terminal.shown
