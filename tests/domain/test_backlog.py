"""How long the work of a queue will take: what its workers are scaled by."""

from __future__ import annotations

import pytest

from domain.backlog import USUAL_RUN, backlog_seconds
from domain.ports import Pace

CHAT, CALL, SPEECH = ("llm_chat", "qwen"), ("call_analysis", "qwen"), ("transcribe", "whisper")


def pace(kind: tuple[str, str], seconds: float, runs: int = 1) -> Pace:
    return Pace("gpu.llm", *kind, runs=runs, run_seconds=seconds)


def test_an_empty_queue_has_none():
    assert backlog_seconds({}, [pace(CHAT, 3.0)]) == 0


def test_it_is_how_long_one_slot_would_take():
    assert backlog_seconds({CHAT: 40}, [pace(CHAT, 3.0)]) == 120


def test_each_kind_of_job_takes_its_own_time():
    assert backlog_seconds({CHAT: 10, CALL: 2}, [pace(CHAT, 3.0), pace(CALL, 60.0)]) == 150


def test_a_kind_that_was_not_seen_takes_as_long_as_the_runs_that_were():
    assert backlog_seconds({SPEECH: 1}, [pace(CHAT, 1.0, runs=3), pace(CALL, 9.0)]) == 3


def test_where_no_run_was_seen_one_takes_the_usual_time():
    assert backlog_seconds({CHAT: 3}, []) == 3 * USUAL_RUN == 30


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_jobs_that_take_no_time_still_are_some_backlog(seconds: float):
    assert backlog_seconds({CHAT: 1}, [pace(CHAT, seconds)]) > 0
