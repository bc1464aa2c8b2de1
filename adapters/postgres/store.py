"""The job store in PostgreSQL. Statements live in `queries/` and `functions/`; this module feeds and reads them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg
import msgspec
import structlog
from msgspec import Raw

from adapters.postgres.adding import AddTogether
from adapters.postgres.errors import REFUSED
from adapters.postgres.listing import counting, listing
from adapters.postgres.pool import (
    DEADLOCK_TRIES,
    HEARTBEAT_TIMEOUT,
    STATEMENT_TIMEOUT,
    fetch,
    fetch_planned_for,
    query,
    transaction,
)
from adapters.postgres.rows import code_of, event_of, failure_of, job_of, leased_of, past_job_of
from adapters.postgres.together import ReadTogether, Together
from domain.errors import ErrorCode, Failure, JobNotFound, LeaseLost, StorageUnavailable
from domain.events import JobEvent, Progress, Pulse, StatusChange
from domain.job import (
    CRASHED,
    CRASHED_TOO_OFTEN,
    DEADLINE_PASSED,
    EXPIRED,
    WORKER_LEASE,
    Job,
    JobId,
    JobStatus,
    Lease,
    NewJob,
    Priority,
    RunEnd,
    RunOutcome,
    RunRecord,
    Settlement,
    line_of,
)
from domain.ports import (
    DEMAND_LIMIT,
    NO_CEILINGS,
    NO_TIME,
    Added,
    Claim,
    Demand,
    Durations,
    Exchange,
    ExternalClaim,
    Finished,
    JobFilter,
    Listing,
    LiveWorker,
    Pace,
    Place,
    Prospect,
    Quantiles,
    RescueTerms,
    Stretch,
    Tally,
    WorkerBeat,
)
from domain.queue import Hold
from domain.results import ProviderAttempt
from domain.retention import PastJob, Walk

log = structlog.get_logger()

SWEEP_LIMIT = 1_000
"""Jobs that one statement of promoting or rescuing moves at most: keeps its transaction short."""

FOLD_LIMIT = 50_000
"""Notes of changed counts that one statement sums up at most."""

SILENT = timedelta(seconds=2)
"""A worker whose lock is gone is dead once its last beat is so old: two beats, of which one may be lost."""

LANES_KEPT = timedelta(hours=1)
"""An owner's lane that nobody has used for so long is forgotten: it wakes where the others stand anyway."""

MOST_TOGETHER = 100
"""Questions of one kind that share a statement."""

COUNTED_AHEAD = 1_000
"""Up to so many jobs a position is counted; farther off it is estimated."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGINNING = Place(EPOCH, 0)
"""Every job was created after it."""

IN_ORDER = """
    SELECT
        set_config('plan_cache_mode', 'force_custom_plan', true),
        set_config('enable_seqscan', 'off', true),
        set_config('enable_bitmapscan', 'off', true)
