"""The client against a service that misbehaves: real sockets, cut, silent, refusing and lying answers."""

from __future__ import annotations

import ast
import asyncio
import inspect
import itertools
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import client as module
from app.client import (
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    Forbidden,
    JobFailed,
    LeaseLost,
    NewJob,
    NotFinished,
    NotFound,
    RateLimited,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
    chunks,
)
from tests.servers.model_server import Behaviour, ModelServer, Reply, Request, cuts, refuses, sends, streams

JOB: dict[str, Any] = {
    "id": "01981a52-1c00-7c4e-9d2f-3b1a5e6f7081",
    "owner_service": "beeline",
    "task_type": "llm_chat",
    "model_profile": "practice",
    "status": "pending",
    "created_at": "2026-03-01T12:00:00.5Z",
}
NEW: NewJob = {
    "owner_service": "beeline",
    "task_type": "llm_chat",
    "model_profile": "practice",
    "input": {"user": "Hi"},
}
NOTHING = cuts(headers_first=False)
"""The call arrives, and its answer is lost."""


def answers(status: int = 200, document: object = JOB, **headers: str) -> Behaviour:
    return refuses(status, document, headers=headers)


def job(**changes: Any) -> Behaviour:
    return answers(200, JOB | changes)


def problem(status: int, kind: str = "x", **members: Any) -> Behaviour:
    return answers(status, {"type": f"urn:problem:ai-service:{kind}", "status": status, "detail": "No.", **members})


def event(kind: str, number: str, **data: Any) -> bytes:
    return f"event: {kind}\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()


DONE = event("done", "3.done", **JOB | {"status": "completed"})


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(default=job(), scripts_get=True) as server:
        yield server


@pytest.fixture
def client(server: ModelServer) -> Iterator[Client]:
    with Client(server.origin, retry_for=20, trust_env=False) as client:
        yield client


@pytest.fixture
async def async_client(server: ModelServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.origin, retry_for=20, trust_env=False) as client:
        yield client


def impatient(server: ModelServer) -> Client:
    return Client(server.origin, retry_for=0, trust_env=False)


def test_the_file_can_be_copied_it_imports_the_standard_library_and_httpx_only():
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "httpx"}


def public(of: type) -> dict[str, inspect.Signature]:
    """Its methods but for the context managers; a handler and a stop event are each their own."""
    return {name: inspect.signature(method) for name, method in vars(of).items() if callable(method) and name[0] != "_"}


def test_both_clients_have_the_same_methods():
    blocking, waiting = public(Client), public(AsyncClient)
    assert blocking.keys() == waiting.keys()
    for name in blocking.keys() - {"work"}:
        assert blocking[name].parameters == waiting[name].parameters, name
    assert list(blocking["work"].parameters) == list(waiting["work"].parameters)
    assert all(getattr(AsyncClient, name).__doc__ for name in waiting)


