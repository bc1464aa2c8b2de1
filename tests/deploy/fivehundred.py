"""Five hundred jobs of every kind and fate, driven through a running topology, and what was seen of it meanwhile."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import httpx

from tests.adapters.telemetry.reading import OPENMETRICS, Figures, families, figures
from tests.deploy.collector import Span
from tests.deploy.topology import Topology
from tests.e2e.service import Process, eventually, query
from tests.servers.model_server import Behaviour, ModelServer, Reply, Request, refuses, says, tells

TOTAL = 500
PROMPT, ANSWER, PROGRESS = "prompt0of0a0caller", "answer0of0a0model", "progress0of0a0run"
"""Stand in what callers, models and workers say; nobody else may say them."""

CHAT, SPEAKER, EMBEDDER = "qwen2.5-14b", "whisper-large-v3", "embedder"
EXTERNAL = "render-7"
SLOTS = 16
DIED, LAPSED, MENDED, TRACED = 4, 2, 5, 10
BRIEF = 5
"""Jobs that go as soon as they are done."""
TRACE, NO_TRACE = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
REQUEST_ID = "order-4711"

COMPLETED = ("completed", None, 1)
Fate = tuple[str, str | None, int]
"""How a job ends: its state, its error code, the attempts that it took."""

UNFINISHED = "SELECT id FROM jobs WHERE status NOT IN ('completed', 'failed', 'cancelled')"
STORED = "SELECT j.*, d.owner_ref FROM jobs j JOIN job_details d ON d.job_id = j.id ORDER BY j.seq"
WHOLE = "SELECT queue, status::text, count(*) FROM jobs GROUP BY 1, 2"
RUNS = "SELECT r.*, d.owner_ref FROM runs r JOIN job_details d ON d.job_id = r.job_id"


def of_metric(page: Figures, name: str) -> list[tuple[dict[str, str], float]]:
    """The labels and the value of each of its series."""
    return [(dict(labels), value) for (told, labels), value in page.items() if told == name]


@dataclass
class Chats:
    """A model server that does to each job what its prompt says, by the job's name."""

    calls: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    """What callers showed as their authority."""
    _gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _loop: asyncio.AbstractEventLoop | None = None

    def let_go(self, fate: str) -> None:
        """Answer the calls of this fate, and hold none of them any more."""
        assert self._loop, "nobody has called"
        self._loop.call_soon_threadsafe(self._gates[fate].set)

    async def __call__(self, request: Request, reply: Reply) -> None:
        self._loop = asyncio.get_running_loop()
        _, name = request.last_message.split()
        fate = name.partition("-")[0]
        self.calls[name] += 1
        self.keys.add(request.headers.get("authorization", ""))
        if fate.startswith("held"):
            await self._gates[fate].wait()
        elif trouble := self._trouble(fate, name):
            await trouble(request, reply)
            return
        await says(f"{ANSWER} to {name}", model="qwen")(request, reply)
        self.answered[name] += 1

    def _trouble(self, fate: str, name: str) -> Behaviour | None:
        troubles = {
            "refused": refuses(400, {"error": {"message": f"Not that: {ANSWER}"}}),
            "mended": refuses(400, {"error": {"message": f"Not that: {ANSWER}"}}),
            "flaky": tells(f"<p>{ANSWER}</p>"),
            "hopeless": tells(f"<p>{ANSWER}</p>"),
            "slow": refuses(504, f"{ANSWER} took too long"),
            "limited": refuses(429, f"{ANSWER} is busy"),
        }
        always = fate in {"refused", "hopeless"}
        return troubles.get(fate) if always or self.calls[name] == 1 else None


@dataclass
class Driven:
    """All that was seen, from inside and from outside."""

    fates: dict[str, Fate] = field(default_factory=dict)
    """How each job has to end, by its name, which is its `owner_ref`."""
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """What callers asked and were answered, by method and status."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """The database's rows in the end, before anything was pruned."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    pages: dict[str, Figures] = field(default_factory=dict)
    """What each process told at last, by Prometheus' parser."""
    open_pages: dict[str, Figures] = field(default_factory=dict)
    """The same as OpenMetrics."""
    texts: list[str] = field(default_factory=list)
    """Whatever pages said at any time."""
    whole: dict[tuple[str, str], int] = field(default_factory=dict)
    """Jobs by queue and state that the database had when the pages were read."""
    ended: dict[str, int] = field(default_factory=dict)
    """The exit codes of the processes."""
    logs: dict[str, str] = field(default_factory=dict)
    """All that each process said."""

    @cached_property
    def names(self) -> dict[str, str]:
        """Of jobs, by their ids."""
        return {str(job["id"]): job["owner_ref"] for job in self.jobs}

    def name_of(self, span: Span) -> str:
        """The name of the job that it is about."""
        return self.names[span.attributes["aijobs.job.id"]]


