"""What becomes of jobs while their model server is sick: away, hanging, or taking nothing from us."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Installation, eventually
from tests.servers.model_process import ModelProcess
from tests.servers.model_server import Behaviour, ModelServer, Reply, Request, after, cuts, refuses, says, stalls
from tests.servers.tcp_proxy import TcpProxy

SLOTS = 4
JOBS = 500
OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "6"))
"""How long the model server is away; a minute of it was tried as well."""

PROBED_WITHIN = 5.0
"""Seconds: a server that has come back is found out by then."""

LOADED = 5.0
"""Seconds that a busy machine may add to that."""


def ends(installation: Installation) -> dict[str, int]:
    """How often runs ended how."""
    return dict(installation.rows("SELECT outcome, count(*) FROM runs GROUP BY 1"))


def counted(installation: Installation) -> list[tuple[Any, ...]]:
    """How often jobs have which status and so many attempts."""
    rows = installation.rows("SELECT status, attempts, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2")
    return [tuple(row) for row in rows]


def is_over(circuit: dict[str, Any]) -> bool:
    return bool(circuit["state"] == "closed")


@pytest.mark.timeout(120 + 2 * OUTAGE)
def test_five_hundred_jobs_complete_uncounted_and_in_order_although_their_server_is_away_in_the_middle(
    install: Install, database: str, vhost: str, model: ModelServer, record_property: Callable[[str, object], None]
) -> None:
    model.default = after(0.05, says("The answer."))
    with TcpProxy("127.0.0.1", httpx.URL(model.base_url).port or 0) as door:
        installation = install(
            DATABASE_URL=database,
            AMQP_URL=vhost,
            LLM_BASE_URL=f"http://127.0.0.1:{door.port}/v1",
            WORKER_CLAIM_LIMIT=str(SLOTS),
        )
        api, _ = installation.serve_and_work()
        installation.worker()
        jobs = api.submit_batch(JOBS)
        model.wait_until(lambda server: server.calls >= JOBS // 5, timeout=30)

        door.turn_away()
        gone = time.monotonic()
        circuit = api.opened()
        assert circuit["reason"] == "provider_unavailable"
        assert api.get(jobs[-1])["waiting_for"] == "circuit"
        eventually(lambda: time.monotonic() - gone >= OUTAGE, within=OUTAGE + 1, what="the outage is over")
        assert api.circuit()["state"] == "open"
        assert counted(installation)[-1][:2] == ("pending", 0)

        calls = model.calls
        door.open()
        back = time.monotonic()
        model.wait_until(lambda server: server.calls > calls, timeout=PROBED_WITHIN + LOADED)
        record_property("resumed_after", time.monotonic() - back)
        eventually(lambda: is_over(api.circuit()), within=LOADED, what="the circuit closes by itself")
        api.all_finished(jobs, within=60)

    dead = [request for request in door.turned_away if request.startswith(b"POST")]
    record_property("calls_to_the_dead", len(dead))
    assert len(dead) <= 2 * SLOTS + 2
    assert counted(installation) == [("completed", 1, JOBS)]
    assert set(ends(installation)) == {"completed", "given_back"}
    assert max(abs(places[0]) for places in installation.rows(MOVED)) <= 3 * SLOTS


MOVED = """
    SELECT row_number() OVER (ORDER BY j.started_at, j.seq) - row_number() OVER (ORDER BY j.seq) FROM jobs AS j
