from __future__ import annotations

import threading
from collections.abc import Sequence

from structlog.testing import capture_logs

from adapters.memory.events import InProcessEvents, NoEvents
from domain.events import JobEvent
from tests.factories import job_event


def test_listeners_hear_at_once_in_the_thread_of_the_publisher() -> None:
    events, told = InProcessEvents(), [job_event(), job_event()]
    heard: list[tuple[threading.Thread, list[JobEvent]]] = []
    for _ in range(2):
        events.listen(lambda events: heard.append((threading.current_thread(), list(events))))
    events.publish(told)
    assert heard == [(threading.current_thread(), told)] * 2


def test_who_asked_for_some_kinds_is_left_in_peace_by_all_others() -> None:
    events, cancelled = InProcessEvents(), job_event(kind="cancelled")
    heard: list[Sequence[JobEvent]] = []
    events.listen(heard.append, {"cancelled", "revoked"})
    events.publish([job_event(kind="completed"), cancelled])
    events.publish([job_event()])
    assert heard == [[cancelled]]


def test_a_listener_that_raises_is_logged_and_felt_by_nobody() -> None:
    def raises(events: Sequence[JobEvent]) -> None:
        raise RuntimeError("a fault of ours")

    events = InProcessEvents()
    heard: list[Sequence[JobEvent]] = []
    events.listen(raises)
    events.listen(heard.append)
    with capture_logs() as logs:
        events.publish([job_event()])
    assert len(heard) == 1
    assert [line["event"] for line in logs] == ["listener failed"]


def test_without_a_bus_nobody_hears_anything() -> None:
    events = NoEvents()
    heard: list[Sequence[JobEvent]] = []
    events.listen(heard.append)
    events.publish([job_event()])
    assert heard == []
