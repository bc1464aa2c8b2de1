"""Following a job's events over connections that break."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import client as module
from app.client import AsyncClient, BadRequest, Client, NotFound, ServiceError, Unauthorized, Unavailable
from tests.client.conftest import JOB, NOTHING, answers, event, impatient, problem
from tests.servers.model_server import ModelServer, cuts, sends, stalls, streams

DONE = event("done", "3.done", **JOB | {"status": "completed"})
PROGRESS = event("progress", "2.1", progress={"done": 1})
STATUS = event("status", "2", status="running")


def test_a_stream_that_breaks_goes_on_where_it_broke(server: ModelServer, client: Client):
    half = PROGRESS[: len(PROGRESS) // 2]
    server.script(
        cuts(b"retry: 1\n\n", STATUS, half),
        NOTHING,
        answers(503, **{"retry-after": "0"}),
        streams(b": keep-alive\n\n"),
        streams(PROGRESS, DONE),
    )

    seen = list(client.events(JOB["id"]))
    assert [(event.id, event.kind) for event in seen] == [("2", "status"), ("2.1", "progress"), ("3.done", "done")]
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "2", "2", "2", "2"]
    assert seen[1].data["progress"] == {"done": 1}
    assert seen[2].job is not None
    assert seen[2].job.status == "completed"


async def test_the_async_client_follows_a_broken_stream_too(server: ModelServer, async_client: AsyncClient):
    server.script(cuts(b"retry: 1\n\n", STATUS, b"data: "), streams(PROGRESS, DONE))

    assert [event.id async for event in async_client.events(JOB["id"], "1")] == ["2", "2.1", "3.done"]
    assert [request.headers.get("last-event-id") for request in server.requests] == ["1", "2"]


def test_a_stream_ends_with_the_job_whatever_comes_after(server: ModelServer, client: Client):
    for last in (cuts(DONE), stalls(DONE), streams(DONE, PROGRESS)):
        server.script(last)
        assert [event.kind for event in client.events(JOB["id"])] == ["done"]

    server.script(sends(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert not list(client.events(JOB["id"], "3.done"))
    assert server.calls == 4


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (401, Unauthorized), (422, BadRequest)])
def test_a_stream_that_is_refused_is_an_error(
    status: int, error: type[ServiceError], server: ModelServer, client: Client
):
    server.script(problem(status))
    with pytest.raises(error):
        next(client.events(JOB["id"]))


def test_a_service_that_stays_away_ends_the_stream(server: ModelServer):
    with impatient(server) as client:
        server.script(cuts(STATUS))
        events = client.events(JOB["id"])
        assert next(events).data["status"] == "running"
        with pytest.raises(Unavailable):
            next(events)


def test_a_stream_of_something_else_is_noticed(server: ModelServer, client: Client):
    server.script(streams(b"<html>", content_type="text/html"))
    with pytest.raises(ServiceError, match="not as AI Service does"):
        next(client.events(JOB["id"]))


TEXT = '\ufeff: hello\r\nevent: status\rid: 1\ndata: {\ndata: "a": "\u2028é"}\r\n\r\nid: 2\ndata:{}\n\ndata: {"cut":'


@given(cut=st.lists(st.integers(0, len(TEXT.encode()))))
def test_events_do_not_depend_on_how_the_bytes_arrive(cut: list[int]):
    sent, reader = TEXT.encode(), module._EventReader()
    places = [0, *sorted(cut), len(sent)]
    pieces = [sent[start:end] for start, end in itertools.pairwise(places)]

    seen = [(event.id, event.kind, event.data) for piece in pieces for event in reader.feed(piece)]
    assert seen == [("1", "status", {"a": "\u2028é"}), ("2", "message", {})]
