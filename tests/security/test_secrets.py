"""Secrets are planted in every setting, and payloads in jobs; nothing that the service says may hold one of them."""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.http import openapi_document
from app.settings import from_env
from domain.errors import StartupError
from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, eventually
from tests.security.conftest import HOSTILE
from tests.servers.model_server import Behaviour, ModelServer, cuts, refuses, says, stalls, tells
from tests.servers.postgres import Databases

MASTER = "pl4nted-master-0c5b1e77"
OWNERS = "pl4nted-owner-5a1c93d0"
KEY = "pl4nted-apikey-77f0a3b9"
POSTGRES = "pl4nted-postgres-19e4c2aa"
RABBIT = "pl4nted-rabbit-e81d55f6"
SPEECH_KEY = "pl4nted-speechkey-c3d9a816"
EXPORTER = "pl4nted-exporter-2a60e7f4"
SECRETS = (MASTER, OWNERS, KEY, SPEECH_KEY, POSTGRES, RABBIT, EXPORTER)

INPUT = "pl4nted-input-4f7d20b1"
RESULT = "pl4nted-result-8b63e9c4"
PROGRESS = "pl4nted-progress-c09a71e2"
PAYLOADS = (INPUT, RESULT, PROGRESS)

AUTHORIZED = {"Authorization": f"Bearer {MASTER}"}


NOVEL = Path(__file__).parents[1] / "data/speech/sense-and-sensibility.flac"


def found_in(text: str | bytes, planted: tuple[str, ...] = (*SECRETS, *PAYLOADS)) -> list[str]:
    """Those of them that it holds, as they are, in base64's three shapes, in hex, or in part."""
    data = text.encode() if isinstance(text, str) else text
    return [each for each in planted if any(shape in data for shape in _shapes(each))]


def _shapes(planted: str) -> Iterator[bytes]:
    # Of each the last, unique part: half a secret is one too.
    unique = planted.rpartition("-")[2]
    yield from (unique.encode(), unique.encode().hex().encode(), unique[::-1].encode())


@pytest.fixture
def planted_database(databases: Databases, database: str) -> Iterator[str]:
    """A database whose user has the planted password."""
    databases.execute(database, f"CREATE ROLE planted LOGIN SUPERUSER PASSWORD '{POSTGRES}'")
    yield re.sub(r"//[^@]*@", f"//planted:{POSTGRES}@", database)
    databases.execute(database, "ALTER ROLE planted NOLOGIN; REASSIGN OWNED BY planted TO postgres; DROP ROLE planted")


@pytest.fixture
def settings(planted_database: str, vhost: str, model: ModelServer, tmp_path: Path) -> dict[str, str]:
    """Everything that can hold a secret holds one; RabbitMQ refuses its own."""
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({OWNERS: "e2e"}))
    return {
        "DATABASE_URL": planted_database,
        "DATABASE_DIRECT_URL": planted_database,
        "AMQP_URL": re.sub(r"//[^@]*@", f"//planted:{RABBIT}@", vhost),
        "AI_SERVICE_TOKEN": MASTER,
        "AI_SERVICE_TOKENS": str(tokens),
        "LLM_API_KEY": KEY,
        "LLM_BASE_URL": model.base_url,
        "AUDIO_TRANSCRIPTION_API_KEY": SPEECH_KEY,
        "AUDIO_TRANSCRIPTION_BASE_URL": model.base_url,
        "INFRA_TARGETS": ",".join(
            f"{name}={kind}+{model.origin.replace('//', f'//planted:{EXPORTER}@')}/metrics"
            for name, kind in (("gpu-1", "dcgm"), ("llm", "vllm"), ("stt", "speech"))
        ),
        "WORKER_POLL_INTERVAL": "100ms",
        "LOG_LEVEL": "debug",
        "PYTHONFAULTHANDLER": "1",
        "SHUTDOWN_GRACE": "1s",
    }


