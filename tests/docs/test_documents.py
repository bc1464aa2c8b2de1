"""What the documents say is what the service does: their commands are run, their tables compared with the code."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
import wave
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from adapters.rabbitmq.events import Body, messages
from app import configfile, keyfile, up
from app.endpoint import ProviderName
from app.server import bind, url_of
from app.settings import from_env
from domain.access import Right
from domain.chat import parse_chat_input
from domain.errors import ErrorCode, StartupError
from domain.job import RunOutcome
from domain.policy import OwnerPolicy, QueuePolicy, TaskPolicy
from domain.retry import RETRIES, Retry
from tests.contracts.documents import description

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs/api.md").read_text()
DESCRIPTION: dict[str, Any] = json.loads(description())

DOCUMENTED = "http://127.0.0.1:8080"
DOCUMENTED_WORKER = "http://127.0.0.1:8081"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page: str, program: str) -> list[list[str]]:
    """The page's commands of one program, each as its words."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ")
    words = shlex.split(lines, comments=True, posix=True)
    starts = [place for place, word in enumerate(words) if word == program]
    return [words[start : (*starts, len(words))[number + 1]] for number, start in enumerate(starts)]


@pytest.fixture
async def service(database: str) -> AsyncIterator[tuple[str, str]]:
    """The whole service as `make run` starts it; yields its address and its worker's."""
    settings = from_env(
        {"HTTP_HOST": "127.0.0.1", "SHUTDOWN_GRACE": "1s", "LOG_LEVEL": "error", "PROVIDER_DISCOVERY": "false"}
    )
    listener, worker_listener = bind("127.0.0.1", 0, "HTTP_PORT"), bind("127.0.0.1", 0, "WORKER_HTTP_PORT")
    async with up.everything(settings, database, listener, worker_listener):
        yield url_of(listener), url_of(worker_listener)


async def run_curl(words: list[str], addresses: tuple[str, str], job_id: str) -> httpx.Response:
    """What curl would do with the few options that the documents use."""
    url = next(word for word in words if word.startswith("http"))
    url = url.replace(DOCUMENTED, addresses[0]).replace(DOCUMENTED_WORKER, addresses[1]).replace("/ID", f"/{job_id}")
    headers = dict(words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "-H")
    body: str | bytes | None
    body = next((words[place + 1] for place, word in enumerate(words) if word in ("-d", "--data-binary")), None)
    if body == "@call.wav":
        body = recording()
    async with httpx.AsyncClient(trust_env=False, timeout=40) as client:
        return await client.request("POST" if body else "GET", url, content=body, headers=headers)


def recording(seconds: int = 3) -> bytes:
    """A WAV file, of silence."""
    with wave.open(file := io.BytesIO(), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(2 * 8_000 * seconds))
    return file.getvalue()


async def test_the_commands_of_the_readme_do_what_it_says(service: tuple[str, str]):
    chat, submit, wait = commands("README.md", "curl")

    answered = await run_curl(chat, service, "")
    submitted = await run_curl(submit, service, "")
    ended = await run_curl(wait, service, submitted.json()["id"])

    assert answered.status_code == 200
    assert answered.json()["model"] == "practice"
    assert submitted.status_code == 201
    assert ended.json()["status"] == "completed"
    assert ended.json()["result"]["model"] == "practice"


async def test_the_commands_for_operators_are_answered(service: tuple[str, str]):
    for command in commands("docs/operations.md", "curl") + commands("docs/runbook.md", "curl"):
        assert (await run_curl(command, service, "")).status_code == 200


async def test_the_commands_for_chats_and_uploads_are_answered(service: tuple[str, str]):
    answers = [await run_curl(command, service, "") for command in commands("docs/api.md", "curl")]

    assert [(answer.request.url.path, answer.status_code) for answer in answers] == [
        ("/chat", 200),
        ("/chat/stream", 200),
        ("/queue/jobs", 202),
        ("/api/v1/uploads", 201),
    ]
    assert "event: done" in answers[1].text