def test_a_submission_whose_answer_is_lost_is_sent_again_under_the_same_key(server: ModelServer, client: Client):
    server.script(NOTHING, sends(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{"), answers(201))

    assert client.submit(**NEW).id == JOB["id"]
    assert len({body["idempotency_key"] for body in server.bodies}) == 1
    assert server.calls == 3


def test_two_submissions_have_two_keys_and_a_given_one_is_kept(server: ModelServer, client: Client):
    client.submit(**NEW)
    client.submit(**NEW)
    client.submit(**NEW | {"idempotency_key": "mine"})

    first, second, third = (body["idempotency_key"] for body in server.bodies)
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_refusal_that_passes_is_sat_out(status: int, server: ModelServer, client: Client):
    server.script(problem(status), answers(status, **{"retry-after": "0"}), job())

    assert client.submit(**NEW).status == "pending"
    assert server.calls == 3


async def test_the_async_client_sits_it_out_too(server: ModelServer, async_client: AsyncClient):
    server.script(NOTHING, answers(503, **{"retry-after": "0"}), job())

    assert (await async_client.submit(**NEW)).status == "pending"
    assert server.calls == 3


def test_a_wait_that_is_longer_than_patience_is_not_begun(server: ModelServer, client: Client):
    server.script(problem(429, "rate-limited"))
    server.default = answers(429, {}, **{"retry-after": "3600"})

    with pytest.raises(RateLimited) as refused:
        client.submit(**NEW)
    assert refused.value.retry_after == 3600


@pytest.mark.parametrize(
    "call",
    [lambda client: client.claim("w"), lambda client: client.retry("1"), lambda client: client.retry_all(ids=[])],
)
def test_what_must_not_happen_twice_is_not_repeated_when_the_connection_broke(
    call: Callable[[Client], object], server: ModelServer, client: Client
):
    server.script(NOTHING)
    with pytest.raises(Unavailable):
        call(client)
    server.script(answers(502))
    with pytest.raises(Unavailable):
        call(client)
    assert server.calls == 2


def test_what_the_service_says_it_did_not_do_is_repeated_always(server: ModelServer, client: Client):
    server.script(answers(503, **{"retry-after": "0"}), answers(200, {"jobs": []}))

    assert client.claim("w") == ()


def test_an_erasure_whose_answer_was_lost_has_happened(server: ModelServer, client: Client):
    server.script(NOTHING, problem(404))

    client.erase(JOB["id"])


def test_an_erasure_of_nothing_is_an_error(server: ModelServer, client: Client):
    server.script(problem(404))

    with pytest.raises(NotFound):
        client.erase(JOB["id"])


def test_a_call_survives_a_service_that_is_away_for_a_while(server: ModelServer, client: Client):
    server.go_down()
    calling = threading.Thread(target=client.claim, args=("w",))
    server.default = answers(200, {"jobs": []})
    calling.start()
    server.come_up()
    calling.join(10)

    assert server.calls == 1


def test_an_unreachable_service_is_told_with_its_address_and_without_its_password(unused_tcp_port: int):
    with (
        Client(f"http://ai:hunter2@127.0.0.1:{unused_tcp_port}", retry_for=0, trust_env=False) as client,
        pytest.raises(Unavailable, match=rf"at http://127\.0\.0\.1:{unused_tcp_port} cannot be reached") as failure,
    ):
        client.stats()
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "unreadable-body", BadRequest),
        (401, "unauthorized", Unauthorized),
        (403, "forbidden", Forbidden),
        (404, "job-not-found", NotFound),
        (409, "invalid-transition", Conflict),
        (409, "lease-lost", LeaseLost),
        (413, "too-large", TooLarge),
        (422, "bad-input", BadRequest),
        (429, "rate-limited", RateLimited),
        (500, "x", ServiceError),
        (503, "storage-unavailable", Unavailable),
    ],
)
def test_each_problem_is_an_error_of_its_own(status: int, kind: str, error: type[ServiceError], server: ModelServer):
    server.script(problem(status, kind))

    with impatient(server) as client, pytest.raises(ServiceError, match=r"No\.") as raised:
        client.get("1")
    assert type(raised.value) is error
    assert raised.value.status == status
    assert raised.value.problem["type"].endswith(kind)


def test_what_is_wrong_with_a_request_is_told_place_by_place(server: ModelServer, client: Client):
    wrong = [{"pointer": f"/jobs/{index}/input", "detail": "Missing"} for index in range(5)]
    server.script(problem(422, "bad-input", errors=wrong))

    with pytest.raises(BadRequest, match=r"/jobs/0/input: Missing; .*; and 2 more$") as refused:
        client.submit_many([NEW])
    assert refused.value.errors == wrong


@pytest.mark.parametrize(
    "behaviour", [refuses(200, "<html>Welcome</html>"), answers(200, {}), answers(200, [1]), answers(200, {"id": 1})]
)
def test_something_else_than_the_service_is_noticed(behaviour: Behaviour, server: ModelServer, client: Client):
    server.script(behaviour)

    with pytest.raises(ServiceError, match="not as AI Service does"):
        client.get("1")


def test_a_newer_service_may_say_more(server: ModelServer, client: Client):
    server.script(job(colour="red", status="pondering"))

    found = client.get("1")
    assert found.raw["colour"] == "red"
    assert not found.final
    assert found.created_at == datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)


