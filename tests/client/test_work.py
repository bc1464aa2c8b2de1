"""A worker outside, against a service that takes its leases away, goes away, and says no."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from app import client as module
from app.client import AsyncClient, BadRequest, Client, Forbidden, LeaseLost, ServiceError, Unauthorized
from tests.client.conftest import JOB, answers, job, problem
from tests.servers.model_server import Behaviour, ModelServer, Reply, Request, refuses


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


@pytest.mark.parametrize("away", [True, False])
def test_progress_is_no_reason_to_fail_unless_it_is_wrong(away: bool, server: ModelServer):
    worker = rig(server, {})
    worker.lender.heartbeat = problem(503 if away else 422)

    def handle(held: Any) -> dict[str, Any]:
        held.report({"done": 1})
        return {}

    worker.run(handle, "complete" if away else "fail", lease_timeout=0.9)


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


def test_a_result_waits_for_a_service_that_is_away(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LAST_CALL", 0.0)  # however long that is
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
