"""One run: a site, its callers, the faults of a seed, and then the check of all that must hold."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tests.chaos.callers import Callers, said
from tests.chaos.faults import Faults
from tests.chaos.history import Change, History, Job, Run
from tests.chaos.invariants import Checked, check
from tests.chaos.schedule import Fault, schedule
from tests.chaos.site import LIMIT, QUEUE, Site
from tests.servers.rabbitmq import Broker

STUCK_AFTER = 120.0
"""Seconds in which no job has ended although all faults are over."""
MOST_WAITING = 4_000
"""Jobs that wait: until there are fewer, no more are submitted."""
SLOTS_FREE_WITHIN = 25.0
LOOK_EVERY = 0.5
NOTICED_WITHIN = 10.0
ANSWERED_WITHIN = 10.0

BUSY = """
    SELECT
        (SELECT coalesce(sum(busy), 0) FROM lines) AS counted,
        (SELECT count(*) FROM jobs WHERE status = 'running') + (SELECT count(*) FROM closing_slots) AS taken,
        (SELECT count(*) FROM jobs WHERE status IN ('pending', 'running')) AS unfinished,
        (SELECT count(*) FROM jobs) AS jobs,
        (SELECT coalesce(max(circuit_state), 'closed') FROM queues WHERE circuit_state <> 'closed') AS circuit
"""
JOBS = """
    SELECT j.*, d.owner_ref, r.result FROM jobs AS j JOIN job_details AS d ON d.job_id = j.id
    LEFT JOIN job_results AS r ON r.job_id = j.id
"""
RUNS = """
    SELECT job_id, number, worker_id, extract(epoch FROM started_at)::float8 AS began,
        extract(epoch FROM ended_at)::float8 AS ended, outcome, became, lease_token
    FROM runs
"""
CHANGES = "SELECT job_id, number, status, extract(epoch FROM at)::float8 AS at FROM job_changes"
LEFT = """
    SELECT 'a connection: ' || application_name || ' ' || state || ' ' || left(query, 60)
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'an advisory lock: ' || objid FROM pg_locks WHERE locktype = 'advisory'
    UNION ALL
    SELECT 'a prepared transaction: ' || gid FROM pg_prepared_xacts
"""

AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What is raised while PostgreSQL cannot be asked."""


@dataclass(frozen=True)
class Plan:
    """
    Args:
        seed: from which all that goes wrong follows.
        seconds: in which the faults happen and jobs are submitted.
    """

    seed: int
    seconds: float
    jobs: int
    faults: int

    @property
    def schedule(self) -> list[Fault]:
        return schedule(self.seed, self.seconds, self.faults)


@dataclass
class Progress:
    """How far a run is."""

    phase: str = "starting"
    gone: float = 0.0
    submitted: int = 0
    unfinished: int = 0
    faults: int = 0
    last_fault: str = ""


