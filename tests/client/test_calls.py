"""The client against a service that misbehaves: real sockets, cut, silent, refusing and lying answers."""

from __future__ import annotations

import ast
import inspect
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import cast

import pytest

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
from tests.client.conftest import JOB, NOTHING, answers, impatient, job, problem
from tests.servers.model_server import Behaviour, ModelServer, refuses, sends

NEW: NewJob = {
    "owner_service": "beeline",
    "task_type": "llm_chat",
    "model_profile": "practice",
    "input": {"user": "Hi"},
}


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
    assert server.calls == 2


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


def test_a_queue_is_held_once_however_often_that_must_be_said(server: ModelServer, client: Client):
    held = {"name": "gpu.llm", "stopped": True}
    status = {"running": False, "paused": False, "queues": [held]}
    server.script(NOTHING, answers(502), answers(200, held), NOTHING, answers(200, status))

    assert client.pause_queue("gpu.llm").stopped
    assert client.stop_queue("gpu.llm").stopped
    assert [request.path for request in server.requests] == [
        *["/api/v1/queues/gpu.llm/pause"] * 3,
        *["/queue/stop?queue=gpu.llm"] * 2,
    ]


def test_what_is_at_the_root_lies_below_the_path_of_the_service(server: ModelServer):
    server.script(answers(200, {"running": True, "paused": False}))

    with Client(f"{server.origin}/ai/", retry_for=0, trust_env=False) as client:
        assert client.queue_status().running
    assert server.requests[-1].path == "/ai/queue/status"


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