def failed(api: Api, **fields: Any) -> dict[str, Any]:
    """A job whose first run has failed, whatever follows."""
    job = api.submit(**{"input": {"user": f"Say {INPUT}!"}, "max_attempts": 1, **fields})
    seen = eventually(lambda: (now := api.get(job))["error_code"] and now, within=20, what="it fails")
    assert isinstance(seen, dict)
    if not seen["finished_at"]:
        api.cancel(seen)
    for queue in ("gpu.llm", "gpu.speech"):
        api.http.post(f"/api/v1/queues/{queue}/close-circuit").raise_for_status()
    return seen


FAILURES = {
    "auth_error": refuses(401, {"error": {"message": f"Incorrect API key provided: {KEY}. You said {INPUT}."}}),
    "provider_unavailable": refuses(500, f"Traceback: authorization: Bearer {KEY} body Say {INPUT}!"),
    "bad_input": refuses(400, {"error": {"message": f"messages[0]: Say {INPUT}! is not allowed"}}),
    "bad_response": tells(f"{RESULT} <html> {KEY}"),
}


def test_no_output_of_processes_holds_a_secret_or_a_payload(
    install: Install, settings: dict[str, str], model: ModelServer
):
    installation = install(**settings)
    api, worker = installation.serve_and_work()
    api.http.headers.update(AUTHORIZED)
    told: list[str] = []

    model.script(says(f"Here is {RESULT}."))
    done = api.finished(api.submit(input={"user": f"Say {INPUT}!"}))
    assert RESULT in json.dumps(done["result"])
    for code, behaviour in FAILURES.items():
        model.script(behaviour)
        seen = failed(api)
        assert seen["error_code"] == code
        told.append(json.dumps(seen | {"input": None}))
    model.script(cuts(RESULT.encode()))
    told.append(json.dumps(failed(api) | {"input": None}))
    reported_progress(api)
    told += chats(api, model)
    told += recordings(api, model)
    told += everything_told(api, worker.url, done["id"])
    told += refusals(api)
    broken_storage(api, installation, told)

    model.default = stalls()
    crashed = api.submit(input={"user": f"Say {INPUT}!"})
    api.is_running(crashed)
    assert_no_dump_is_allowed(worker.popen.pid)
    worker.popen.send_signal(signal.SIGSEGV)
    assert worker.exit_code() == -signal.SIGSEGV
    assert "Fatal Python error" in worker.said
    api.process.popen.send_signal(signal.SIGABRT)
    assert api.process.exit_code() == -signal.SIGABRT

    assert "event-listener" in api.process.said, "it has tried RabbitMQ"
    for text in told:  # lists show a job's progress to its owner
        assert not found_in(text, (*SECRETS, INPUT, RESULT)), text[:3000]
    said_nothing(installation)


def said_nothing(installation: Installation) -> None:
    """No secret lies in what the processes said, or left in their folder."""
    for process in installation.processes:
        for line in process.said.splitlines():
            assert not found_in(line), f"{process.name}: {line[:3000]}"
    for path in installation.folder.rglob("*"):
        assert not path.name.startswith("core"), "a core dump"
        if path.is_file():
            assert not found_in(path.read_bytes()), path


def reported_progress(api: Api) -> None:
    """An external worker's words are payloads too, also where they come to nothing."""
    api.submit(task_type="elsewhere", input={"user": INPUT})
    claimed = api.http.post("/api/v1/jobs/claim", json={"worker_id": "outside", "task_types": ["elsewhere"]}).json()
    [job] = claimed["jobs"]
    lease = {"lease_token": job["lease_token"]}
    path = f"/api/v1/jobs/{job['id']}"
    assert api.http.post(f"{path}/heartbeat", json=lease | {"progress": {"at": PROGRESS}}).status_code == 200
    wrong = {"schema_version": "ai.chat_result.v1", "content": [RESULT]}
    assert api.http.post(f"{path}/complete", json=lease | {"result": wrong}).status_code == 422
    assert api.http.post(f"{path}/complete", json=lease | {"result": {"text": RESULT}}).status_code == 200


