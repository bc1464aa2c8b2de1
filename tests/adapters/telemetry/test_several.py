"""Whatever goes wrong with a listener, those who tell of what happens hear nothing of it, and the others hear all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.telemetry.several import Several
from domain.telemetry import Answer, Change, Listener, Server, Telemetry
from tests.adapters.telemetry.reading import metrics, of, read
from tests.factories import PROFILE, QUEUE, job_event, leased_job, stored_job

SECRET = "the customer's card is 4111"
SERVER = Server(PROFILE, "vllm", "qwen2.5-14b", "chat")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Broken:
    """Fails over whatever it is told."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise ValueError(SECRET)

        return fail


class BrokenCalls(Listener):
    def calling(self, *_: object) -> Any:
        return Broken()


class Traced(Listener):
    def traceparent(self) -> str | None:
        return TRACEPARENT


HAPPENINGS: dict[str, Callable[[Telemetry], object]] = {
    "submitted": lambda told: told.submitted([stored_job()], 0.1),
    "exchanged": lambda told: told.exchanged([], [], [leased_job()], 0.1),
    "lent": lambda told: told.lent([stored_job()]),
    "changed": lambda told: told.changed(Change.CANCELLED, [job_event()]),
    "promoted": lambda told: told.promoted({QUEUE: 1}),
    "pruned": lambda told: told.pruned("jobs", "completed", 1),
    "renewed": lambda told: told.renewed(1, 0),
    "woken": lambda told: told.woken(QUEUE, 1),
    "woken_in_vain": lambda told: told.woken_in_vain(QUEUE),
    "calling": lambda told: told.calling(leased_job(), SERVER).answered(Answer()),
}


@pytest.mark.parametrize("happens", HAPPENINGS.values(), ids=HAPPENINGS)
def test_a_listener_that_fails_keeps_nothing_from_the_others(happens: Callable[[Telemetry], object]):
    alone, beside = metrics(), metrics()
    happens(alone)
    happens(Several(Broken(), beside))
    figures = [
        {name: value for name, value in read(each).items() if "second" not in name[0]} for each in (alone, beside)
    ]
    assert figures[0] == figures[1]


def test_a_trace_is_told_by_whoever_knows_it():
    assert Several(Broken(), Listener(), Traced()).traceparent() == TRACEPARENT


def test_a_call_is_an_answer_whatever_becomes_of_what_is_told_of_it():
    counted = metrics()
    call = Several(BrokenCalls(), counted).calling(leased_job(), SERVER)
    call.first_token()
    call.answered(Answer(input_tokens=10**400))  # more than a metric can count
    call.failed(ValueError())
    assert of(read(counted), "aijobs_provider_calls_total", profile=PROFILE, provider="vllm", error_code="") == 1


def test_what_failed_is_said_and_not_what_it_said():
    with capture_logs() as lines:
        Several(Broken()).renewed(1, 0)
    assert lines == [{"event": "telemetry failed", "log_level": "error", "listener": "Broken", "error": "ValueError"}]
