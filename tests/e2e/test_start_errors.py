"""What cannot start says in one line what its operator can do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Process, one_line
from tests.servers.rabbitmq import free_ports

SECRET = "do-not-tell"
NOWHERE = f"postgresql://user:{SECRET}@127.0.0.1:1/nothing"


@pytest.mark.anew
def test_a_command_that_needs_postgresql_says_so(install: Install) -> None:
    installation = install()
    for process in [installation.start(command) for command in ("serve", "worker", "scheduler", "migrate")]:
        line = refusal(process)
        assert "DATABASE_URL is not set" in line
        assert "ai-service up" in line


@pytest.mark.anew
def test_rabbitmq_alone_is_an_error(install: Install) -> None:
    code, said = install(AMQP_URL=f"amqp://user:{SECRET}@127.0.0.1:1/").run("up")
    assert code == 1
    assert "AMQP_URL is set without DATABASE_URL" in one_line(said)
    assert SECRET not in said


BAD_VALUES = {
    ("LLM_TIMEOUT", "soon"): "a duration such as",
    ("WORKER_CLAIM_LIMIT", "0"): "a whole number from 1",
    ("HTTP_PORT", "99999"): "a port number",
    ("RABBITMQ_QUEUE_TYPE", "lazy"): "one of: classic, quorum",
}


def test_a_bad_value_is_named_with_what_is_expected(install: Install) -> None:
    started = {bad: install(DATABASE_URL=NOWHERE, **dict([bad])).start("serve") for bad in BAD_VALUES}
    for (variable, given), process in started.items():
        line = refusal(process)
        assert variable in line
        assert given in line
        assert BAD_VALUES[variable, given] in line


@pytest.mark.parametrize(
    ("variable", "given"),
    [("DATABASE_URL", f"mysql://user:{SECRET}@host/x"), ("LLM_BASE_URL", f"http://user:{SECRET}@host/v1")],
)
def test_a_bad_secret_is_named_but_not_repeated(install: Install, variable: str, given: str) -> None:
    code, said = install(**{variable: given}).run("serve")
    assert code == 1
    assert variable in one_line(said)
    assert SECRET not in said


def test_a_file_of_tokens_that_cannot_be_used_is_named_with_its_place_but_not_repeated(
    install: Install, tmp_path: Path
) -> None:
    (path := tmp_path / "tokens.json").write_text(f'{{"{SECRET}": {{"owner": "{SECRET}", "rights": ["{SECRET}"]}}}}')
    installation = install(DATABASE_URL=NOWHERE, AI_SERVICE_TOKENS=str(path))
    for process in [installation.start(command) for command in ("serve", "up")]:
        line = refusal(process)
        assert f"AI_SERVICE_TOKENS: '{path}' cannot be used; expected rights of token 1 to be " in line
        assert SECRET not in process.said


@pytest.mark.anew
def test_a_port_that_is_taken_is_named_with_its_variable(install: Install) -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as taken:
        port = str(taken.getsockname()[1])
        installation = install(DATABASE_URL=NOWHERE)
        started = {
            installation.start(command, **{variable: port}): variable
            for command, variable in (
                ("serve", "HTTP_PORT"),
                ("worker", "WORKER_HTTP_PORT"),
                ("scheduler", "SCHEDULER_HTTP_PORT"),
                ("up", "HTTP_PORT"),
            )
        }
        for process, variable in started.items():
            line = refusal(process)
            assert variable in line
            assert port in line


def test_a_worker_without_a_model_says_what_to_set(install: Install, database: str) -> None:
    code, said = install(DATABASE_URL=database).run("worker")
    assert code == 1
    assert "LLM_BASE_URL" in one_line(said)


def test_a_worker_that_is_told_of_an_unknown_queue_names_those_it_knows(install: Install, database: str) -> None:
    code, said = install(DATABASE_URL=database, AI_PROVIDER="practice").run("worker", "--queues", "gpu.nothing")
    assert code == 1
    line = one_line(said)
    assert "gpu.nothing" in line
    assert "gpu.llm" in line


def test_an_api_that_does_not_migrate_starts_without_postgresql_and_waits_for_it(install: Install) -> None:
    api = install(DATABASE_URL=NOWHERE, MIGRATE_ON_START="false").serve()
    assert api.http.get("/readyz").status_code == 503
    assert api.http.get("/api/v1/jobs").status_code == 503
    assert SECRET not in api.process.said
    api.process.terminate()
    assert api.process.exit_code() == 0


@pytest.mark.anew
def test_a_process_that_waits_for_postgresql_can_be_stopped(install: Install) -> None:
    installation = install(DATABASE_URL=NOWHERE, HTTP_PORT="0", AI_PROVIDER="practice")
    for process in [installation.start(command) for command in ("serve", "worker", "scheduler", "up")]:
        process.says("waiting for postgresql")
        process.terminate()
        process.exit_code(within=3)
        assert "Traceback" not in process.said
        assert SECRET not in process.said


def refusal(process: Process) -> str:
    """The line that a process ended with that could not start."""
    assert process.exit_code() == 1
    return one_line(process.said)