def chats(api: Api, model: ModelServer) -> Iterator[str]:
    """What is told of chats that fail, and of enqueued ones that have not run."""
    question = {"messages": [{"role": "user", "content": f"Say {INPUT}!"}], "owner_service": "e2e"}
    for wrong in (question | {"max_tokens": INPUT}, question | {"response_format": {"type": INPUT}}):
        answer = api.http.post("/chat", json=wrong)
        assert answer.status_code == 422, answer.text
        yield answer.text
    for path in ("/chat", "/chat/stream"):
        assert asked(api, model, path, question, says(f"Here is {RESULT}.")).status_code == 200
        for behaviour in FAILURES.values():
            answer = asked(api, model, path, question, behaviour)
            assert answer.status_code in (422, 502, 503)
            yield f"{answer.headers} {answer.text}"
    api.http.post("/queue/pause").raise_for_status()
    queued = api.http.post("/queue/jobs", json=question).raise_for_status()
    yield queued.text
    yield api.http.get(queued.headers["Location"]).raise_for_status().text
    yield api.http.delete(queued.headers["Location"]).raise_for_status().text
    api.http.post("/queue/resume").raise_for_status()


def asked(api: Api, model: ModelServer, path: str, question: object, behaviour: Behaviour) -> httpx.Response:
    """What a chat is answered once its model is asked: until then a circuit that has opened is in its way."""
    model.script(behaviour)
    before = model.calls

    def look() -> httpx.Response | None:
        api.http.post("/api/v1/queues/gpu.llm/close-circuit").raise_for_status()
        answer = api.http.post(path, json=question)
        return answer if model.calls > before else None

    answer = eventually(look, within=20, what="the model is asked")
    assert answer is not None
    return answer


def recordings(api: Api, model: ModelServer) -> Iterator[str]:
    """What is told of uploads, and of speech that cannot be had or heard."""
    uploads, owner = "/api/v1/uploads", {"owner_service": "e2e"}
    form = api.http.post(uploads, params=owner, files={INPUT: (INPUT, INPUT.encode(), "audio/wav")})
    assert form.status_code == 422
    yield form.text
    known = []
    for data in (NOVEL.read_bytes(), b"RIFF" + INPUT.encode()):
        known.append(api.http.post(uploads, params=owner, content=data).raise_for_status().json()["upload_id"])
        yield api.http.get(f"/api/v1/uploads/{known[-1]}").raise_for_status().text
    speech = {"task_type": "transcription", "model_profile": "whisper-large-v3"}
    for heard in (
        refuses(401, {"error": {"message": f"Incorrect API key provided: {SPEECH_KEY}. You said {INPUT}."}}),
        refuses(500, f"Traceback: authorization: Bearer {SPEECH_KEY}, prompt {INPUT}"),
        tells(f"{RESULT} <html> {SPEECH_KEY}"),
    ):
        model.script(heard)
        seen = failed(api, **speech, input={"upload_id": known[0], "prompt": INPUT})
        yield json.dumps(seen | {"input": None})
    for source, code in (
        ({"upload_id": known[1]}, "bad_audio"),
        ({"audio_base64": b64encode(INPUT.encode()).decode()}, "bad_audio"),
        ({"audio_url": f"http://127.0.0.1:9/{INPUT}.wav?token={SPEECH_KEY}"}, "bad_input"),
        ({"audio_url": f"http://{INPUT}:{SPEECH_KEY}@example.org/x"}, "bad_input"),
    ):
        seen = failed(api, **speech, input=source)
        assert seen["error_code"] == code
        yield json.dumps(seen | {"input": None})


def everything_told(api: Api, worker: str, job_id: str) -> Iterator[str]:
    """What is told without being asked for a payload."""
    paths = ["/healthz", "/readyz", "/schema", "/schema/openapi.json", "/queue/status", "/api/v1/stats"]
    paths += ["/api/v1/queues", "/api/v1/workers", "/api/v1/jobs?limit=100", f"/api/v1/jobs/{job_id}/runs"]
    paths += [f"/api/v1/jobs/{job_id}/events", "/health/detail", "/metrics", "/api/v1/providers/status"]
    paths += ["/health", "/health/provider", "/api/v1/infra/status"]
    for path in paths:
        answer = api.http.get(path)
        yield f"{answer.headers} {without_answers(answer.text)}"
    for path in ("/healthz", "/readyz", "/worker/status", "/metrics", "/nope"):
        answer = httpx.get(f"{worker}{path}", trust_env=False)
        yield f"{answer.headers} {answer.text}"