def test_no_secret_and_no_payload_is_in_a_repr(server: ModelServer):
    server.script(answers(200, {"jobs": [JOB | {"lease_token": "hunter2", "input": {"user": "hunter2"}}]}))
    with Client(server.origin, token="hunter2", trust_env=False) as client:
        [claimed] = client.claim("w")

        assert "hunter2" not in repr((client, claimed, client._connection))
        assert (claimed.lease_token, claimed.input) == ("hunter2", {"user": "hunter2"})
        assert server.requests[0].headers["authorization"] == "Bearer hunter2"


@pytest.mark.parametrize("address", ["", "127.0.0.1:8080", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused_at_once(address: str):
    with pytest.raises(ValueError, match="expected one like"):
        Client(address)


@pytest.mark.parametrize("moment", ["run_at", "deadline_at"])
def test_a_time_without_a_zone_is_refused(moment: str, client: Client):
    with pytest.raises(ValueError, match="no time zone"):
        client.submit(**cast("NewJob", NEW | {moment: datetime(2026, 3, 1)}))  # noqa: DTZ001


def test_filters_are_sent_as_the_service_reads_them(server: ModelServer, client: Client):
    server.script(answers(200, {"jobs": [], "next_cursor": None}))
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    assert not list(
        client.list(
            status=["failed", "cancelled"], owner_service="a&b", labels={"shop": "7"}, created_after=moment, page_size=5
        )
    )
    assert server.requests[0].path == (
        "/api/v1/jobs?status=failed&status=cancelled&owner_service=a%26b&label.shop=7"
        "&created_after=2026-03-01T00%3A00%3A00%2B00%3A00&limit=5"
    )


def test_a_list_follows_its_pages(server: ModelServer, client: Client):
    server.script(
        answers(200, {"jobs": [JOB, JOB], "next_cursor": "next"}), answers(200, {"jobs": [JOB], "next_cursor": None})
    )

    assert len(list(client.list(include=["result"]))) == 3
    assert server.requests[1].path == "/api/v1/jobs?include=result&limit=100&cursor=next"


def test_text_is_sent_as_it_is(server: ModelServer, client: Client):
    client.submit(**NEW | {"input": {"user": "Привет"}})

    assert "Привет".encode() in server.requests[0].body


def test_many_jobs_are_split_by_number_and_by_size():
    small: list[NewJob] = [NEW] * 5
    assert [len(some) for some in chunks(small, jobs_per_call=2)] == [2, 2, 1]
    assert [len(some) for some in chunks(small, bytes_per_call=1)] == [1] * 5
    assert not list(chunks([]))


def test_a_batch_has_a_key_per_job(server: ModelServer, client: Client):
    server.script(answers(201, {"batch_id": "b", "created": 2, "existing": 0, "jobs": []}))
    client.submit_many([{"input": {}}, {"input": {}, "idempotency_key": "k"}], defaults={"task_type": "llm_chat"})

    [sent] = server.bodies
    assert sent["defaults"] == {"task_type": "llm_chat"}
    assert sent["jobs"][1]["idempotency_key"] == "k"
    assert len({each["idempotency_key"] for each in sent["jobs"]}) == 2


def test_a_batch_of_none_or_of_too_many_is_refused_at_once(client: Client):
    for jobs in ([], [NEW] * 10_001):
        with pytest.raises(ValueError, match="A batch has 1 to 10000 jobs"):
            client.submit_many(jobs)


def test_waiting_looks_again_until_the_job_is_final(server: ModelServer, client: Client):
    server.script(job(status="running"), NOTHING, job(status="completed", result={"content": "Hi"}))

    assert client.result(JOB["id"]) == {"content": "Hi"}
    assert all(request.path.endswith("?wait=60.000") for request in server.requests)


def test_waiting_ends_when_the_time_is_up(client: Client):
    with pytest.raises(NotFinished) as unfinished:
        client.wait(JOB["id"], timeout=0)
    assert isinstance(unfinished.value, TimeoutError)
    assert unfinished.value.job.status == "pending"


def test_a_result_that_there_will_never_be_is_an_error(server: ModelServer, client: Client):
    server.script(job(status="failed", error_code="context_length", error_message="Too long."))

    with pytest.raises(JobFailed, match=r"failed \(context_length\): Too long\.") as failed:
        client.result(JOB["id"])
    assert failed.value.error_code == "context_length"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 7 ", 7), ("-1", None), ("soon", None), ("9" * 40, None), ("Fri, 01 Mar 2019 12:00:00 GMT", 0)],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None):
    assert module._seconds(header) == seconds


def test_a_date_to_come_back_at_is_counted_from_now():
    seconds = module._seconds(format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True))
    assert seconds is not None
    assert 57 < seconds <= 60


# Event streams

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
    server.script(cuts(DONE))
    assert [event.kind for event in client.events(JOB["id"])] == ["done"]

    server.script(sends(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert not list(client.events(JOB["id"], "3.done"))
    assert server.calls == 2


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


# Workers


class Lender:
    """What the service does for workers, told by a test: which jobs it lends, and what it says of their leases."""

    def __init__(self, *jobs: Mapping[str, Any]) -> None:
        self.jobs = [{**JOB, "lease_token": f"lease-{number}", "input": {}, **job} for number, job in enumerate(jobs)]
        self.told: list[tuple[str, Any]] = []
        """What was said about runs, and in which words."""
        self.heartbeat: Behaviour = answers(200, {"job_id": JOB["id"], "lease_expires_at": JOB["created_at"]})
        self.outcome: Behaviour = job()
        self.heard = threading.Condition()

    async def __call__(self, request: Request, reply: Reply) -> None:
        verb = request.path.rpartition("/")[2]
        if verb == "claim":
            await self._lend(request.json, reply)
            return
        with self.heard:
            self.told.append((verb, request.json))
            self.heard.notify_all()
        await (self.heartbeat if verb == "heartbeat" else self.outcome)(request, reply)

    async def _lend(self, claim: Any, reply: Reply) -> None:
        lent, self.jobs = self.jobs[: claim["limit"]], self.jobs[claim["limit"] :]
        if not lent:
            await asyncio.sleep(min(claim["wait"], 0.02))
        await answers(200, {"jobs": lent})(Request("", "", {}), reply)

    def said(self, *verbs: str) -> list[Any]:
        """What was said with these verbs, without the tokens."""
        return [
            {name: value for name, value in words.items() if name != "lease_token"}
            for verb, words in self.told
            if verb in verbs
        ]

    def hear(self, verb: str) -> None:
        """Block until this was said."""
        with self.heard:
            assert self.heard.wait_for(lambda: verb in dict(self.told), 10), self.told


ENDS = ("complete", "fail", "release")


class Rig:
    """A worker, sync or async, that works until a test stops it."""

    def __init__(self, server: ModelServer, lender: Lender) -> None:
        self.server, self.lender = server, lender
        self.stop = threading.Event()
        self.terms: dict[str, Any] = {"worker_id": "w-1", "poll": 0.1, "lease_timeout": 0.3, "grace": 10.0}
        server.default = lender

    def start(self, handler: Callable[[Any], Any], **terms: Any) -> threading.Thread:
        working = threading.Thread(target=self._work, args=(handler, self.terms | terms), daemon=True)
        working.start()
        return working

    def run(self, handler: Callable[[Any], Any], until: str, **terms: Any) -> None:
        """Work until this has been said, then stop."""
        working = self.start(handler, **terms)
        self.lender.hear(until)
        self.end(working)

    def end(self, working: threading.Thread) -> None:
        self.stop.set()
        working.join(15)
        assert not working.is_alive()

    def _work(self, handler: Callable[[Any], Any], terms: Any) -> None:
        if not inspect.iscoroutinefunction(handler):
            Client(self.server.origin, trust_env=False).work(handler, stop=self.stop, **terms)
            return

        async def work() -> None:
            stop = asyncio.Event()
            relay = asyncio.create_task(module._relay(self.stop, stop))
            async with AsyncClient(self.server.origin, trust_env=False) as client:
                await client.work(handler, stop=stop, **terms)
            await relay

        asyncio.run(work())


def rig(server: ModelServer, *jobs: Mapping[str, Any]) -> Rig:
    return Rig(server, Lender(*jobs))


def in_thread(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return handle


def in_task(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def handler(job: Any) -> Any:
        return handle(job)

    return handler


either = pytest.mark.parametrize("kind", [in_thread, in_task])


@either
def test_a_worker_completes_what_it_claims(kind: Callable[[Any], Any], server: ModelServer):
    worker = rig(server, {"input": {"n": 3}})
    worker.run(kind(lambda job: {"twice": job.input["n"] * 2}), "complete", task_types=["double"])

    assert worker.lender.told[-1] == ("complete", {"lease_token": "lease-0", "result": {"twice": 6}})
    assert server.bodies[0] == {
        "worker_id": "w-1",
        "limit": 1,
        "wait": 0.1,
        "task_types": ["double"],
        "lease_timeout": 0.3,
    }


def raises(error: Exception) -> Callable[[Any], Any]:
    def handle(_job: Any) -> Any:
        raise error

    return handle


@either
def test_a_handler_fails_its_run_with_a_code_of_its_own(kind: Callable[[Any], Any], server: ModelServer):
    worker = rig(server, {})
    worker.run(kind(raises(module.Failed("bad_audio", "No stream.", retry_after=7))), "fail")

    assert worker.lender.said("fail") == [
        {"error_code": "bad_audio", "error_message": "No stream.", "retry_after": 7},
    ]


@either
def test_any_other_exception_tells_its_type_only(kind: Callable[[Any], Any], server: ModelServer):
    worker = rig(server, {})
    worker.run(kind(raises(ValueError("the customer's words"))), "fail")

    assert worker.lender.said("fail") == [
        {"error_code": "internal_error", "error_message": "The worker's handler raised ValueError."}
    ]


@pytest.mark.parametrize("result", [None, "text", {"set": {1}}, {"nan": float("nan")}])
def test_a_result_that_is_none_fails_the_run(result: Any, server: ModelServer):
    worker = rig(server, {})
    worker.run(lambda _job: result, "fail")

    assert [said["error_code"] for said in worker.lender.said(*ENDS)] == ["internal_error"]


def test_a_result_that_the_service_refuses_fails_the_run(server: ModelServer):
    worker = rig(server, {})
    worker.lender.outcome = refuses(422, {"detail": "No."})
    server.script(worker.lender, worker.lender, job())
    working = worker.start(lambda _job: {})
    worker.lender.hear("complete")
    server.wait_until(lambda server: any("/fail" in request.path for request in server.requests))
    worker.end(working)

    [failing] = [request.json for request in server.requests if request.path.endswith("/fail")]
    assert failing["error_code"] == "bad_response"


def test_the_lease_is_kept_while_the_handler_runs(server: ModelServer):
    worker = rig(server, {})
    beaten = threading.Event()

    def handle(held: Any) -> dict[str, Any]:
        held.report({"done": 1})
        for _ in range(3):
            worker.lender.told.clear()
            worker.lender.hear("heartbeat")
        beaten.set()
        return {}

    worker.run(handle, "complete")
    assert beaten.is_set()


def test_progress_is_told(server: ModelServer):
    worker = rig(server, {})

    def handle(held: Any) -> dict[str, Any]:
        held.report({"done": 1})
        return {}

    worker.run(handle, "complete", lease_timeout=60)
    assert worker.lender.said("heartbeat") == [{"progress": {"done": 1}}]


def test_a_task_whose_lease_is_lost_is_cancelled(server: ModelServer):
    worker = rig(server, {})
    worker.lender.heartbeat = problem(409, "lease-lost")
    cancelled = threading.Event()

    async def handle(held: Any) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert held.lost.is_set()
            cancelled.set()
            raise
        return {}

    working = worker.start(handle)
    assert cancelled.wait(10)
    worker.end(working)
    assert not worker.lender.said(*ENDS)


def test_a_thread_whose_lease_is_lost_learns_it(server: ModelServer):
    worker = rig(server, {})
    worker.lender.heartbeat = problem(409, "lease-lost")
    learnt = threading.Event()

    def handle(held: Any) -> dict[str, Any]:
        assert held.lost.wait(10)
        with pytest.raises(LeaseLost):
            held.report({})
        learnt.set()
        return {"of": "no use"}

    working = worker.start(handle)
    assert learnt.wait(10)
    worker.end(working)
    assert not worker.lender.said(*ENDS)


def test_a_report_under_a_lost_lease_ends_the_run(server: ModelServer):
    worker = rig(server, {})
    worker.lender.heartbeat = problem(404)
    learnt = threading.Event()

    def handle(held: Any) -> dict[str, Any]:
        try:
            held.report({})
        except LeaseLost:
            learnt.set()
            raise
        return {}

    working = worker.start(handle, lease_timeout=60)
    assert learnt.wait(10)
    worker.end(working)
    assert not worker.lender.said(*ENDS)


def test_a_result_waits_for_a_service_that_is_away(server: ModelServer):
    worker = rig(server, {})

    def handle(_held: Any) -> dict[str, Any]:
        server.go_down()
        threading.Timer(0.3, server.come_up).start()
        return {"kept": True}

    worker.run(handle, "complete")
    assert worker.lender.said("complete") == [{"result": {"kept": True}}]


def test_a_worker_outlives_a_service_that_is_away(server: ModelServer):
    worker = rig(server)
    server.go_down()
    working = worker.start(lambda _job: {})
    worker.lender.jobs = Lender({}).jobs
    server.come_up()
    worker.lender.hear("complete")
    worker.end(working)


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Forbidden), (422, BadRequest)])
def test_a_worker_that_the_service_does_not_want_ends(status: int, error: type[ServiceError], server: ModelServer):
    server.default = problem(status)
    with pytest.raises(error):
        Client(server.origin, trust_env=False).work(lambda _job: {}, worker_id="w")


def test_no_more_run_at_once_than_were_allowed(server: ModelServer):
    worker = rig(server, *({"id": str(number)} for number in range(9)))
    now, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(3)

    def handle(_held: Any) -> dict[str, Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(10)
        with lock:
            now -= 1
        return {}

    working = worker.start(handle, concurrency=3, lease_timeout=60)
    with worker.lender.heard:
        assert worker.lender.heard.wait_for(lambda: len(worker.lender.said("complete")) == 9, 20)
    worker.end(working)
    assert most == 3
    assert max(body["limit"] for body in server.bodies if "limit" in body) == 3


def test_a_worker_that_stops_lets_its_jobs_finish(server: ModelServer):
    worker = rig(server, {})
    started = threading.Event()

    def handle(_held: Any) -> dict[str, Any]:
        started.set()
        assert worker.stop.wait(10)
        return {}

    working = worker.start(handle)
    assert started.wait(10)
    worker.end(working)
    assert worker.lender.said(*ENDS) == [{"result": {}}]


@pytest.mark.parametrize("grace", [0.0, 0.05])
def test_a_worker_that_stops_gives_back_what_does_not_finish(grace: float, server: ModelServer):
    worker = rig(server, {})
    started = threading.Event()

    async def handle(_held: Any) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    working = worker.start(handle, grace=grace)
    assert started.wait(10)
    worker.end(working)
    assert [verb for verb, _ in worker.lender.told if verb in ENDS] == ["release"]


def test_a_thread_that_does_not_finish_is_told_to_and_its_job_given_back(server: ModelServer):
    worker = rig(server, {})
    started = threading.Event()

    def handle(held: Any) -> dict[str, Any]:
        started.set()
        held.lost.wait(10)
        held.report({})
        return {}

    working = worker.start(handle, grace=0.0)
    assert started.wait(10)
    worker.end(working)
    assert [verb for verb, _ in worker.lender.told if verb in ENDS] == ["release"]


async def test_a_cancelled_worker_gives_its_jobs_back(server: ModelServer, async_client: AsyncClient):
    lender = Lender({})
    server.default = lender
    started = asyncio.Event()

    async def handle(_held: Any) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    working = asyncio.create_task(async_client.work(handle, worker_id="w", poll=0.1))
    await started.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert [verb for verb, _ in lender.told] == ["release"]


async def test_what_a_cancelled_worker_was_about_to_get_goes_back_too(server: ModelServer, async_client: AsyncClient):
    lender = Lender({})
    server.default = lender
    server.hold()

    async def handle(_held: Any) -> dict[str, Any]:
        raise AssertionError

    working = asyncio.create_task(async_client.work(handle, worker_id="w"))
    await server.until(lambda server: server.calls == 1)
    working.cancel()
    server.let_go()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert [verb for verb, _ in lender.told] == ["release"]
