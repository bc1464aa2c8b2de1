"""Who uses the service while it is troubled: callers that submit, cancel and retry, some that follow events, and
workers outside, which now and then vanish.

What they cannot have they ask for again, under the same key, of either API. What they were answered is kept.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.chaos.history import Followed, Submission
from tests.e2e.service import PROFILE

OWNERS = ("billing", "beeline", "radio", "archive")
PRIORITIES = {"high": 1, "normal": 3, "low": 5}
OUTSIDE = "outside"
"""The profile of jobs that only external workers do."""

PATIENCE = 120.0
"""Seconds for which a caller goes on trying."""
PAUSE = 0.3
FOLLOWED_AT_ONCE = 8
REPEATED, UNKEYED, SCHEDULED, CANCELLED, RETRIED, LONG, FLAKY, FOR_OUTSIDE, FOLLOWED = (
    0.05,
    0.03,
    0.03,
    0.03,
    0.02,
    0.01,
    0.02,
    0.015,
    0.01,
)
"""Shares of jobs: sent again, without a key, for later, cancelled, retried by hand, long, that fail once, for workers
outside, whose events are followed."""


@dataclass
class Callers:
    """
    Args:
        apis: addresses of the APIs.
        seed: of what is asked for.
    """

    apis: Sequence[str]
    seed: int
    submissions: dict[str, Submission] = field(default_factory=dict)
    followed: list[Followed] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    """How often which status; 0: none came."""
    strange: Counter[str] = field(default_factory=Counter)
    """Answers that no fault explains."""
    outside: Counter[str] = field(default_factory=Counter)
    """What workers outside did."""
    steered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._background: set[asyncio.Task[None]] = set()
        self._following = 0
        self._made = 0
        self._turn = 0
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        self.http = httpx.AsyncClient(timeout=httpx.Timeout(10, connect=3), limits=limits, trust_env=False)

    async def submit(self, jobs: int, seconds: float, may_go_on: Callable[[], bool]) -> None:
        """Submit so many jobs, spread over so many seconds; later where that is held up."""
        began = time.monotonic()
        while self._made < jobs:
            wanted = int(jobs * min(1.0, (time.monotonic() - began) / seconds)) - self._made
            if wanted > 0 and may_go_on():
                await self._spread(min(wanted, 200))
            await asyncio.sleep(0.1)

    async def rest(self) -> None:
        """Return when nobody submits or follows any more."""
        while self._background:
            await asyncio.wait(set(self._background))

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.http.aclose()

    async def _spread(self, count: int) -> None:
        """Some alone, the others in batches."""
        while count > 0:
            if self._chance.random() < 0.7:
                size = 1
                self._start(self._one())
            else:
                size = min(count, self._chance.randint(2, 40))
                self._start(self._batch(size))
            count -= size
            while len(self._background) > 300:
                await asyncio.wait(set(self._background), return_when=asyncio.FIRST_COMPLETED)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.strange[f"the harness itself: {error!r}"] += 1

    def _job(self) -> tuple[Submission, dict[str, Any]]:
        """A new job: what its caller keeps, and what it sends."""
        chance = self._chance
        self._made += 1
        name = f"job-{self._made}"
        priority = chance.choices(list(PRIORITIES), (1, 6, 3))[0]
        seconds = chance.uniform(1, 4) if chance.random() < LONG else chance.uniform(0.01, 0.08)
        prompt = f"{name} {seconds:.3f}" + (" flaky" if chance.random() < FLAKY else "")
        submission = Submission(name, chance.choice(OWNERS), PRIORITIES[priority])
        body: dict[str, Any] = {
            "owner_service": submission.owner,
            "task_type": chance.choice(("chat_completion", "llm_chat")),
            "model_profile": PROFILE,
            "owner_ref": name,
            "priority": priority,
            "input": {"user": prompt},
        }
        if chance.random() < FOR_OUTSIDE:
            body["model_profile"] = OUTSIDE
        if chance.random() < SCHEDULED:
            submission.scheduled = True
            body["run_at"] = (datetime.now(UTC) + timedelta(seconds=chance.uniform(1, 5))).isoformat()
        if chance.random() >= UNKEYED:
            submission.key = f"key of {name}"
            body["idempotency_key"] = submission.key
        self.submissions[name] = submission
        return submission, body

    async def _one(self) -> None:
        submission, body = self._job()
        again = submission.key and self._chance.random() < REPEATED
        together = again and self._chance.random() < 0.5
        if together:
            await asyncio.gather(self._send(submission, body), self._send(submission, body))
        else:
            await self._send(submission, body)
        if again:
            await asyncio.sleep(self._chance.uniform(0, 3))
            await self._send(submission, body)
        if submission.ids:
            await self._go_on(submission)

    async def _send(self, submission: Submission, body: dict[str, Any]) -> None:
        answer = await self._persist("POST", "/api/v1/jobs", body, {200, 201}, once=not submission.key)
        if answer is not None:
            self._accepted(submission, answer["id"])

    async def _batch(self, size: int) -> None:
        made = [self._job() for _ in range(size)]
        for submission, body in made:
            submission.key = body["idempotency_key"] = f"key of {submission.name}"
        sent = {"jobs": [body for _, body in made]}
        answer = await self._persist("POST", "/api/v1/jobs/batch", sent, {201})
        if answer is not None:
            for each in answer["jobs"]:
                self._accepted(made[each["index"]][0], each["id"])
            await asyncio.gather(*(self._go_on(submission) for submission, _ in made))

    def _accepted(self, submission: Submission, job_id: str) -> None:
        submission.accepted_at = submission.accepted_at or time.time()
        if job_id not in submission.ids:
            submission.ids.append(job_id)

    async def _go_on(self, submission: Submission) -> None:
        """What may follow a submission."""
        chance = self._chance
        if chance.random() < FOLLOWED and self._following < FOLLOWED_AT_ONCE:
            self._start(self._follow(submission))
        if chance.random() < CANCELLED:
            await asyncio.sleep(chance.uniform(0, 1))
            await self._steer(submission, "cancel")
            if chance.random() < 0.3:
                await self._steer(submission, "retry")
        elif chance.random() < RETRIED:
            await asyncio.sleep(chance.uniform(0, 2))
            await self._steer(submission, "retry")

    async def _steer(self, submission: Submission, how: str) -> None:
        answer = await self._ask("POST", f"/api/v1/jobs/{submission.ids[0]}/{how}", None)
        if answer is not None:
            self.steered[f"{how}: {answer.status_code}"] += 1
            self._wonder(answer, {200, 409, 503})

    async def _persist(
        self, method: str, path: str, body: object, good: set[int], *, once: bool = False
    ) -> dict[str, Any] | None:
        """What is answered in the end; None where the caller has given up."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = await self._ask(method, path, body)
            if answer is not None and answer.status_code in good:
                found: dict[str, Any] = answer.json()
                return found
            if answer is not None:
                self._wonder(answer, {503})
            if once:
                return None
            await asyncio.sleep(PAUSE)
        return None

    async def _ask(self, method: str, path: str, body: object) -> httpx.Response | None:
        """One answer of either API; None where none came."""
        self._turn += 1
        try:
            answer = await self.http.request(method, self.apis[self._turn % len(self.apis)] + path, json=body)
        except httpx.TransportError:
            self.answers[0] += 1
            return None
        self.answers[answer.status_code] += 1
        return answer

    def _wonder(self, answer: httpx.Response, expected: set[int]) -> None:
        if answer.status_code not in expected:
            request = answer.request
            path = re.sub(r"[0-9a-f-]{36}", "{id}", request.url.path)
            self.strange[f"{request.method} {path} was answered {answer.status_code}: {answer.text[:200]}"] += 1

    async def _follow(self, submission: Submission) -> None:
        """Read the events of a job to its end; a stream that breaks off is taken up where it was."""
        self._following += 1
        seen: list[str] = []
        resumed = 0
        deadline = time.monotonic() + 2 * PATIENCE
        try:
            while time.monotonic() < deadline and not (seen and seen[-1].endswith(".done")):
                # Some leave by themselves after an event and come back.
                leaves = self._chance.random() < 0.5
                await self._read_on(submission.ids[0], seen, leaves=leaves)
                resumed += 1
                await asyncio.sleep(0.1)
        finally:
            self._following -= 1
            self.followed.append(Followed(submission.name, tuple(seen), max(0, resumed - 1)))

    async def _read_on(self, job_id: str, seen: list[str], *, leaves: bool) -> None:
        self._turn += 1
        url = f"{self.apis[self._turn % len(self.apis)]}/api/v1/jobs/{job_id}/events"
        headers = {"Last-Event-ID": seen[-1]} if seen else {}
        try:
            async with self.http.stream("GET", url, headers=headers, timeout=httpx.Timeout(20, connect=3)) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    self._wonder(answer, {503})
                    return
                async for line in answer.aiter_lines():
                    if line.startswith("id:"):
                        seen.append(line.removeprefix("id:").strip())
                        if leaves:
                            return
        except httpx.TransportError:
            self.answers[0] += 1

    async def work_outside(self, name: str, going: Callable[[], bool]) -> None:
        """An external worker: claims, keeps alive, ends; now and then it vanishes with what it holds."""
        while going():
            wanted = {"worker_id": name, "model_profiles": [OUTSIDE], "limit": 2, "lease_timeout": 5, "wait": 1}
            answer = await self._ask("POST", "/api/v1/jobs/claim", wanted)
            if answer is None or answer.status_code != 200:
                if answer is not None:
                    self._wonder(answer, {200, 503})
                await asyncio.sleep(PAUSE)
                continue
            for job in answer.json()["jobs"]:
                self.outside["claimed"] += 1
                await self._do(job)

    async def _do(self, job: dict[str, Any]) -> None:
        token = {"lease_token": job["lease_token"]}
        path = f"/api/v1/jobs/{job['id']}"
        progress = {**token, "progress": {"at": time.time()}}
        await asyncio.sleep(self._chance.uniform(0, 0.3))
        await self._ask("POST", f"{path}/heartbeat", progress)
        dice = self._chance.random()
        if dice < 0.05:
            self.outside["vanished"] += 1
            return
        if dice < 0.1:
            how, body = "release", token
        elif dice < 0.15:
            how, body = "fail", {**token, "error_code": "provider_error"}
        else:
            how, body = "complete", {**token, "result": {"said": f"lease {job['lease_token']}"}}
        self.outside[how] += 1
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            answer = await self._ask("POST", f"{path}/{how}", body)
            if answer is not None and answer.status_code != 503:
                self._wonder(answer, {200, 409})
                return
            await asyncio.sleep(PAUSE)


def said(result: bytes | None) -> str | None:
    """What a stored result says, by whom it was made."""
    if result is None:
        return None
    told = json.loads(result)
    return str(told.get("content") or told.get("said") or "").strip()