def without_answers(events: str) -> str:
    """A stream without its tokens: who follows a job asks for them."""
    return re.sub(r"event: token\n(?:.+\n)+", "", events)


def refusals(api: Api) -> list[str]:
    """Of requests that are wrong, each with something planted that need not come back."""
    payload = {"owner_service": "e2e", "task_type": "chat_completion", "model_profile": "scripted"}
    answers = [
        api.http.get("/api/v1/jobs", headers={"Authorization": f"Bearer {OWNERS}x"}),
        api.http.get("/api/v1/jobs", headers={"Authorization": f"Basic {MASTER}"}),
        api.http.post("/api/v1/jobs/claim", json={"worker_id": "x"}, headers={"Authorization": f"Bearer {OWNERS}"}),
        api.http.post(
            "/api/v1/jobs", json=payload | {"input": {"messages": [{"role": "user", "content": INPUT}], "stop": [7]}}
        ),
        api.http.post("/api/v1/jobs", json=payload | {"input": [INPUT]}),
        api.http.post("/api/v1/jobs", json=payload | {"input": {"user": 7}, "max_attempts": INPUT}),
        api.http.post("/api/v1/jobs", content=b'{"input": {"user": "' + INPUT.encode()),
        api.http.post("/api/v1/jobs", content=b'"' + INPUT.encode() + b'"'),
    ]
    assert {answer.status_code for answer in answers} == {400, 401, 403, 422}
    return [f"{answer.headers} {answer.text}" for answer in answers]


def broken_storage(api: Api, installation: Installation, told: list[str]) -> None:
    """PostgreSQL refuses a row, and says what stood in it."""
    installation.rows("ALTER TABLE job_inputs ADD CONSTRAINT planted CHECK (job_id IS NULL) NOT VALID")
    body = {"owner_service": "e2e", "task_type": "chat_completion", "model_profile": "scripted"}
    answer = api.http.post("/api/v1/jobs", json=body | {"input": {"user": INPUT}})
    assert answer.status_code == 500
    told.append(answer.text)
    installation.rows("ALTER TABLE job_inputs DROP CONSTRAINT planted")
    assert "request_failed" in api.process.said


def assert_no_dump_is_allowed(pid: int) -> None:
    assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 0


def test_no_command_tells_a_secret(install: Install, settings: dict[str, str]):
    refused = settings["DATABASE_URL"].replace("//planted:", "//nobody:")
    installation = install(**settings)
    commands = [
        installation.start("doctor"),
        installation.start("doctor", DATABASE_URL=refused, LLM_BASE_URL="http://127.0.0.1:9/v1"),
        installation.start("serve", DATABASE_URL=refused, MIGRATE_ON_START="false", HTTP_PORT="0"),
        installation.start("jobs", "list", AI_SERVICE_URL="http://127.0.0.1:9"),
    ]
    commands[0].exit_code(60)
    commands[1].exit_code(60)
    commands[2].says("listening")
    commands[2].says("scheduler")
    commands[2].terminate()
    commands[3].exit_code(60)
    assert "PostgreSQL" in commands[0].said
    said_nothing(installation)


UNUSABLE: tuple[Mapping[str, str], ...] = (
    {"AMQP_URL": f"amqp://user:{RABBIT}@host:port"},
    {"AMQP_URL": f"http://user:{RABBIT}@host/"},
    {"AMQP_URL": f"amqp://user:{RABBIT}@host:5672/"},
    {"AMQP_URL": RABBIT},
    {"DATABASE_URL": f"postgresql://user:{POSTGRES}/@host/db"},
    {"DATABASE_URL": f"mysql://user:{POSTGRES}@host/db"},
    {"DATABASE_URL": POSTGRES},
    {"LLM_BASE_URL": f"http://user:{KEY}@host/v1"},
    {"LLM_API_KEY": f"{KEY}\r\nX-Other: 1"},
    {"LLM_API_KEY": f"{KEY}\0"},
    {"AI_SERVICE_TOKEN": f"{MASTER}\n{MASTER}"},
    {"INFRA_TARGETS": f"gpu-1=dcgm+http://user:{EXPORTER}/@host"},
    {"INFRA_TARGETS": f"gpu-1=dcgm+ftp://user:{EXPORTER}@host"},
    {"INFRA_TARGETS": f"gpu-1=dcgm+http://user:,{EXPORTER}=dcgm+@host"},
    {"INFRA_TARGETS": EXPORTER},
)


