"""The command line, as a user meets it: help that helps, and one line for what its user can mend."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from app import doctor
from app.bootstrap import build
from app.cli import COMMANDS as EVERY_COMMAND
from app.cli import cli
from app.commands import up
from app.server import bind
from app.settings import from_env
from tests.servers.model_server import ModelServer, refuses, tells
from tests.servers.pgbouncer import PgBouncer

COMMANDS = ["up", "serve", "worker", "scheduler", "migrate", "backup", "restore", "prune", "openapi", "demo", "doctor"]
STEERING = ["pause", "resume", "stop", "start", "close-circuit"]
NEED_A_DATABASE = ["serve", "worker", "scheduler", "migrate"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", "from app.cli import main; main()", *arguments],
        env=kept | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which the command ended."""
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"ai-service: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def test_every_command_is_known_to_these_tests():
    assert set(EVERY_COMMAND) == {*COMMANDS, "chat", "jobs", "queues"}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("jobs", {"app.bootstrap", "asyncpg", "dramatiq", "litestar", "structlog", "uvicorn"}),
        ("queues", {"app.bootstrap", "asyncpg", "dramatiq", "litestar", "structlog", "uvicorn"}),
        ("scheduler", {"alembic", "sqlalchemy", "litestar"}),
        ("worker", {"alembic", "sqlalchemy", "app.http"}),
        ("serve", {"alembic", "sqlalchemy"}),
    ],
)
def test_a_command_loads_what_it_needs_and_no_more(command: str, without: set[str]):
    loaded = f"import sys, app.cli, app.commands.{command}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60, check=True)
    assert not without & set(done.stdout.split())


def test_without_arguments_the_commands_are_listed():
    shown = CliRunner().invoke(cli, [], env={"COLUMNS": "200"}).output
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b +[A-Z]\w+", shown), command