async def test_practising_a_failure_goes_as_described(service: tuple[str, str]):
    [practice] = re.findall(r"`(\{\"practice\".*?\})`", (ROOT / "docs/api.md").read_text())
    job = {
        "owner_service": "me",
        "task_type": "llm_chat",
        "model_profile": "practice",
        "input": {"user": "Hello!", **json.loads(practice)},
    }
    async with httpx.AsyncClient(base_url=service[0], trust_env=False) as api:
        job_id = (await api.post("/api/v1/jobs", json=job)).json()["id"]
        async with asyncio.timeout(20):
            while (seen := (await api.get(f"/api/v1/jobs/{job_id}")).json())["attempts"] == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    assert (seen["status"], seen["error_code"]) == ("pending", "provider_unavailable")


def test_the_chat_input_that_is_shown_is_accepted():
    [shown] = [block for block in blocks("docs/api.md", "json") if "messages" in block]

    assert parse_chat_input(shown.encode()).max_tokens == 256


def test_the_event_that_is_shown_is_what_is_published():
    [shown] = [block for block in blocks("docs/rabbitmq.md", "json") if "job_id" in block]
    events = msgspec.json.decode(shown, type=Body).events

    assert [json.loads(body) for _, body in messages(events)] == [json.loads(shown)]


def test_every_call_is_documented_and_no_other():
    documented = re.findall(r"`(GET|POST|DELETE) (/[^`?]+)`", API.partition("## A job")[0])

    assert sorted(documented) == sorted(
        (method.upper(), re.sub(r"{\w+_id}", "{id}", path))
        for path, methods in DESCRIPTION["paths"].items()
        for method in methods
    )


def test_every_status_is_documented_and_no_other():
    documented = set(re.findall(r"^\| (\d{3}) \|", _section("Errors"), re.MULTILINE))
    documented |= set(re.findall(r"\b(20\d)\b", API))
    described = {
        status
        for methods in DESCRIPTION["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
    }

    assert documented == described | {"405"}  # which no operation answers


def test_the_documented_fields_of_a_job_are_those_of_the_api():
    sent, seen = (set(_fields(table)) for table in _section("A job").split("What comes back"))

    assert sent == set(_properties("NewJob"))
    assert (sent | seen) - {"idempotency_key"} == set(_properties("JobView"))
    assert not sent & seen


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("Runs", "RunView"),
        ("Figures", "StatsView"),
        ("Figures", "WorkerView"),
        ("Queues", "QueueView"),
        ("Queues", "CircuitView"),
        ("Queues", "BrokerQueueView"),
        ("Queues", "QueueStatusView"),
    ],
)
def test_every_field_of_an_answer_is_documented(title: str, schema: str):
    assert set(_properties(schema)) <= set(re.findall(r"\w+", _section(title)))


def test_every_outcome_of_a_run_is_documented():
    assert {str(outcome) for outcome in RunOutcome} <= set(re.findall(r"`(\w+)`", _section("Runs")))


@pytest.mark.parametrize("schema", ["ClaimRequest", "Heartbeat", "Completion", "FailedRun", "Release"])
def test_every_field_that_a_worker_sends_is_documented(schema: str):
    assert set(_properties(schema)) <= set(re.findall(r"\w+", _section("External workers")))


def test_every_filter_is_documented():
    query = {each["name"] for each in DESCRIPTION["paths"]["/api/v1/jobs"]["get"]["parameters"]}
    body = set(_properties("JobsWhere"))

    assert query - {"labels"} <= set(re.findall(r"\w+", _section("Lists")))
    assert body - query <= set(re.findall(r"\w+", _section("Many at once")))


def _fields(table: str) -> list[str]:
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(rows))


def _properties(schema: str) -> dict[str, Any]:
    properties: dict[str, Any] = DESCRIPTION["components"]["schemas"][schema]["properties"]
    return properties