"""
"""What walks along an index reads no further than it goes: not all that is left of the walk, to sort it each time."""

_attempts = msgspec.json.Decoder(tuple[ProviderAttempt, ...])

NO_CLAIM = Claim(queue="", task_types=(), model_profiles=(), worker_id="", lease=timedelta(0), limit=0)

EXCHANGE = "SELECT * FROM exchange_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
RESCUE = "SELECT * FROM rescue_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
PREEMPT = "SELECT * FROM preempt_jobs($1, $2)"
CLAIM = "SELECT job_id, lease_token FROM claim_for_external($1, $2, $3, $4, $5, $6, $7)"


class PostgresJobStore:
    """Speaks asyncpg on the hot path: one statement and one round trip per call."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._jobs = ReadTogether(self._get_all)
        self._new = AddTogether(pool)
        # Of each line that somebody asks about: to count a deep one takes long, and no other shall wait for it.
        self._prospects: WeakValueDictionary[str, Together[tuple[Job, timedelta], Prospect]] = WeakValueDictionary()

    async def add(self, jobs: Sequence[NewJob], ceilings: Mapping[str, int] = NO_CEILINGS) -> list[Added]:
        return await self._new.add(jobs, ceilings)

    async def get(self, job_id: JobId) -> Job:
        job = await self._jobs.get(job_id)
        if job is None:
            raise JobNotFound
        return job

    async def pulses(self, job_ids: Sequence[JobId]) -> dict[JobId, Pulse]:
        return {
            row["id"]: Pulse(JobStatus(row["status"]), row["number"], (row["run"], row["report"]))
            for row in await self._fetch("pulses", job_ids)
        }

    async def runs(self, job_id: JobId) -> list[RunRecord]:
        return [
            RunRecord(
                started_at=row["started_at"],
                worker_id=row["worker_id"],
                ended_at=row["ended_at"],
                outcome=RunOutcome(row["outcome"]) if row["outcome"] else None,
                failure=failure_of(row),
                attempts=_attempts.decode(row["attempts"]) if row["attempts"] else (),
            )
            for row in await self._fetch("runs", job_id)
        ]

    async def changes(self, job_id: JobId, after: int) -> list[StatusChange]:
        return [
            StatusChange(row["number"], JobStatus(row["status"]), row["at"], failure_of(row))
            for row in await self._fetch("changes", job_id, after)
        ]

    async def progress(self, job_id: JobId) -> Progress | None:
        rows = await self._fetch("progress", job_id)
        return next(
            (Progress(row["number"], row["report"], row["at"], Raw(row["progress"])) for row in rows),
            None,
        )

    async def find(self, listing_: Listing) -> list[Job]:
        return [job_of(row) for row in await fetch_planned_for(self._pool, *listing(listing_))]

    async def count(self, where: JobFilter) -> int:
        return int((await fetch_planned_for(self._pool, *counting(where)))[0]["jobs"])

    async def ahead(self, job: Job) -> int:
        return (await self._places([job]))[0]

    async def prospect(self, job: Job, alive_within: timedelta) -> Prospect:
        together = self._prospects.get(job.line)
        if together is None:
            together = self._prospects[job.line] = Together(self._prospects_of, most=MOST_TOGETHER)
        return await together.ask((job, alive_within))

    async def _prospects_of(self, asked: Sequence[tuple[Job, timedelta]]) -> list[Prospect]:
        wanted = {(job.queue, alive_within) for job, alive_within in asked if job.queue}
        places, demands = await asyncio.gather(self._places([job for job, _ in asked]), self._serving(wanted))
        return [
            Prospect(ahead, demands[job.queue, alive_within] if job.queue else None)
            for ahead, (job, alive_within) in zip(places, asked, strict=True)
        ]

    async def _serving(self, wanted: Set[tuple[str, timedelta]]) -> dict[tuple[str, timedelta], Demand]:
        return {
            (demand.queue, within): demand
            for within in {within for _, within in wanted}
            for demand in await self._demands(sorted(queue for queue, each in wanted if each == within), within, 0)
        }

    async def _places(self, jobs: Sequence[Job]) -> list[int]:
        alike: defaultdict[tuple[object, ...], dict[int, int]] = defaultdict(dict)
        for job in jobs:
            alike[_kind(job)][job.seq] = 0
        await asyncio.gather(*(self._look_ahead(kind, places) for kind, places in alike.items()))
        return [alike[_kind(job)][job.seq] for job in jobs]

    async def _look_ahead(self, kind: tuple[object, ...], places: dict[int, int]) -> None:
        """Set the places of jobs of one kind, by their seqs: all counted at once, those far off estimated at once."""
        lane, seqs = kind[:3], list(places)
        for seq, row in zip(seqs, await self._fetch("ahead", *lane, seqs, COUNTED_AHEAD + 1), strict=True):
            places[seq] = int(row["jobs"])
        if far := [seq for seq in seqs if places[seq] > COUNTED_AHEAD]:
            for seq, row in zip(far, await self._fetch("ahead_estimate", *lane, far, *kind[3:]), strict=True):
                places[seq] = max(COUNTED_AHEAD + 1, int(row["jobs"]))

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        if noted := [each for each in settlements if each.attempts]:
            await self._note_attempts(noted)
        try:
            rows = await self._run(EXCHANGE, [*_columns(settlements), *_claim_arguments(claim or NO_CLAIM)])
        except REFUSED as error:
            return await self._isolate(settlements, claim, error)
        return Exchange(
            claimed=tuple(leased_of(row) for row in rows if row["job_id"] is not None),
            lost=await self._not_stored_before(
                [settlements[row["lost"] - 1] for row in rows if row["lost"] is not None]
            ),
        )

    async def _note_attempts(self, settlements: Sequence[Settlement]) -> None:
        """Apart from the runs that they belong to, and before these are stored: few runs make several calls."""
        tokens, jobs = [each.lease.token for each in settlements], [each.lease.job_id for each in settlements]
        attempts = [msgspec.json.encode(each.attempts) for each in settlements]
        await self._fetch("note_attempts", tokens, jobs, attempts)

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        given = [[held.job_id for held in leases], [held.token for held in leases], lease]
        rows = await self._run(query("renew_leases"), given, within=HEARTBEAT_TIMEOUT)
        return frozenset(leases[row["place"] - 1] for row in rows)

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        rows = await self._fetch("release_orphans", worker_id, queue, [lease.token for lease in held])
        return sum(row["count"] for row in rows)  # none where there are no orphans

    async def claim(self, claim: ExternalClaim) -> list[Job]:
        given = [
            claim.worker_id,
            claim.lease,
            claim.limit,
            claim.task_types,
            claim.model_profiles,
            claim.owner_services,
            claim.queues,
        ]
        # Together: a claim whose jobs could not be read would hold them, for nobody, as long as its leases last; and
        # one that was taken back in between could be another's run by then.
        for tries_left in reversed(range(DEADLOCK_TRIES)):
            try:
                async with transaction(self._pool) as run:
                    claimed = await run(CLAIM, given)
                    rows = await run(query("get_jobs"), [[row["job_id"] for row in claimed]]) if claimed else []
                jobs = {row["id"]: job_of(row) for row in rows}
                return [jobs[row["job_id"]] for row in claimed]
            except StorageUnavailable as error:
                if not (tries_left and isinstance(error.__cause__, asyncpg.DeadlockDetectedError)):
                    raise
        raise AssertionError("a claim returns or raises")

    async def report(self, lease: Lease, progress: Raw | None) -> tuple[datetime, int]:
        told = None if progress is None else bytes(progress)
        rows = await self._run(query("report"), [lease.job_id, lease.token, told], within=HEARTBEAT_TIMEOUT)
        if not rows:
            raise LeaseLost
        return rows[0]["lease_expires_at"], rows[0]["number"]

    async def note_progress(self, lease: Lease, progress: Raw) -> int:
        rows = await self._fetch("note_progress", lease.job_id, lease.token, bytes(progress))
        if not rows:
            raise LeaseLost
        return int(rows[0]["number"])

    async def run_end(self, lease: Lease) -> RunEnd | None:
        rows = await self._fetch("run_outcomes", [lease.job_id], [lease.token])
        return next((RunEnd(RunOutcome(row["outcome"]), code_of(row)) for row in rows), None)

    async def cancel(
        self, job_ids: Sequence[JobId], failure: Failure, among: Sequence[JobStatus] | None = None
    ) -> list[JobEvent]:
        rows = await self._fetch("cancel_jobs", job_ids, failure.code, failure.message, among)
        return [event_of(row) for row in rows]

    async def retry(self, job_ids: Sequence[JobId], among: Sequence[JobStatus] | None = None) -> list[JobEvent]:
        return [event_of(row) for row in await self._fetch("retry_jobs", job_ids, among)]

    async def erase(self, job_ids: Sequence[JobId]) -> list[JobId]:
        return [row["id"] for row in await self._fetch("erase_jobs", job_ids)]

    async def walk(self, walk: Walk, after: Place | None, limit: int) -> Stretch:
        start = [(after or BEGINNING).created_at, (after or BEGINNING).seq, walk.older_than, limit]
        async with transaction(self._pool) as run:
            await run(IN_ORDER, [])
            if walk.owner is None:
                rows = await run(query("walk_state"), [walk.status, *start])
            else:
                rows = await run(query("walk_owner"), [walk.owner, *start])
        if not rows:
            return Stretch(EPOCH, (), None)
        jobs = tuple(past_job_of(row) for row in rows)
        last = Place(jobs[-1].created_at, jobs[-1].seq) if len(jobs) == limit else None
        return Stretch(rows[0]["now"], jobs, last)

    async def prune(self, jobs: Sequence[PastJob]) -> list[JobId]:
        async with transaction(self._pool) as run:
            await run("SELECT set_config('lock_timeout', '2s', true)", [])
            old = await run(query("lock_old_jobs"), [[job.id for job in jobs], [job.number for job in jobs]])
            rows = await run(query("erase_jobs"), [[row["id"] for row in old]])
        return [row["id"] for row in rows]

    async def oldest_finished(self) -> dict[JobStatus, float]:
        return {JobStatus(row["status"]): row["seconds"] for row in await self._fetch("oldest_finished")}

    async def route(self, bindings: Mapping[tuple[str, str], str]) -> dict[str, int]:
        rows = await self._fetch(
            "route_jobs", [line_of(*kind) for kind in bindings], list(bindings.values()), SWEEP_LIMIT
        )
        return {row["queue"]: row["jobs"] for row in rows}

    async def promote_due(self) -> dict[str, int]:
        promoted: Counter[str] = Counter()
        found = SWEEP_LIMIT
        while found == SWEEP_LIMIT:  # many jobs may become due together, as when a long outage ends
            rows = await self._fetch("promote_due", SWEEP_LIMIT)
            found = sum(row["jobs"] for row in rows)
            promoted.update({row["queue"]: row["jobs"] for row in rows if row["queue"]})
        return dict(promoted)

    async def rescue(self, terms: RescueTerms) -> list[JobEvent]:
        told = (CRASHED, CRASHED_TOO_OFTEN, EXPIRED.message)
        when = (SILENT, WORKER_LEASE, terms.steady, terms.everyone)
        given = [terms.max_crashes, ErrorCode.STALE_WORKER, *told, terms.retry_delay, *when, SWEEP_LIMIT]
        events = [event_of(row) for row in await self._run(RESCUE, given)]
        for queue, jobs in Counter(event.queue for event in events).items():
            log.warning("jobs rescued", queue=queue, jobs=jobs)
        return events

    async def preempt(self, queue: str, alive_within: timedelta) -> list[JobEvent]:
        events = [event_of(row) for row in await self._run(PREEMPT, [queue, alive_within])]
        if events:
            log.info("jobs preempted", queue=queue, jobs=len(events))
        return events

    async def expire_deadlines(self) -> list[JobEvent]:
        events: list[JobEvent] = []
        found = SWEEP_LIMIT
        while found == SWEEP_LIMIT:
            rows = await self._fetch("expire_deadlines", DEADLINE_PASSED.code, DEADLINE_PASSED.message, SWEEP_LIMIT)
            found = len(rows)
            events += [event_of(row) for row in rows]
        return events

    async def age(self) -> int:
        [row] = await self._fetch("age", SWEEP_LIMIT)
        return int(row["jobs"])

    async def free_abandoned_slots(self, steady: timedelta = NO_TIME) -> int:
        [row] = await self._run("SELECT free_abandoned_slots($1) AS slots", [steady])
        if row["slots"]:
            log.warning("abandoned slots freed", slots=row["slots"])
        return int(row["slots"])

    async def tend_lines(self) -> None:
        [row] = await self._run("SELECT tend_lines($1) AS wrong", [LANES_KEPT])
        if row["wrong"]:
            log.warning("busy slots counted anew", lines=row["wrong"])

    async def tallies(self) -> list[Tally]:
        return [
            Tally(
                owner_service=row["owner_service"],
                queue=row["queue"],
                task_type=row["task_type"],
                model_profile=row["model_profile"],
                priority=Priority(row["priority"]),
                status=JobStatus(row["status"]),
                due=row["due"],
                error_code=ErrorCode(row["error_code"]) if row["error_code"] else None,
                jobs=row["jobs"],
            )
            for row in await self._fetch("tallies")
        ]

    async def finished(self) -> list[Finished]:
        return [
            Finished(
                owner_service=row["owner_service"],
                status=JobStatus(row["status"]),
                last_minute=row["last_minute"],
                last_5_minutes=row["last_5_minutes"],
                last_hour=row["last_hour"],
            )
            for row in await self._fetch("finished")
        ]

    async def durations(self, owner: str | None) -> Durations:
        [row] = await self._fetch("durations", owner)
        return Durations(*(None if row[name] is None else Quantiles(*row[name]) for name in ("waited", "ran")))

    async def paces(self) -> list[Pace]:
        return [Pace(*row) for row in await self._fetch("paces")]

    async def oldest_due(self, owner: str | None) -> float | None:
        if owner is None:
            return max([row["seconds"] for row in await self._fetch("oldest_due_by_queue")], default=None)
        rows = await self._fetch("oldest_due_of_owner", owner)
        return rows[0]["seconds"] if rows else None

    async def fold_tallies(self) -> int:
        folded, changes = 0, FOLD_LIMIT
        while changes == FOLD_LIMIT:
            [row] = await self._fetch("fold_tallies", FOLD_LIMIT)
            changes = row["changes"]
            folded += changes
        return folded

    async def workers(self, alive_within: timedelta) -> list[LiveWorker]:
        return [
            LiveWorker(
                worker_id=row["worker_id"],
                host=row["host"],
                queues=tuple(row["queues"]),
                slots_per_queue=row["slots_per_queue"],
                running=msgspec.json.decode(row["running"], type=dict[str, int]),
                started_at=row["started_at"],
                seen_at=row["seen_at"],
            )
            for row in await self._fetch("workers", alive_within)
        ]

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        return await self._demands(queues, alive_within, DEMAND_LIMIT)

    async def _demands(self, queues: Sequence[str], alive_within: timedelta, counted: int) -> list[Demand]:
        # It follows a submit: whoever waits for that answer must not wait for a figure.
        rows = await self._run(query("demand"), [queues, alive_within, counted], within=HEARTBEAT_TIMEOUT)
        return [
            Demand(
                row["queue"],
                row["due"],
                row["slots"],
                row["idle"],
                row["room"],
                Hold(row["held"]) if row["held"] else None,
            )
            for row in rows
        ]

    async def beat(self, beat: WorkerBeat) -> frozenset[str]:
        running = msgspec.json.encode(beat.running).decode()
        given = [
            beat.id,
            beat.worker_id,
            beat.host,
            list(beat.queues),
            beat.slots_per_queue,
            running,
            list(beat.model_profiles),
        ]
        rows = await self._run(query("beat"), given, within=HEARTBEAT_TIMEOUT)
        return frozenset(row["name"] for row in rows)

    async def forget_worker(self, worker: UUID, older_than: timedelta) -> None:
        await self._fetch("forget_worker", worker, older_than)

    async def ping(self) -> None:
        await self._run("SELECT 1 FROM leader LIMIT 1", [])

    async def _get_all(self, job_ids: Sequence[JobId]) -> dict[JobId, Job]:
        return {row["id"]: job_of(row) for row in await self._fetch("get_jobs", job_ids)}

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
            "run_outcomes", [each.lease.job_id for each in lost], [each.lease.token for each in lost]
        )
        ended = {Lease(row["job_id"], row["lease_token"]): row["outcome"] for row in rows}
        return frozenset(each.lease for each in lost if ended.get(each.lease) != each.outcome)

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._run(query(name), arguments)

    async def _run(
        self, statement: str, arguments: Sequence[object], *, within: float = STATEMENT_TIMEOUT
    ) -> list[asyncpg.Record]:
        return await fetch(self._pool, statement, arguments, within=within)


def _kind(job: Job) -> tuple[object, ...]:
    """What `ahead` and `ahead_estimate` are asked about, beside the seqs."""
    kind = (None, None) if job.queue else (job.task_type, job.model_profile)
    return (job.line, job.level, job.owner_service, job.queue, *kind)


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
        claim.alone,
        claim.limit,
    ]


def _merged(first: Exchange, second: Exchange) -> Exchange:
    return Exchange(first.claimed + second.claimed, first.lost | second.lost, {**first.refused, **second.refused})
