"""Logging as another process sees it: the set-up is for a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import logging, sys
import structlog
from app.logs import set_up
from app.secret import Secret
from app.settings import from_env

set_up(from_env({{"LOG_FORMAT": {form!r}, "LOG_LEVEL": {level!r}}}).logs)
log = structlog.get_logger()

def run(prompt: str) -> None:
    key = "hunter2"
    raise RuntimeError("It did not work.")

{body}
"""

EVERYTHING = """
log.info("job ended", job_id="4711", text="two\\nlines", token=Secret("hunter2"))
logging.getLogger("library").warning("%s of %s", 1, 2)
try:
    run("my prompt")
except RuntimeError:
    log.exception("tick failed", queue="gpu.llm")
    logging.getLogger("library").exception("callback failed")
"""


def logged(body: str, *, form: str = "json", level: str = "info") -> str:
    program = PROGRAM.format(form=form, level=level, body=body)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_for_a_machine_every_event_is_one_line_of_json():
    ours, theirs, failed, theirs_failed = events(logged(EVERYTHING))
    assert (ours["event"], ours["level"], ours["job_id"], ours["text"]) == ("job ended", "info", "4711", "two\nlines")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"]) == ("1 of 2", "warning")
    assert (failed["event"], failed["level"], failed["queue"]) == ("tick failed", "error", "gpu.llm")
    for failure in (failed, theirs_failed):
        [exception] = failure["exception"]
        assert (exception["exc_type"], exception["exc_value"]) == ("RuntimeError", "It did not work.")
        assert exception["frames"][-1]["name"] == "run"


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_a_traceback_shows_no_local_variable(form: str):
    text = logged(EVERYTHING, form=form)
    assert "It did not work." in text
    assert "hunter2" not in text
    assert "my prompt" not in text.replace('run("my prompt")', "")  # the source's own line


def test_a_secret_is_not_logged():
    [event] = events(logged('log.info("x", token=Secret("hunter2"))'))
    assert event["token"] == "***"


def test_below_its_level_nothing_is_logged():
    body = 'log.info("a"); log.warning("b"); logging.getLogger("x").info("c"); logging.getLogger("x").warning("d")'
    assert [event["event"] for event in events(logged(body, level="warning"))] == ["b", "d"]


def test_chatter_of_libraries_is_not_logged():
    body = "\n".join(
        f'logging.getLogger("{name}").info("chatter")' for name in ("dramatiq", "pika", "uvicorn.access", "alembic.x")
    )
    assert logged(body, level="debug") == ""


def test_where_nobody_sits_before_it_auto_is_json():
    assert len(events(logged('log.info("x")', form="auto"))) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_written_is_lost_and_harms_nobody():
    body = 'log.info("x"); log.error("x"); logging.getLogger("x").warning("x"); print("went on")'
    program = PROGRAM.format(form="json", level="info", body=body)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60
        )
    assert done.stdout == "went on\n"