@dataclass
class Outcome:
    plan: Plan
    history: History
    checked: list[Checked]
    faults: list[tuple[Fault, float]]
    left_out: list[str]
    answers: Counter[int]
    outside: Counter[str]
    steered: Counter[str]
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What was strange without being a violation."""

    @property
    def violations(self) -> list[str]:
        return [f"{checked.what}: {violation}" for checked in self.checked for violation in checked.violations]


def run(plan: Plan, folder: Path, broker: Broker, show: Callable[[Progress], None] = lambda _: None) -> Outcome:
    """Do all of it. RabbitMQ must run, and is left running."""
    with Site(folder, broker) as site:
        site.start_all()
        return asyncio.run(_Run(plan, site, show).go())


class _Run:
    def __init__(self, plan: Plan, site: Site, show: Callable[[Progress], None]) -> None:
        self.plan = plan
        self.site = site
        self.show = show
        self.progress = Progress()
        self.callers = Callers(site.apis, plan.seed)
        self.faults = Faults(site)
        self.history = History(limit=LIMIT)
        self.going = True
        self.drained = False
        self._closed_at = time.time()
        self._was_closed = True

    async def go(self) -> Outcome:
        began = time.monotonic()
        watching = [asyncio.create_task(work) for work in (self._tend(), self._watch())]
        workers = [
            asyncio.create_task(self.callers.work_outside(f"outside-{n}", lambda: not self.drained)) for n in range(2)
        ]
        try:
            self.progress.phase = "troubled"
            happening = asyncio.create_task(self.faults.run(self.plan.schedule, began))
            await self.callers.submit(
                self.plan.jobs, self.plan.seconds, lambda: self.progress.unfinished < MOST_WAITING
            )
            await happening
            self.progress.phase = "draining"
            await self.callers.rest()
            await self._drain()
            await asyncio.wait_for(asyncio.gather(*workers), 30)
            await self._look_at_slots()
        finally:
            self.going = self.drained = False
            self.drained = True
            for task in (*watching, *workers):
                task.cancel()
            await asyncio.gather(*watching, *workers, return_exceptions=True)
            await self.callers.close()
        self.progress.phase = "checking"
        self.show(self.progress)
        await self._collect()
        await self._stop()
        return self._outcome(time.monotonic() - began)

    async def _tend(self) -> None:
        began = time.monotonic()
        while True:
            self.site.tend()
            self.progress.gone = time.monotonic() - began
            self.progress.submitted = len(self.callers.submissions)
            self.progress.faults = len(self.faults.begun)
            self.progress.last_fault = str(self.faults.begun[-1][0]).strip() if self.faults.begun else ""
            self.show(self.progress)
            await asyncio.sleep(0.25)

    async def _watch(self) -> None:
        """Look at the count of slots and at the circuit, whenever PostgreSQL is there."""
        while True:
            try:
                await self._watch_while_it_is_there()
            except AWAY:
                await asyncio.sleep(LOOK_EVERY)

    async def _watch_while_it_is_there(self) -> None:
        async with asyncio.timeout(ANSWERED_WITHIN):
            connection = await asyncpg.connect(self.site.postgres.dsn)
        try:
            while True:
                async with asyncio.timeout(ANSWERED_WITHIN):
                    row = await connection.fetchrow(BUSY)
                self._seen(row)
                await asyncio.sleep(LOOK_EVERY)
        finally:
            connection.terminate()

    def _seen(self, row: Any) -> None:
        now = time.time()
        self.progress.unfinished = row["unfinished"]
        if row["counted"] != row["taken"] and len(self.history.miscounted) < 20:
            self.history.miscounted.append(f"{row['counted']} slots counted as taken, {row['taken']} were")
        closed = row["circuit"] == "closed"
        if closed:
            if not self._was_closed or now - self._closed_at > 3 * LOOK_EVERY:
                self.history.unordered.append((self._closed_at, now + LOOK_EVERY))
            self._closed_at = now
        self._was_closed = closed

    async def _drain(self) -> None:
        """Until nothing is left to do; an operator closes the circuit, for a trial may be a minute away."""
        least, progressed_at = sys.maxsize, time.monotonic()
        while time.monotonic() - progressed_at < STUCK_AFTER:
            with suppress(httpx.TransportError):
                await self.callers.http.post(f"{self.site.apis[0]}/api/v1/queues/{QUEUE}/close-circuit")
            with suppress(*AWAY):
                [row] = await self._rows(BUSY)
                if row["unfinished"] == 0:
                    break
                if row["unfinished"] < least:
                    least, progressed_at = row["unfinished"], time.monotonic()
            await asyncio.sleep(1)
        self.drained = True

    async def _look_at_slots(self) -> None:
        deadline = time.monotonic() + SLOTS_FREE_WITHIN
        while time.monotonic() < deadline:
            [(busy, closing)] = await self._rows(
                "SELECT (SELECT sum(busy) FROM lines), (SELECT count(*) FROM closing_slots)"
            )
            if not busy and not closing:
                break
            await asyncio.sleep(0.5)
        self.history.busy = dict(await self._rows("SELECT name, busy FROM lines"))
        self.history.closing_slots = closing

    async def _collect(self) -> None:
        history = self.history
        history.submissions = list(self.callers.submissions.values())
        history.jobs = [
            Job(
                id=str(row["id"]),
                name=row["owner_ref"],
                owner=row["owner_service"],
                queue=row["queue"],
                priority=row["priority"],
                status=row["status"],
                number=row["number"],
                attempts=row["attempts"],
                max_attempts=row["max_attempts"],
                crashes=row["crashes"],
                give_backs=row["give_backs"],
                finished=row["finished_at"] is not None,
                error_code=row["error_code"],
                result=said(row["result"]),
            )
            for row in await self._rows(JOBS)
        ]
        history.runs = [
            Run(str(job), number, worker, began, ended, outcome, became, str(token))
            for job, number, worker, began, ended, outcome, became, token in await self._rows(RUNS)
        ]
        history.changes = [
            Change(str(job), number, status, at) for job, number, status, at in await self._rows(CHANGES)
        ]
        history.troubles, history.disturbances = self.faults.troubles, self.faults.disturbances
        history.followed = self.callers.followed

    async def _stop(self) -> None:
        left = self.history.left
        left += await asyncio.to_thread(lambda: list(self.site.stop_all()))
        left += [f"a process: {command}" for command in self.site.left_processes()]
        left += [f"a file: {name}" for name in self.site.left_files()]
        left += await _settled(self._database_left)
        left += await _settled(lambda: asyncio.to_thread(self._broker_left))
        self.history.calls = self.site.provider.calls
        if self.site.provider.open:
            left.append(f"{self.site.provider.open} calls at the provider")

    async def _database_left(self) -> list[str]:
        return [row[0] for row in await self._rows(LEFT)]

    def _broker_left(self) -> list[str]:
        queues = self.site.broker.management("GET", "/queues")
        # Not the connections' list: that is of some seconds ago.
        return [f"RabbitMQ's queue {queue['name']}" for queue in queues if queue["name"].startswith("ai.events.")]

    async def _rows(self, statement: str) -> list[Any]:
        connection = await asyncpg.connect(self.site.postgres.dsn, timeout=5)
        try:
            return list(await connection.fetch(statement, timeout=60))
        finally:
            await connection.close()

    def _outcome(self, seconds: float) -> Outcome:
        checked = check(self.history)
        answers = Checked("every answer is one that the fault explains", sum(self.callers.answers.values()))
        answers.violations += [f"{times} times {told}" for told, times in self.callers.strange.most_common(50)]
        ends = Checked("no process ends by itself", sum(place.starts for place in self.site.places.values()))
        ends.violations += self.site.unasked
        return Outcome(
            plan=self.plan,
            history=self.history,
            checked=[*checked, answers, ends],
            faults=self.faults.begun,
            left_out=self.faults.left_out,
            answers=self.callers.answers,
            outside=self.callers.outside,
            steered=self.callers.steered,
            seconds=seconds,
            notes=self.faults.failed,
        )


async def _settled(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What is left when servers have had time to notice that their clients have gone."""
    deadline = time.monotonic() + NOTICED_WITHIN
    while True:
        found = await look()
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)