"""
"""How many places later or earlier than in the order of their coming jobs were run."""


def test_jobs_whose_model_server_is_down_go_back_uncounted_and_no_other_is_started(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS)
    )
    api, _ = installation.serve_and_work()
    model.go_down()
    api.submit_many(10)
    eventually(
        lambda: installation.rows("SELECT FROM jobs WHERE give_backs > 0"), within=10, what="one of them met the outage"
    )
    eventually(
        lambda: not installation.rows("SELECT FROM jobs WHERE status = 'running'"), within=10, what="nothing runs"
    )

    assert counted(installation) == [("pending", 0, 10)]
    runs = installation.rows("SELECT outcome, error_code FROM runs")
    assert {tuple(run) for run in runs} == {("given_back", "provider_unavailable")}
    assert len(runs) <= 2 * SLOTS
    assert installation.rows("SELECT name FROM queues WHERE circuit_state = 'open'") == [("gpu.llm",)]


def test_a_model_server_that_is_killed_and_started_again_costs_no_job_an_attempt(
    install: Install, database: str
) -> None:
    with ModelProcess() as server:
        installation = install(DATABASE_URL=database, LLM_BASE_URL=server.base_url, WORKER_CLAIM_LIMIT=str(SLOTS))
        api = installation.up()
        jobs = api.submit_batch(60)
        eventually(lambda: ends(installation).get("completed", 0) >= 5, within=20, what="some are completed")
        server.kill()
        assert api.opened()["reason"] == "provider_unavailable"
        server.start()
        api.all_finished(jobs, within=40)
    assert counted(installation) == [("completed", 1, 60)]
    assert is_over(api.circuit())


def test_a_server_that_breaks_one_call_off_and_then_dies_costs_the_other_jobs_nothing(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, RETRY_DELAY_FAST="1m")
    api = installation.up()
    model.script(*[after(60, says("Too late."))] * 3)
    others = api.submit_many(3)
    model.wait_until(lambda server: server.running == 3)
    model.script(cuts(headers_first=False))
    first = api.submit(max_attempts=1)
    assert api.finished(first)["error_code"] == "provider_unavailable"
    told = time.monotonic()
    eventually(lambda: time.monotonic() - told > 0.3, within=1, what="it is a little later")
    model.go_down()

    api.opened()
    assert counted(installation) == [("failed", 1, 1), ("pending", 0, 3)]
    model.come_up()
    assert {job["attempts"] for job in api.all_finished(others)} == {1}


REFUSALS = {
    "a wrong key": (401, {"error": {"message": "Incorrect API key provided."}}, "auth_error"),
    "an exhausted quota": (
        429,
        {"error": {"message": "You exceeded your quota.", "type": "insufficient_quota", "code": "insufficient_quota"}},
        "quota_exhausted",
    ),
}


def trials(installation: Installation) -> int:
    [(circuit,)] = installation.rows("SELECT (circuit::json ->> 'trials')::integer FROM queues WHERE name = 'gpu.llm'")
    return circuit or 0


@pytest.mark.parametrize(("status", "body", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_takes_nothing_from_us_is_tried_ever_less_often_with_another_job_each_time(
    install: Install, database: str, model: ModelServer, status: int, body: object, reason: str
) -> None:
    model.default = refuses(status, body)
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="2")
    api = installation.up()
    jobs = api.submit_batch(20)
    assert api.opened()["reason"] == reason
    eventually(lambda: trials(installation) >= 2, within=20, what="two jobs were tried")

    tried = installation.rows("SELECT job_id, started_at FROM runs ORDER BY started_at")
    assert len({row["job_id"] for row in tried}) == len(tried) == model.calls <= 4
    first, second = (row["started_at"] for row in tried[-2:])
    assert (second - first).total_seconds() >= 2

    model.default = says("The answer.")
    eventually(lambda: is_over(api.circuit()), within=15, what="the circuit closes by itself")
    api.all_finished(jobs, within=20)
    assert counted(installation) == [("completed", 1, 20)]


def test_an_operator_who_has_mended_the_key_need_not_wait_for_the_next_trial(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    model.default = refuses(401, {"error": {"message": "Incorrect API key provided."}})
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="1m"
    )
    api, _ = installation.serve_and_work()
    jobs = api.submit_batch(20)
    api.opened()
    eventually(lambda: trials(installation) >= 2, within=30, what="two jobs were tried")
    model.default = says("The answer.")

    began = time.monotonic()
    api.http.post("/api/v1/queues/gpu.llm/close-circuit").raise_for_status()
    eventually(lambda: ends(installation).get("completed"), within=2, what="jobs are run at once")
    assert time.monotonic() - began < 2
    api.all_finished(jobs, within=20)


def poisoned(poison: Behaviour) -> Behaviour:
    """Does this to jobs that say so, and its work for all others."""

    async def behave(request: Request, reply: Reply) -> None:
        harmless = after(0.05, says("The answer."))
        await (poison if "poison" in request.last_message else harmless)(request, reply)

    return behave


@pytest.mark.parametrize(
    ("poison", "code"),
    [
        (refuses(500, {"error": {"message": "list index out of range"}}), "provider_unavailable"),
        (cuts(headers_first=False), "provider_unavailable"),
        (refuses(503, {"error": {"message": "No."}}), "provider_unavailable"),
    ],
    ids=["it answers 500", "it hangs up", "it answers 503"],
)
def test_what_a_server_chokes_on_fails_by_itself_and_the_others_go_on(
    install: Install, database: str, model: ModelServer, poison: Behaviour, code: str
) -> None:
    model.default = poisoned(poison)
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS))
    api = installation.up()
    good = api.submit_batch(40)
    bad = api.submit_many(2, input={"user": "This is poison."})
    good += api.submit_batch(160)

    for job in api.all_finished(bad, within=40):
        assert (job["status"], job["error_code"], job["attempts"]) == ("failed", code, 3)
    assert {(job["status"], job["attempts"]) for job in api.all_finished(good, within=40)} == {("completed", 1)}
    assert ends(installation) == {"completed": 200, "failed": 6}, "nothing was given back: no circuit opened"
    assert is_over(api.circuit())


def test_a_server_that_hangs_under_load_opens_no_circuit(install: Install, database: str, model: ModelServer) -> None:
    model.pages = {"*": stalls(headers_first=False)}
    model.default = stalls(headers_first=False)
    model.script(cuts(headers_first=False))
    installation = install(
        DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS), LLM_TIMEOUT="1s"
    )
    api = installation.up()
    codes = [job["error_code"] for job in api.all_finished(api.submit_many(2 * SLOTS, max_attempts=1), within=30)]
    assert sorted(codes) == ["provider_unavailable", *["timeout"] * (2 * SLOTS - 1)]
    assert is_over(api.circuit())

    model.default = says("The answer.")
    assert api.finished(api.submit())["attempts"] == 1
    assert set(ends(installation)) == {"completed", "failed"}, "nothing was given back"


def test_a_server_that_has_stopped_in_its_tracks_opens_no_circuit(install: Install, database: str) -> None:
    with ModelProcess() as server:
        installation = install(
            DATABASE_URL=database, LLM_BASE_URL=server.base_url, WORKER_CLAIM_LIMIT=str(SLOTS), LLM_TIMEOUT="1s"
        )
        api = installation.up()
        assert api.finished(api.submit())["status"] == "completed"
        server.pause()
        for job in api.all_finished(api.submit_many(2 * SLOTS, max_attempts=1), within=30):
            assert (job["status"], job["error_code"]) == ("failed", "timeout")
        assert is_over(api.circuit())
        server.go_on()
        assert api.finished(api.submit())["status"] == "completed"
    assert set(ends(installation)) == {"completed", "failed"}