@pytest.mark.parametrize("environ", UNUSABLE)
def test_a_setting_that_cannot_be_used_is_named_and_not_repeated(environ: Mapping[str, str]):
    with pytest.raises(StartupError) as refused:
        from_env(environ)
    assert next(iter(environ)) in str(refused.value)
    assert not found_in(str(refused.value))
    assert not found_in(f"{refused.value.__cause__!r} {refused.getrepr(showlocals=False)}".replace(repr(environ), ""))


def test_settings_show_no_secret_however_they_are_shown():
    environ = {
        "AI_SERVICE_TOKEN": MASTER,
        "DATABASE_URL": f"postgresql://u:{POSTGRES}@h/d",
        "AMQP_URL": f"amqp://u:{RABBIT}@h/",
        "LLM_API_KEY": KEY,
        "LLM_BASE_URL": "http://h/v1",
        "INFRA_TARGETS": f"gpu-1=dcgm+http://u:{EXPORTER}@h",
    }
    settings = from_env(environ)
    for shown in (
        repr(settings),
        str(settings),
        f"{settings}",
        f"{settings.http.token}",
        f"{settings.llm.endpoint.api_key!s:>50}",
    ):
        assert not found_in(shown)


def test_the_description_of_the_api_does_not_depend_on_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AI_SERVICE_TOKEN", MASTER)
    monkeypatch.setenv("LLM_API_KEY", KEY)
    assert not found_in(openapi_document())


@pytest.mark.anew
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_embedded_installation_keeps_its_secrets_to_itself_and_takes_text_for_text(install: Install, tmp_path: Path):
    data = tmp_path / "data"
    secrets = {"AI_SERVICE_TOKEN": MASTER, "LLM_API_KEY": KEY}
    installation = install(DATA_DIR=str(data), LLM_MODEL="", LOG_FORMAT="pretty", **secrets)
    api = installation.up()
    api.http.headers.update(AUTHORIZED)
    for hostile in HOSTILE:
        job = api.submit(model_profile="practice", owner_ref=hostile, labels={"x": hostile}, input={"user": INPUT})
        assert api.finished(job)["owner_ref"] == hostile
        for asked in ({"owner_ref": hostile}, {"label.x": hostile}):
            assert [each["id"] for each in api.http.get("/api/v1/jobs", params=asked).json()["jobs"]] == [job["id"]]
    own = (data / "postgres.password").read_text().strip()
    planted = (*SECRETS, *PAYLOADS)

    processes = list(descendants(api.process.popen.pid))
    assert len(processes) > 3, "the service, the watcher, PostgreSQL's own"
    for process in processes:
        shown = (process / "cmdline").read_bytes()
        assert not found_in(shown, planted)
        assert own.encode() not in shown
    for process in processes[1:]:
        environment = (process / "environ").read_bytes()
        assert not found_in(environment, planted), process
        assert own.encode() not in environment

    assert (data / "postgres").stat().st_mode & 0o777 == 0o700
    for path in (data, *data.rglob("*")):
        mode = path.lstat().st_mode
        assert not mode & 0o022, f"others may write {path}"
        if path.is_file() and data / "postgres-binaries" not in path.parents:
            assert not mode & 0o077, f"others may read {path}"
        elif path.is_socket():
            assert not mode & 0o077, f"others may use {path}"
    for leftover in data.glob("*.log*"):
        assert not found_in(leftover.read_bytes(), SECRETS)
    api.process.terminate()
    api.process.exit_code()
    assert own not in api.process.said
    said_nothing(installation)


def descendants(pid: int) -> Iterator[Path]:
    """The process and all that it started, by their folders in /proc."""
    yield Path(f"/proc/{pid}")
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from descendants(int(child))
