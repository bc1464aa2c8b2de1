"""A caller's text stays text: it starts no line in a log, no field in an answer, no clause in a statement."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from urllib.parse import quote

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from adapters.rabbitmq.events import routing_key
from app.client import Job
from app.commands.output import job_sheet, jobs_table
from tests.app.conftest import WANTED, Api
from tests.security.conftest import HOSTILE, Listening, get, post

LOGGING = """
import json, logging, sys
import structlog
from app.logs import set_up
from app.settings import from_env

form, hostile = sys.argv[1], json.loads(sys.argv[2])
set_up(from_env({"LOG_FORMAT": form, "LOG_LEVEL": "debug"}).logs)
log = structlog.get_logger()
for text in hostile:
    log.info("event", text=text, several=[text], named={text: text})
    logging.getLogger("library").warning("said %s", text)
    log.info(text)
"""

FAILING = """
for text in hostile:
    try:
        raise ValueError(text)
    except ValueError as error:
        error.add_note(text)
        log.exception("failed")
"""

COLOURS = r"\x1b\[[0-9;]*m"


def logged(form: str, program: str) -> str:
    command = [sys.executable, "-c", program, form, json.dumps(HOSTILE)]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stderr.decode("utf-8", "strict")


def test_in_json_every_event_is_one_line_whatever_it_holds():
    said = logged("json", LOGGING + FAILING)
    assert len(said.splitlines()) == said.count("\n") == 4 * len(HOSTILE)
    for line in said.splitlines():
        assert json.loads(line)["level"] in {"info", "warning", "error"}
        assert line.isprintable()


def test_for_people_every_event_is_one_line_and_gives_the_terminal_no_order():
    said = logged("pretty", LOGGING)
    assert said.count("\n") == 3 * len(HOSTILE)
    for line in said.split("\n"):
        assert re.sub(COLOURS, "", line).isprintable(), line
    assert "\x1b[31mred" not in said


def test_for_people_a_traceback_shows_no_line_that_a_caller_wrote():
    said = logged("pretty", LOGGING.partition("for text")[0] + FAILING)
    for line in re.sub(COLOURS, "", said).split("\n"):
        assert line.isprintable(), line
        assert not line.startswith(("two", "{", "red"))


async def test_no_field_of_a_request_is_repeated_in_a_head(api: Api, service: Listening):
    """What an answer's head holds of a request is a key at most."""
    for hostile in HOSTILE:
        path = quote(hostile, safe="")
        requests = [
            get(f"/api/v1/jobs/{path}"),
            get(f"/{path}"),
            get(f"/api/v1/queues/{path}/pause"),
            get(f"/api/v1/jobs?owner_ref={path}&{path}=x"),
            post(f"/queue/pause?queue={path}", b""),
            post(f"/api/v1/queues/{path}/pause", b""),
            post("/api/v1/jobs", json.dumps(WANTED | {"owner_ref": hostile, "labels": {"x": hostile}}).encode()),
        ]
        for request in requests:
            line = await service.call()
            await line.send(request)
            answer = await line.answer()
            known = {"date", "content-type", "content-length", "location", "allow"}
            assert answer.fields.keys() <= known, answer.fields
            assert answer.status in {200, 201, 404, 405, 422}
            line.hang_up()


@pytest.mark.parametrize("name", ["Idempotency-Key", "Prefer", "Last-Event-ID", "X-Request-ID", "Traceparent", "Host"])
async def test_fields_of_a_request_hold_what_they_like_and_nothing_follows(service: Listening, name: str):
    for value in (b"\xff\xfe\x85", b"a\tb", b'"', b"\\", b"wait=" + b"9" * 4000, "\u2028".encode(), b"%0d%0aX: y"):
        body = json.dumps(WANTED).encode()
        head = b"POST /api/v1/jobs HTTP/1.1\r\n%s: %s\r\nContent-Length: %d\r\n\r\n"
        answer = await service.ask(head % (name.encode(), value, len(body)) + body)
        assert answer.status in {200, 201, 400, 422}
        assert answer.fields.keys() <= {"date", "content-type", "content-length", "location", "idempotent-replayed"}


async def test_what_is_logged_of_a_failed_request_is_its_method_and_an_escaped_path(
    api: Api, service: Listening, monkeypatch: pytest.MonkeyPatch
):
    async def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(api.services.operate.queues, "hold", fail)
    for hostile in HOSTILE:
        with capture_logs() as logs:
            answer = await service.ask(post(f"/queue/pause?secret={quote(hostile)}", b""))
        assert answer.status in {422, 500}
        for event in logs:
            assert str(event["path"]).isprintable()
            assert "?" not in str(event["path"])


def test_names_cannot_leave_their_word_of_a_routing_key():
    for name in (*HOSTILE, "a.b", "#", "*", "a.*.#", "x" * 300, "é.ü", ""):
        key = routing_key(name, name, "completed")
        assert key.count(".") == 2
        assert len(key.encode()) <= 255
        assert not set("#* \n\r") & set(key)


def test_tables_for_people_give_the_terminal_no_order():
    for hostile in HOSTILE:
        raw = {"owner_ref": hostile, "error_message": hostile, "labels": {"x": hostile}, "input": {hostile: hostile}}
        job = Job(
            id="1",
            owner_service="x",
            owner_ref=hostile,
            task_type=hostile,
            model_profile=hostile,
            status="failed",
            error_code=hostile,
            raw=raw,
        )
        console = Console(width=200, record=True, force_terminal=True)
        with console.capture() as capture:
            console.print(jobs_table([job]))
            console.print(job_sheet(job))
        for line in re.sub(COLOURS, "", capture.get()).split("\n"):
            assert line.isprintable(), repr(line)