@dataclass
class Drive:
    topology: Topology
    dsn: str
    chats: Chats
    model: ModelServer
    recording: bytes
    seen: Driven = field(default_factory=Driven)
    ids: dict[str, str] = field(default_factory=dict)
    """Of the jobs, by their names."""

    def run(self) -> Driven:
        self.topology.up()
        self.api = self.topology.api()
        self.api.http.event_hooks["response"] = [self._note]
        self._take_a_low_slot()
        self._kill_a_worker()
        self._submit_everything_else()
        self._work_outside()
        self._interfere()
        self._let_the_rescued_end()
        self._look()
        self.seen.ended = self.topology.down()
        for name, started in self.topology.processes.items():
            for number, process in enumerate(started):
                self.seen.logs[f"{name} {number}"] = process.said
        return self.seen

    def _note(self, answer: httpx.Response) -> None:
        self.seen.requests[answer.request.method, answer.status_code] += 1

    def job(self, fate: str, number: int, ends: Fate = COMPLETED, **fields: Any) -> dict[str, Any]:
        name = f"{fate}-{number}"
        self.seen.fates[name] = ends
        given = {"task_type": "chat_completion", "model_profile": CHAT, "input": {"user": f"{PROMPT} {name}"}}
        return {"owner_service": "shop", "owner_ref": name, **given, **fields}

    def several(self, fate: str, count: int, ends: Fate = COMPLETED, **fields: Any) -> list[dict[str, Any]]:
        return [self.job(fate, number, ends, **fields) for number in range(count)]

    def submit(self, job: dict[str, Any], **headers: str) -> None:
        answer = self._post("", job, 201, **headers)
        self.ids[job["owner_ref"]] = answer["id"]

    def submit_batch(self, jobs: Sequence[dict[str, Any]]) -> None:
        answer = self._post("/batch", {"jobs": jobs}, 201)
        self.ids |= {job["owner_ref"]: stored["id"] for job, stored in zip(jobs, answer["jobs"], strict=True)}

    def _post(self, path: str, body: object, status: int = 200, **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.api.http.post(f"/api/v1/jobs{path}", json=body, headers=named)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def _take_a_low_slot(self) -> None:
        """All slots are busy with jobs of little urgency, when an urgent one comes."""
        self.submit_batch(self.several("held_low", SLOTS, priority="low"))
        self.model.wait_until(lambda server: server.running == SLOTS, 20)
        self.submit(self.job("urgent", 0, priority="high"))
        self._final(["urgent-0"])
        self.chats.let_go("held_low")
        self._final(f"held_low-{number}" for number in range(SLOTS))

    def _kill_a_worker(self) -> None:
        """It dies as it works on four jobs, and Docker starts it again."""
        self.submit_batch(self.several("held_dead", DIED))
        self.model.wait_until(lambda server: server.running == DIED, 20)
        worker = self.topology.running("worker-llm")
        self._read("worker-llm 0", worker)
        worker.kill()
        self.topology.begin("worker-llm")

    def _submit_everything_else(self) -> None:
        uploaded = self.api.http.post(
            "/api/v1/uploads", params={"owner_service": "shop"}, content=self.recording
        ).json()["upload_id"]
        spoken: dict[str, Any] = {"task_type": "transcription", "model_profile": SPEAKER}
        inline = base64.b64encode(self.recording).decode()
        self.submit_batch(
            [
                *self.several("spoken", 6, **spoken, input={"upload_id": uploaded, "prompt": PROMPT}),
                *self.several("inline", 4, **spoken, input={"audio_base64": inline}),
                *self.several(
                    "vector", 10, task_type="embedding", model_profile=EMBEDDER, input={"input": f"{PROMPT} of three"}
                ),
                *self.several("held_gone", 5, ("cancelled", "cancelled", 0)),
                *self.several("late", 5, ("cancelled", "cancelled", 0), task_type="nobodys", deadline_at=_in(3)),
                *self.several("soon", 10, run_at=_in(2)),
                *self.several("never", 10, ("cancelled", "cancelled", 0), run_at=_in(3600)),
            ]
        )
        self.submit_batch(
            [
                *self.several("refused", 15, ("failed", "bad_input", 1)),
                *self.several("mended", MENDED),
                *self.several("flaky", 15, ("completed", None, 2)),
                *self.several("hopeless", 5, ("failed", "bad_response", 2), max_attempts=2),
                *self.several("slow", 5, ("completed", None, 2)),
                *self.several("limited", 10),
                *self.several("brief", BRIEF, owner_service="brief"),
            ]
        )
        self.submit_batch(self._outside())
        self.submit_batch(self.several("high", 60, priority="high"))
        for number in range(TRACED):
            traced = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X_Request_Id": f"{REQUEST_ID}-{number}"}
            self.submit(self.job("traced", number), **traced)
        self.submit(self.job("unseen", 0), traceparent=f"00-{NO_TRACE}-{CALLER}-00")
        rest = TOTAL - len(self.seen.fates)
        self.submit_batch([self.job("bulk", number, owner_service=f"shop-{number % 150}") for number in range(rest)])

    def _outside(self) -> list[dict[str, Any]]:
        """Jobs for an external worker."""
        kind: dict[str, Any] = {"task_type": "render", "model_profile": "blender", "input": {"scene": PROMPT}}
        return [
            *self.several("rendered", 4, **kind),
            *self.several("unrenderable", 3, ("failed", "bad_input", 1), **kind),
            *self.several("returned", 2, **kind),
            *self.several("lapsed", LAPSED, ("completed", None, 2), **kind),
            self.job("stopped", 0, ("cancelled", "cancelled", 0), **kind),
        ]

    def _work_outside(self) -> None:
        for job in self._claim(9):
            fate = job["owner_ref"].partition("-")[0]
            if fate == "rendered":
                self._report(job, "heartbeat", progress={"said": PROGRESS})
                self._report(job, "complete", result={"said": ANSWER})
            elif fate == "unrenderable":
                self._report(job, "fail", error_code="bad_input", error_message=f"Not that: {ANSWER}")
            else:
                self._report(job, "release")
        again = self._claim(2)
        assert {job["owner_ref"] for job in again} == {"returned-0", "returned-1"}
        for job in again:
            self._report(job, "complete", result={"said": ANSWER})
        lapsing, [stopped] = self._claim(2, lease_timeout=5), self._claim(1)
        assert {job["owner_ref"] for job in lapsing} == {"lapsed-0", "lapsed-1"}
        self.api.cancel(stopped)
        self._report(stopped, "complete", 409, result={"said": ANSWER})

    def _claim(self, limit: int, **fields: Any) -> list[dict[str, Any]]:
        wanted = {"worker_id": EXTERNAL, "task_types": ["render"], "limit": limit, **fields}
        jobs: list[dict[str, Any]] = self._post("/claim", wanted)["jobs"]
        return jobs

    def _report(self, job: dict[str, Any], what: str, status: int = 200, **fields: Any) -> None:
        self._post(f"/{job['id']}/{what}", {"lease_token": job["lease_token"], **fields}, status)

    def _interfere(self) -> None:
        """Cancel some that wait and some that run; try some again that failed."""
        for number in range(10):
            self.api.cancel({"id": self.ids[f"never-{number}"]})
        for number in range(5):
            running = {"id": self.ids[f"held_gone-{number}"]}
            self.api.is_running(running, within=20)
            self.api.cancel(running)
        mended = [f"mended-{number}" for number in range(MENDED)]
        self._final(mended)
        for name in mended:
            self.api.retry({"id": self.ids[name]})

    def _let_the_rescued_end(self) -> None:
        """Those of the worker that died, and of the external one whose leases ran out."""
        self.chats.let_go("held_dead")
        lapsed = 0
        while lapsed < LAPSED:
            for job in self._claim(2, wait=20):
                self._report(job, "complete", result={"said": ANSWER})
                lapsed += 1
        eventually(lambda: not self._rows(UNFINISHED), within=40, what="every job is final")
        self.seen.jobs = [dict(row) for row in self._rows(STORED)]
        self.seen.runs = [dict(row) for row in self._rows(RUNS)]

    def _look(self) -> None:
        """At the pages, when what is past has been pruned and the leader has counted what is left."""
        config = self.topology.config / "ai_service.toml"
        # The file is read again when it has changed, once a second.
        config.write_text(f'{config.read_text()}\n[owners.brief]\nretention = {{completed = "1ms"}}\n')
        eventually(self._has_settled, within=25, what="the leader's page says what the database does")
        for name, process in self._running().items():
            self._read(name, process, OPENMETRICS)

    def _has_settled(self) -> bool:
        """The leader looks at the whole once in five seconds at most, RabbitMQ at its queues likewise."""
        self.seen.whole = {(queue or "none", status): jobs for queue, status, jobs in self._rows(WHOLE)}
        for name, process in self._running().items():
            self._read(name, process)
        told = [of_metric(page, "aijobs_jobs") for page in self.seen.pages.values()]
        whole = {(labels["queue"], labels["status"]): value for labels, value in max(told, key=len) if value}
        pruned = sum(self.seen.whole.values()) == TOTAL - BRIEF
        listened_to = any(name == "aijobs_consumers" for page in self.seen.pages.values() for name, _ in page)
        return pruned and listened_to and whole == self.seen.whole

    def _running(self) -> dict[str, Process]:
        """Those with a page."""
        return {
            f"{name} {len(started) - 1}": started[-1]
            for name, started in self.topology.processes.items()
            if started[-1].running and started[-1].url
        }

    def _read(self, name: str, process: Process, accept: str = "") -> None:
        answer = httpx.get(f"{process.url}/metrics", headers={"accept": accept}, timeout=10, trust_env=False)
        assert answer.status_code == 200, answer.text
        page = figures(families(answer.headers["content-type"], answer.text))
        (self.seen.open_pages if accept else self.seen.pages)[name] = page
        self.seen.texts.append(answer.text)

    def _final(self, names: Iterable[str]) -> None:
        self.api.all_finished([{"id": self.ids[name]} for name in names])

    def _rows(self, statement: str) -> list[Any]:
        return query(self.dsn, statement)


def _in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