@pytest.mark.parametrize("command", [*COMMANDS, "queues", *(f"queues {verb}" for verb in STEERING)])
def test_help_says_what_a_command_does(command: str):
    result = CliRunner().invoke(cli, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert re.search(r"[A-Z][\w' ,:;-]{20,}", result.output.partition("Usage")[2].partition("\n")[2])


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_database_of_ones_own_is_saved_by_its_own_programs(command: str, tmp_path: Path):
    line = one_line(run(command, str(tmp_path / "file"), DATABASE_URL="postgresql://127.0.0.1:1/x"))
    assert "pg_dump" in line


def test_what_cannot_be_saved_or_brought_back_is_one_line(tmp_path: Path):
    assert "holds no data" in one_line(run("backup", str(tmp_path / "file"), DATA_DIR=str(tmp_path / "none")))
    assert "is not a file" in one_line(run("restore", str(tmp_path / "file"), DATA_DIR=str(tmp_path / "none")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", NEED_A_DATABASE)
def test_without_a_database_a_command_says_so_in_one_line(command: str):
    assert "DATABASE_URL is not set" in one_line(run(command))


def test_an_unusable_variable_is_one_line():
    line = one_line(run("up", HTTP_PORT="eighty"))
    assert (
        line
        == "ai-service: HTTP_PORT: 'eighty' cannot be used; expected a port number, 1 to 65535 (0: any free one).\n"
    )


def test_a_taken_port_is_one_line():
    with bind("127.0.0.1", 0, "HTTP_PORT") as listener:
        port = str(listener.getsockname()[1])
        line = one_line(run("serve", HTTP_HOST="127.0.0.1", HTTP_PORT=port, DATABASE_URL="postgresql://127.0.0.1:1/x"))
    assert f"HTTP_PORT: cannot listen on 127.0.0.1:{port}" in line


def test_a_queue_that_nobody_knows_is_one_line(database: str):
    environment = {"DATABASE_URL": database, "AI_PROVIDER": "practice", "WORKER_HTTP_HOST": "127.0.0.1"}
    line = one_line(run("worker", "--queues", "gpu.cats", WORKER_HTTP_PORT="0", **environment))
    assert "--queues: gpu.cats is not a queue of this installation; known: gpu.llm, gpu.speech." in line


def test_a_worker_without_a_model_is_one_line(database: str):
    line = one_line(run("worker", DATABASE_URL=database, WORKER_HTTP_HOST="127.0.0.1", WORKER_HTTP_PORT="0"))
    assert "No model is configured" in line


def test_migrate_tells_the_revision(empty_database: str):
    done = run("migrate", DATABASE_URL=empty_database, LOG_LEVEL="error")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"The database is at revision \w+\.\n", done.stdout)


def test_the_way_back_is_told_before_it_is_gone(database: str):
    environment = {"DATABASE_URL": database, "LOG_LEVEL": "error"}
    told = run("migrate", "--to", "0002", **environment)
    assert told.returncode == 1
    assert re.search(r"^Without revision 0003 is lost: .+paused.+\.$", told.stdout, re.M)
    assert told.stderr == "ai-service: Nothing was changed: say --yes as well to go back.\n"
    done = run("migrate", "--to", "0002", "--yes", **environment)
    assert (done.returncode, done.stdout) == (0, "The database is at revision 0002.\n")


async def examined(environment: dict[str, str]) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=250)
    status = await doctor.run(from_env(environment), console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def test_the_doctor_leaves_its_table_alone(unused_tcp_port: int):
    nowhere = f"127.0.0.1:{unused_tcp_port}"
    done = run("doctor", DATABASE_URL=f"postgresql://{nowhere}/x", AMQP_URL=f"amqp://{nowhere}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "RabbitMQ" in done.stdout


async def test_the_doctor_finds_a_migrated_database_well(database: str):
    status, shown = await examined({"DATABASE_URL": database})
    assert status == 0
    assert re.search(r"PostgreSQL .* ok .* 127\.0\.0\.1:\d+/test_\w+: at revision \d+", shown)


async def test_the_doctor_tells_what_an_unmigrated_database_needs(empty_database: str):
    status, shown = await examined({"DATABASE_URL": empty_database})
    assert status == 1
    assert "run 'ai-service migrate'" in shown


async def test_the_doctor_shows_no_secret(unused_tcp_port: int):
    nowhere = f"127.0.0.1:{unused_tcp_port}"
    status, shown = await examined(
        {
            "DATABASE_URL": f"postgresql://ai:hunter2@{nowhere}/jobs?sslpassword=hunter2",
            "AMQP_URL": f"amqp://ai:hunter2@{nowhere}/%2F",
            "LLM_BASE_URL": f"http://{nowhere}/v1?key=hunter2",
            "LLM_API_KEY": "hunter2",
            "AI_SERVICE_TOKEN": "hunter2",
        }
    )
    assert status == 1
    assert "hunter2" not in shown
    assert shown.count("trouble") == 3
    assert f"{nowhere}/jobs" in shown
    assert f"http://{nowhere}/v1" in shown


async def test_the_doctor_asks_the_server_of_each_profile(tmp_path: Path, unused_tcp_port: int):
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    pages = {"/v1/models": tells({"data": [{"id": "qwen", "owned_by": "vllm"}]}), "/health": tells()}
    with ModelServer(pages=pages) as server:
        (path := tmp_path / "c.json").write_text(
            json.dumps(
                {
                    "profiles": [
                        {"name": "good", "provider": "vllm", "base_url": server.base_url, "model": "qwen"},
                        {"name": "other", "provider": "vllm", "base_url": server.base_url, "model": "llama"},
                        {"name": "gone", "kind": "speech", "base_url": f"{nowhere}/hunter2/v1"},
                        {"name": "tried", "provider": "practice"},
                    ]
                }
            )
        )
        status, shown = await examined({"AI_SERVICE_CONFIG": str(path)})
        assert server.requests == []
    assert status == 1
    assert re.search(r"Profile good .* ok .* vllm at 127\.0\.0\.1:\d+: reachable, serves qwen", shown)
    assert re.search(r"Profile other .* trouble .* reachable, but it does not list the model llama", shown)
    assert re.search(rf"Profile gone .* trouble .* openai at 127\.0\.0\.1:{unused_tcp_port}: ", shown)
    assert re.search(r"Profile tried .* ok .* practice: reachable", shown)
    assert "hunter2" not in shown


async def test_the_doctor_finds_that_a_key_is_refused():
    with ModelServer(pages={"*": refuses(401)}) as server:
        status, shown = await examined({"LLM_BASE_URL": server.base_url, "LLM_API_KEY": "hunter2"})
    assert status == 1
    assert re.search(r"Profile qwen2.5-14b .* trouble .* The provider refuses the key", shown)
    assert "hunter2" not in shown


async def test_the_doctor_asks_each_infra_target():
    with ModelServer(pages={"/metrics": tells('DCGM_FI_DEV_GPU_UTIL{gpu="0"} 7\n')}) as server:
        url = server.origin.replace("//", "//me:hunter2@")
        status, shown = await examined({"INFRA_TARGETS": f"gpu-1=dcgm+{url},llm=vllm+{url}"})
    assert status == 1
    assert re.search(r"Target gpu-1 .* ok .* dcgm: tells its figures", shown)
    assert re.search(r"Target llm .* trouble .* vllm: It answers, but not with the figures of its kind", shown)
    assert "hunter2" not in shown


async def test_the_doctor_says_that_no_model_is_configured():
    _, shown = await examined({})
    assert re.search(r"Model profiles .* not used .* none", shown)


async def test_the_doctor_finds_the_way_past_a_pooler_well(database: str, pgbouncer: PgBouncer):
    status, shown = await examined({"DATABASE_URL": pgbouncer.dsn(database), "DATABASE_DIRECT_URL": database})
    assert status == 0
    assert re.search(r"Past a pooler .* ok .* the same database", shown)


async def test_the_doctor_finds_a_pooler_that_nobody_told_of(database: str, pgbouncer: PgBouncer):
    status, shown = await examined({"DATABASE_URL": pgbouncer.dsn(database)})
    assert status == 1
    assert re.search(r"Past a pooler .* trouble .* set DATABASE_DIRECT_URL to PostgreSQL itself", shown)


async def test_the_doctor_finds_a_way_that_leads_elsewhere(database: str, empty_database: str):
    status, shown = await examined({"DATABASE_URL": database, "DATABASE_DIRECT_URL": empty_database})
    assert status == 1
    assert "DATABASE_DIRECT_URL leads to another database" in shown


async def test_the_doctor_counts_tokens_and_shows_none(tmp_path: Path):
    (path := tmp_path / "t.json").write_text('{"hunter2-token": "hunter2", "hunter2-other": "*"}')
    _, shown = await examined({"AI_SERVICE_TOKENS": str(path), "AI_SERVICE_TOKEN": "hunter2"})
    assert re.search(r"API tokens .* ok .* 3 configured", shown)
    assert str(path) in shown
    assert "hunter2" not in shown


async def test_the_doctor_says_that_an_api_without_tokens_is_open():
    _, shown = await examined({})
    assert re.search(r"API tokens .* not used .* whoever reaches the API may use it", shown)


async def test_the_doctor_counts_what_the_configuration_file_configures(tmp_path: Path):
    content = {
        "ollama": {"api_key": "hunter2"},
        "queues": {"gpu.llm": {"concurrency": 4}, "gpu.speech": {}},
        "owners": {"telephony": {"weight": 3}},
    }
    (path := tmp_path / "c.json").write_text(json.dumps(content))
    status, shown = await examined({"AI_SERVICE_CONFIG": str(path)})
    assert status == 0
    assert re.search(r"Configuration file .* ok ", shown)
    assert f"{path}: queues: 2 (gpu.llm, gpu.speech), owners: 1, task types: 0" in shown
    assert "hunter2" not in shown


async def test_the_doctor_says_that_there_is_no_configuration_file():
    _, shown = await examined({})
    assert re.search(r"Configuration file .* not used .* there is no /config/ai_service_config.json", shown)


def test_the_doctor_stops_at_a_configuration_file_that_cannot_be_used(tmp_path: Path):
    (path := tmp_path / "c.toml").write_text("[queues.gpu]\nconcurency = 4")
    said = one_line(run("doctor", AI_SERVICE_CONFIG=str(path)))
    assert "expected queues.gpu.concurency to be one of concurrency, " in said


async def test_the_doctor_shows_values_as_they_are():
    status, shown = await examined({"DATA_DIR": "/tmp/[/red]x"})
    assert status == 0
    assert "/tmp/[/red]x" in shown


@pytest.mark.parametrize("variable", ["AI_SERVICE_TOKEN", "TOKEN"])
def test_the_call_that_a_new_service_suggests_sends_its_token(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    shown = io.StringIO()
    monkeypatch.setattr(up, "console", Console(file=shown, width=80))
    (path := tmp_path / "t.json").write_text('{"s3cret-token": "me"}')
    environment = {"AI_PROVIDER": "practice", variable: "s3cret"}
    if variable == "TOKEN":
        environment["AI_SERVICE_TOKENS"] = str(path)
    up._greet(build(from_env(environment), dsn="postgresql://nowhere"), "http://127.0.0.1:8080")

    [suggested] = re.findall(r"curl (.*/jobs .*)", shown.getvalue())
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {suggested}"], env=environment, capture_output=True, text=True, check=True
    )
    assert "Authorization: Bearer s3cret" in words.stdout.splitlines()
    assert "s3cret" not in shown.getvalue()