class Recorded(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_the_configuration_files_that_are_shown_say_the_same(tmp_path: Path):
    toml, *_ = blocks("docs/configuration.md", "toml")
    [document] = blocks("docs/configuration.md", "json")
    (tmp_path / "config.toml").write_text(toml)
    (tmp_path / "config.json").write_text(document)

    read = configfile.read(tmp_path / "config.json")
    assert read == configfile.read(tmp_path / "config.toml")
    policies = read.policies
    assert policies.queues["gpu.llm"] == QueuePolicy(
        8, preempt=True, reserved_share=0.1, ageing=timedelta(minutes=30), adaptive=True
    )
    assert policies.owners["telephony"] == OwnerPolicy(3, max_pending=50_000)
    assert policies.task_types == {"call_analysis": TaskPolicy(timedelta(minutes=10))}


def test_the_documented_keys_of_the_configuration_file_are_those_of_the_code():
    page = (ROOT / "docs/configuration.md").read_text()
    documented = re.findall(r"^\| `(\w+)\.NAME\.(\w+)` \|", page, re.MULTILINE)
    policies = {"queues": QueuePolicy, "owners": OwnerPolicy, "task_types": TaskPolicy}
    known = [(part, field) for part, policy in policies.items() for field in policy.__struct_fields__]

    assert documented == [*known, *(("profiles", field) for field in configfile.PROFILE)]
    assert all(f"`{key}" in page for key in configfile.PARTS)
    [sections] = re.findall(r"`lmstudio`, `ollama` and `anthropic` are tables of (.*?), with", page, re.DOTALL)
    assert re.findall(r"`(\w+)`", sections) == list(configfile.ENDPOINT)


def test_every_kind_of_server_is_documented_with_the_configuration_file():
    [row] = re.findall(r"^\| `profiles.NAME.provider` .*$", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)

    assert set(re.findall(r"`([a-z-]+)`", row)) == set(ProviderName)


def test_the_refusal_that_is_shown_is_what_is_said(tmp_path: Path):
    [shown] = blocks("docs/configuration.md", "text")
    (path := tmp_path / "config.json").write_text('{"queues": {"gpu.llm": {"concurency": 8}}}')

    with pytest.raises(StartupError) as refused:
        configfile.read(path)
    assert str(refused.value) == shown.strip().replace(str(configfile.DEFAULT), str(path))


def test_the_file_of_tokens_that_is_shown_is_accepted(tmp_path: Path):
    _, toml = blocks("docs/configuration.md", "toml")
    (path := tmp_path / "tokens.toml").write_text(toml)

    granted = [(grant.owner, grant.rate, sorted(grant.rights)) for grant in keyfile.read(path).values()]
    assert granted == [
        ("telephony", None, [Right.READ, Right.SUBMIT]),
        ("monitoring-tg", 20.0, [Right.READ, Right.SUBMIT]),
        ("*", None, [Right.WORK]),
    ]


def test_the_documented_fields_of_a_token_are_those_of_the_code():
    section = (ROOT / "docs/configuration.md").read_text().partition("## Tokens")[2]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert documented == list(keyfile.Grant.__struct_fields__)


def test_every_setting_is_documented_and_no_other():
    environment = Recorded()
    from_env(environment)
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)

    assert set(re.findall(r"`([A-Z_]+)`", " ".join(rows))) == environment.asked


def test_the_documented_retries_are_those_of_the_code():
    means = {"RETRY_DELAY_FAST": Retry.SOON, "RETRY_DELAY_SLOW": Retry.LATER, "final": Retry.NEVER}
    table = re.findall(
        r"^\| (`\w+`.*?) \| (tried again|final|given back)(.*)\|$", _section("What happens"), re.MULTILINE
    )
    documented: dict[Any, Retry] = {}
    for codes, what, how in table:
        retry = next((meaning for word, meaning in means.items() if word in what + how), Retry.GIVE_BACK)
        documented |= {ErrorCode(code): retry for code in re.findall(r"`(\w+)`", codes)}

    assert documented == RETRIES


def _section(title: str) -> str:
    return API.partition(f"## {title}")[2].partition("\n## ")[0]


def test_every_place_that_is_linked_exists():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not heading or heading in _headings(linked), f"{page.name} links to {target}#{heading}"


def _headings(page: Path) -> list[str]:
    """What a page's headings are linked by."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
