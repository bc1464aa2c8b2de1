"""The job store in PostgreSQL. Statements live in `queries/` and `functions/`; this module feeds and reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg
import msgspec
import structlog
from msgspec import Raw

from adapters.postgres.errors import REFUSED
from adapters.postgres.listing import listing
from adapters.postgres.pool import HEARTBEAT_TIMEOUT, STATEMENT_TIMEOUT, fetch, query
from domain.errors import ErrorCode, Failure, JobNotFound
from domain.job import (
    CANCELLED_BY_CALLER,
    CRASHED,
    CRASHED_TOO_OFTEN,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeasedJob,
    NewJob,
    Priority,
    Settlement,
)
from domain.ports import DEMAND_LIMIT, Claim, Demand, Exchange, JobFilter, WorkerBeat

log = structlog.get_logger()

SWEEP_LIMIT = 1_000
"""Jobs that one statement of promoting or rescuing moves at most: keeps its transaction short."""

NO_CLAIM = Claim(queue="", task_types=(), model_profiles=(), worker_id="", lease=timedelta(0), limit=0)

EXCHANGE = "SELECT * FROM exchange_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"


class PostgresJobStore:
    """Speaks asyncpg on the hot path: one statement and one round trip per call."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, jobs: Sequence[NewJob]) -> list[Job]:
        given: dict[JobId, NewJob] = {}
        for new in jobs:
            given.setdefault(new.id, new)
        rows = await self._fetch(
            "add_jobs",
            [new.id for new in given.values()],
            [new.owner_service for new in given.values()],
            [new.owner_ref for new in given.values()],
            [new.task_type for new in given.values()],
            [new.model_profile for new in given.values()],
            [new.queue for new in given.values()],
            [new.priority for new in given.values()],
            [new.max_attempts for new in given.values()],
            [new.run_at for new in given.values()],
            [bytes(new.input) for new in given.values()],
        )
        stored = {row["id"]: _added(given[row["id"]], row) for row in rows}
        return [stored[new.id] if new.id in stored else await self.get(new.id) for new in jobs]

    async def get(self, job_id: JobId) -> Job:
        rows = await self._fetch("get_job", job_id)
        if not rows:
            raise JobNotFound
        return _job(rows[0], body=Raw(rows[0]["input"]), result=rows[0]["result"])

    async def statuses(self, job_ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        return {row["id"]: JobStatus(row["status"]) for row in await self._fetch("job_statuses", job_ids)}

    async def find(self, where: JobFilter, *, limit: int, before: int | None = None) -> list[Job]:
        statement, arguments = listing(where, limit=limit, before=before)
        return [_job(row) for row in await self._run(statement, arguments)]

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        try:
            rows = await self._run(EXCHANGE, [*_columns(settlements), *_claim_arguments(claim or NO_CLAIM)])
        except REFUSED as error:
            return await self._isolate(settlements, claim, error)
        return Exchange(
            claimed=tuple(_leased(row) for row in rows if row["job_id"] is not None),
            lost=await self._not_stored_before(
                [settlements[row["lost"] - 1] for row in rows if row["lost"] is not None]
            ),
        )

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        given = [[held.job_id for held in leases], [held.token for held in leases], lease]
        rows = await self._run(query("renew_leases"), given, within=HEARTBEAT_TIMEOUT)
        return frozenset(leases[row["place"] - 1] for row in rows)

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        rows = await self._fetch("release_orphans", worker_id, queue, [lease.token for lease in held])
        return int(rows[0]["count"])

    async def cancel(self, job_id: JobId) -> Job:
        cancelled = CANCELLED_BY_CALLER
        while not await self._fetch("cancel_job", job_id, cancelled.code, cancelled.message):
            job = await self.get(job_id)
            if job.cancel(job.updated_at) is job:
                break
        return await self.get(job_id)

    async def retry(self, job_id: JobId) -> Job:
        while not await self._fetch("retry_job", job_id):
            job = await self.get(job_id)
            job.retry(job.updated_at)
        return await self.get(job_id)

    async def promote_due(self) -> dict[str, int]:
        promoted: Counter[str] = Counter()
        found = SWEEP_LIMIT
        while found == SWEEP_LIMIT:  # many jobs may become due together, as when a long outage ends
            rows = await self._fetch("promote_due", SWEEP_LIMIT)
            found = sum(row["jobs"] for row in rows)
            promoted.update({row["queue"]: row["jobs"] for row in rows if row["queue"]})
        return dict(promoted)

    async def rescue_expired(self, max_crashes: int) -> dict[str, int]:
        rows = await self._fetch(
            "rescue_expired", max_crashes, ErrorCode.STALE_WORKER, CRASHED, CRASHED_TOO_OFTEN, SWEEP_LIMIT
        )
        for row in rows:
            log.warning("jobs rescued", queue=row["queue"], jobs=row["jobs"], back=row["back"])
        return {row["queue"]: row["back"] for row in rows if row["queue"] and row["back"]}

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        # It follows a submit: whoever waits for that answer must not wait for a figure.
        rows = await self._run(query("demand"), [queues, alive_within, DEMAND_LIMIT], within=HEARTBEAT_TIMEOUT)
        return [Demand(row["queue"], row["due"], row["slots"], row["idle"]) for row in rows]

    async def beat(self, beat: WorkerBeat) -> None:
        running = msgspec.json.encode(beat.running).decode()
        given = [beat.id, beat.worker_id, beat.host, list(beat.queues), beat.slots_per_queue, running]
        await self._run(query("beat"), given, within=HEARTBEAT_TIMEOUT)

    async def forget_worker(self, worker: UUID, older_than: timedelta) -> None:
        await self._fetch("forget_worker", worker, older_than)

    async def ping(self) -> None:
        await self._run("SELECT 1 FROM leader LIMIT 1", [])

    async def _isolate(self, settlements: Sequence[Settlement], claim: Claim | None, error: Exception) -> Exchange:
        """A value was refused, and the whole batch with it: halve until it stands alone, then claim as asked."""
        if not settlements:
            raise error
        if len(settlements) == 1:
            reason = type(error).__name__
            log.error("settlement refused", job_id=str(settlements[0].lease.job_id), reason=reason)
            refused = Exchange(refused={settlements[0].lease: reason})
            return _merged(refused, await self.exchange([], claim)) if claim else refused
        middle = len(settlements) // 2
        first = await self.exchange(settlements[:middle], None)
        return _merged(first, await self.exchange(settlements[middle:], claim))

    async def _not_stored_before(self, lost: Sequence[Settlement]) -> frozenset[Lease]:
        """Those that truly found their lease gone: not the repetition of a settlement whose answer was lost."""
        if not lost:
            return frozenset()
        rows = await self._fetch(
            "ended_runs", [each.lease.job_id for each in lost], [each.lease.token for each in lost]
        )
        ended = {Lease(row["job_id"], row["lease_token"]): row["outcome"] for row in rows}
        return frozenset(each.lease for each in lost if ended.get(each.lease) != each.outcome)

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._run(query(name), arguments)

    async def _run(
        self, statement: str, arguments: Sequence[object], *, within: float = STATEMENT_TIMEOUT
    ) -> list[asyncpg.Record]:
        return await fetch(self._pool, statement, arguments, within=within)


def _columns(settlements: Sequence[Settlement]) -> list[list[object]]:
    return [
        [each.lease.job_id for each in settlements],
        [each.lease.token for each in settlements],
        [each.outcome for each in settlements],
        [each.status for each in settlements],
        [each.result for each in settlements],
        [each.failure.code if each.failure else None for each in settlements],
        [each.failure.message if each.failure else None for each in settlements],
        [each.delay for each in settlements],
    ]


def _claim_arguments(claim: Claim) -> list[object]:
    return [
        claim.queue,
        list(claim.task_types),
        list(claim.model_profiles),
        claim.worker_id,
        claim.lease,
        claim.limit,
    ]


def _merged(first: Exchange, second: Exchange) -> Exchange:
    return Exchange(first.claimed + second.claimed, first.lost | second.lost, {**first.refused, **second.refused})


def _leased(row: asyncpg.Record) -> LeasedJob:
    return LeasedJob(
        lease=Lease(row["job_id"], row["lease_token"]),
        task_type=row["task_type"],
        model_profile=row["model_profile"],
        owner_service=row["owner_service"],
        queue=row["queue"],
        priority=Priority(row["priority"]),
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        give_backs=row["give_backs"],
        input=Raw(row["input"]),
    )


def _added(new: NewJob, row: asyncpg.Record) -> Job:
    return new.stored(row["seq"], run_at=row["run_at"], due=row["due"], now=row["updated_at"])


def _job(row: asyncpg.Record, *, body: Raw | None = None, result: bytes | None = None) -> Job:
    return Job(
        id=row["id"],
        seq=row["seq"],
        owner_service=row["owner_service"],
        owner_ref=row["owner_ref"],
        task_type=row["task_type"],
        model_profile=row["model_profile"],
        queue=row["queue"],
        priority=Priority(row["priority"]),
        status=JobStatus(row["status"]),
        input=body,
        result=None if result is None else Raw(result),
        failure=Failure(ErrorCode(row["error_code"]), row["error_message"] or "") if row["error_code"] else None,
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        crashes=row["crashes"],
        give_backs=row["give_backs"],
        run_at=row["run_at"],
        due=row["due"],
        lease=Lease(row["id"], row["lease_token"]) if row["lease_token"] else None,
        lease_expires_at=row["lease_expires_at"],
        worker_id=row["worker_id"] if row["lease_token"] else None,  # the row remembers its last one
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        updated_at=row["updated_at"],
    )
