"""A job store in memory: the domain's own transitions over a dictionary.

For tests and as the reference that the PostgreSQL store is compared with; nothing outlives the process.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count, islice
from math import ceil
from uuid import UUID, uuid4

from msgspec import Raw, Struct
from msgspec.structs import replace

from adapters.memory.queues import MemoryQueueStore
from adapters.memory.uploads import MemoryUploadStore
from domain.adaptive import OVERLOADS, Workload
from domain.circuit import Circuit, CircuitState
from domain.errors import (
    Failure,
    InvalidTransition,
    JobNotFound,
    KeyReused,
    LeaseLost,
    NoSuchUpload,
    TooManyPending,
)
from domain.events import JobEvent, Progress, Pulse, StatusChange
from domain.job import (
    Job,
    JobId,
    JobStatus,
    Lease,
    LeasedJob,
    LeaseToken,
    NewJob,
    Priority,
    RunEnd,
    RunOutcome,
    RunRecord,
    Settlement,
)
from domain.order import Lane, Line, choose, correct
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

LATELY = timedelta(minutes=5)
PATIENCE = timedelta(seconds=5)


class _EndedRun(Struct, frozen=True):
    lease: Lease
    record: RunRecord
    waited: timedelta


class _ClosingSlot(Struct, frozen=True):
    """A slot of a run that has lost its job, until its call is known to be closed."""

    line: str
    level: int
    owner: str
    charge: float
    started_at: datetime
    expires_at: datetime


class _Process(Struct, frozen=True):
    beat: WorkerBeat
    started_at: datetime
    seen_at: datetime


class MemoryJobStore:
    """Passes the same conformance suite as the PostgreSQL store. One event loop only."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._seq = count(1)
        self._jobs: dict[JobId, Job] = {}
        self._keys: dict[tuple[str, str], tuple[bytes, JobId]] = {}
        self._runs: defaultdict[JobId, list[_EndedRun]] = defaultdict(list)
        self._changes: defaultdict[JobId, list[StatusChange]] = defaultdict(list)
        self._progress: dict[JobId, Progress] = {}
        self._finished: list[tuple[str, JobStatus, datetime]] = []
        self._processes: dict[UUID, _Process] = {}
        self._lines: defaultdict[str, Line] = defaultdict(Line)
        self._weights: dict[tuple[str, int, str], float] = {}
        """As told with the jobs, by line, level and owner."""
        self._charges: dict[Lease, float] = {}
        self._closing: dict[Lease, _ClosingSlot] = {}
        self._trials: dict[str, Lease] = {}
        self._traces: dict[JobId, str] = {}
        self.queues = MemoryQueueStore(self)
        self.uploads = MemoryUploadStore(now, self._jobs)

    async def add(self, jobs: Sequence[NewJob], ceilings: Mapping[str, int] = NO_CEILINGS) -> list[Added]:
        if reused := self._with_anothers_key(jobs):
            raise KeyReused(reused)
        if lacking := [new.id for new in jobs if not self._is_known(new) and not self.uploads.usable(new)]:
            raise NoSuchUpload(lacking)
        self._must_have_room(jobs, ceilings)
        return [self._add(new) for new in jobs]

    async def get(self, job_id: JobId) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound from None

    async def pulses(self, job_ids: Sequence[JobId]) -> dict[JobId, Pulse]:
        return {job_id: self._pulse(job_id) for job_id in job_ids if job_id in self._jobs}

    async def runs(self, job_id: JobId) -> list[RunRecord]:
        ended = [run.record for run in self._runs[job_id]]
        job = self._jobs.get(job_id)
        if job is None or job.started_at is None or job.worker_id is None:
            return ended
        return [*ended, RunRecord(job.started_at, job.worker_id)]

    async def changes(self, job_id: JobId, after: int) -> list[StatusChange]:
        return [change for change in self._changes[job_id] if change.number > after]

    async def progress(self, job_id: JobId) -> Progress | None:
        return self._progress.get(job_id)

    async def find(self, listing: Listing) -> list[Job]:
        return [
            replace(
                job,
                input=job.input if listing.with_input else None,
                result=job.result if listing.with_result else None,
            )
            for job in islice(self._listed(listing), listing.limit)
        ]

    async def count(self, where: JobFilter) -> int:
        return sum(_matches(job, where) for job in self._jobs.values())

    async def ahead(self, job: Job) -> int:
        line = [each for each in self._ready() if each.line == job.line and each.level <= job.level]
        picks, _ = choose(self._weighed(job.line), _waiting(line), len(line))
        return next((place for place, pick in enumerate(picks) if pick.seq == job.seq), len(picks))

    async def prospect(self, job: Job, alive_within: timedelta) -> Prospect:
        [demand] = await self.demand([job.queue], alive_within) if job.queue else [None]
        return Prospect(await self.ahead(job), demand)

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        lost = frozenset(settlement.lease for settlement in settlements if not self._settle(settlement))
        return Exchange(self._claim(claim) if claim else (), lost)

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        lost = set()
        for held in leases:
            try:
                self._jobs[held.job_id] = (await self.get(held.job_id)).renew(held, self._now() + lease)
            except (JobNotFound, LeaseLost):
                lost.add(held)
                if slot := self._closing.get(held):
                    self._closing[held] = replace(slot, expires_at=self._now() + lease)
        return frozenset(lost)

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        orphans = [
            job.leased().release()
            for job in self._jobs.values()
            if (job.status, job.worker_id, job.queue) == (JobStatus.RUNNING, worker_id, queue)
            and job.lease_timeout is None
            and job.lease not in held
        ]
        return sum(self._settle(settlement) for settlement in orphans)

    async def claim(self, claim: ExternalClaim) -> list[Job]:
        claimed: list[Job] = []
        while len(claimed) < claim.limit:
            now, ready = self._now(), self._ready()
            spare = self._spare({job.owner_service for job in ready})
            fitting = [job for job in ready if _is_for(job, claim) and job.expire(now) is job]
            fitting = sorted((job for job in fitting if spare.get(job.owner_service, 1) > 0), key=_order)
            lines = list(dict.fromkeys(job.line for job in fitting))
            started = (self._claim_one(line, [job for job in fitting if job.line == line], claim) for line in lines)
            if not (job := next(filter(None, started), None)):
                break
            claimed.append(job)
        return claimed

    async def report(self, lease: Lease, progress: Raw | None) -> tuple[datetime, int]:
        job = self._jobs.get(lease.job_id)
        if job is None or job.lease_timeout is None:
            raise LeaseLost
        job = job.renew(lease, self._now() + job.lease_timeout)
        self._jobs[job.id] = job
        if progress is not None:
            self._note(job, progress)
        assert job.lease_expires_at is not None  # noqa: S101  # it was just renewed
        return job.lease_expires_at, job.number

    async def note_progress(self, lease: Lease, progress: Raw) -> int:
        job = self._jobs.get(lease.job_id)
        if job is None or job.lease != lease:
            raise LeaseLost
        self._note(job, progress)
        return job.number

    def _note(self, job: Job, progress: Raw) -> None:
        last = self._progress.get(job.id)
        report = last.report + 1 if last and last.number == job.number else 1
        self._progress[job.id] = Progress(job.number, report, self._now(), progress)
        self._jobs[job.id] = replace(job, progress=progress)

    async def run_end(self, lease: Lease) -> RunEnd | None:
        ended = (run.record for run in self._runs[lease.job_id] if run.lease == lease)
        return next((_end_of(record) for record in ended), None)

    async def cancel(
        self, job_ids: Sequence[JobId], failure: Failure, among: Sequence[JobStatus] | None = None
    ) -> list[JobEvent]:
        return self._move(job_ids, among, lambda job: job.cancel(self._now(), failure), RunOutcome.CANCELLED)

    async def retry(self, job_ids: Sequence[JobId], among: Sequence[JobStatus] | None = None) -> list[JobEvent]:
        return self._move(job_ids, among, lambda job: job.retry(self._now()), RunOutcome.RETRIED)

    async def erase(self, job_ids: Sequence[JobId]) -> list[JobId]:
        known = [self._jobs[job_id] for job_id in dict.fromkeys(job_ids) if job_id in self._jobs]
        erased = [job.id for job in known if job.status.final]
        for job_id in erased:
            for table in (self._jobs, self._runs, self._changes, self._progress, self._traces):
                table.pop(job_id, None)
        self._keys = {key: (mark, job_id) for key, (mark, job_id) in self._keys.items() if job_id not in erased}
        return erased

    async def walk(self, walk: Walk, after: Place | None, limit: int) -> Stretch:
        now = self._now()
        past = [
            job
            for job in sorted(self._jobs.values(), key=_created)
            if job.created_at <= now - walk.older_than
            and (after is None or _created(job) > (after.created_at, after.seq))
            and walk.status in (None, job.status)
            and walk.owner in (None, job.owner_service)
        ][:limit]
        last = Place(past[-1].created_at, past[-1].seq) if len(past) == limit else None
        return Stretch(now, tuple(map(_past, past)), last)

    async def prune(self, jobs: Sequence[PastJob]) -> list[JobId]:
        return await self.erase([job.id for job in jobs if job.id in self._jobs and _past(self._jobs[job.id]) == job])

    async def oldest_finished(self) -> dict[JobStatus, float]:
        first: defaultdict[JobStatus, list[datetime]] = defaultdict(list)
        for job in sorted(self._jobs.values(), key=_created):
            if job.finished_at and len(first[job.status]) < 100:
                first[job.status].append(job.finished_at)
        return {status: (self._now() - min(times)).total_seconds() for status, times in first.items()}

    async def promote_due(self) -> dict[str, int]:
        now = self._now()
        waiting = [job for job in self._jobs.values() if not job.due]
        promoted = [job for each in waiting if (job := each.promote(now)).due]
        self._jobs.update({job.id: job for job in promoted})
        return dict(Counter(job.queue for job in promoted if job.queue))

    async def route(self, bindings: Mapping[tuple[str, str], str]) -> dict[str, int]:
        waiting = [
            (job, queue) for job in self._jobs.values() if (queue := bindings.get((job.task_type, job.model_profile)))
        ]
        routed = [routed for job, queue in waiting if (routed := job.route(queue)) is not job]
        for job in routed:
            self._jobs[job.id] = job
            self._weigh(job, None)
        return dict(Counter(job.queue for job in routed if job.queue))

    async def rescue(self, terms: RescueTerms) -> list[JobEvent]:
        now = self._now()
        running = [job for job in self._jobs.values() if job.lease_expires_at]
        return [
            self._put(
                job,
                job.rescue(terms.max_crashes, terms.retry_delay, now),
                RunOutcome.CRASHED if job.lease_timeout is None else RunOutcome.EXPIRED,
            )
            for job in running
            if (job.lease_expires_at and job.lease_expires_at < now) or (terms.everyone and job.lease_timeout is None)
        ]

    async def preempt(self, queue: str, alive_within: timedelta) -> list[JobEvent]:
        state = self.queues.state(queue)
        if not state.policy.preempt or state.held:
            return []
        now = self._now()
        high = Counter(
            job.owner_service
            for job in self._ready()
            if job.queue == queue and job.priority is Priority.HIGH and not job.suspect and job.expire(now) is job
        )
        spare = self._spare(high)
        startable = sum(min(jobs, max(spare.get(owner, jobs), 0)) for owner, jobs in high.items())
        running = [job for job in self._jobs.values() if (job.queue, job.status) == (queue, JobStatus.RUNNING)]
        outside = sum(job.lease_timeout is not None for job in running)
        alone = {job.worker_id for job in self._jobs.values() if job.status is JobStatus.RUNNING and job.suspect}
        workers = [
            replace(worker, slots_per_queue=1) if worker.worker_id in alone else worker
            for worker in await self.workers(alive_within)
        ]
        slots = self._demand(queue, workers).slots + outside
        limit = slots if state.limit is None else min(slots, state.limit)
        closing = sum(slot.line == queue for slot in self._closing.values())
        wanted = startable - max(limit - self._busy(queue), 0) - closing
        lower = [job for job in running if job.level > Priority.HIGH]
        if share := state.policy.reserved_share:
            wanted = min(wanted, len(lower) - ceil(share * limit))
        low = [job for job in lower if job.priority is Priority.LOW and job.lease_timeout is None]
        low.sort(key=lambda job: (job.started_at, job.seq), reverse=True)
        return [self._put(job, job.preempt(now), RunOutcome.PREEMPTED) for job in low[: max(wanted, 0)]]

    async def expire_deadlines(self) -> list[JobEvent]:
        now = self._now()
        late = [job for job in self._jobs.values() if job.expire(now) is not job]
        return [self._put(job, job.expire(now), RunOutcome.CANCELLED) for job in late]

    async def age(self) -> int:
        raised = 0
        for job in self._ready():
            if ageing := self.queues.state(job.queue).policy.ageing:
                levels = (self._now() - _due_since(job)) // ageing
                target = max(1, job.priority - 2 * levels)
                if target < job.level:
                    self._jobs[job.id] = replace(job, level=target)
                    self._weigh(self._jobs[job.id], None)
                    raised += 1
        return raised

    async def free_abandoned_slots(self, steady: timedelta = NO_TIME) -> int:
        abandoned = [lease for lease, slot in self._closing.items() if slot.expires_at < self._now()]
        for lease in abandoned:
            self._free_closing(lease)
        return len(abandoned)

    async def tend_lines(self) -> None:
        pass

    async def tallies(self) -> list[Tally]:
        kinds = Counter(
            Tally(
                job.owner_service,
                job.queue,
                job.task_type,
                job.model_profile,
                job.priority,
                job.status,
                job.status is JobStatus.PENDING and job.due,
                job.failure.code if job.failure else None,
                0,
            )
            for job in self._jobs.values()
        )
        return [replace(kind, jobs=jobs) for kind, jobs in kinds.items()]

    async def finished(self) -> list[Finished]:
        now = self._now()
        lately: defaultdict[tuple[str, JobStatus], list[timedelta]] = defaultdict(list)
        for owner, status, at in self._finished:
            if now - at < timedelta(hours=1):
                lately[owner, status].append(now - at)
        return [
            Finished(*kind, *(sum(age < timedelta(minutes=minutes) for age in ages) for minutes in (1, 5, 60)))
            for kind, ages in lately.items()
        ]

    async def durations(self, owner: str | None) -> Durations:
        lately = [run for job, run in self._lately() if owner in (None, job.owner_service)]
        return Durations(
            waited=_quantiles([run.waited.total_seconds() for run in lately]),
            ran=_quantiles([_seconds(run.record) for run in lately]),
        )

    async def paces(self) -> list[Pace]:
        kinds: defaultdict[tuple[str | None, str, str], list[float]] = defaultdict(list)
        for job, run in self._lately():
            kinds[job.queue, job.task_type, job.model_profile].append(_seconds(run.record))
        return [Pace(*kind, len(took), sum(took) / len(took)) for kind, took in kinds.items()]

    async def oldest_due(self, owner: str | None) -> float | None:
        now = self._now()
        ready = self._ready()
        if owner:
            first = sorted((job for job in ready if job.owner_service == owner), key=_created)[:1]
        else:
            heads: dict[tuple[object, ...], Job] = {}
            for job in sorted(ready, key=_order):
                heads.setdefault((job.line, job.level, job.owner_service), job)
            first = list(heads.values())
        return max(((now - _due_since(job)).total_seconds() for job in first), default=None)

    async def fold_tallies(self) -> int:
        return 0

    async def workers(self, alive_within: timedelta) -> list[LiveWorker]:
        alive = [process for process in self._processes.values() if process.seen_at > self._now() - alive_within]
        return sorted(
            (
                LiveWorker(
                    worker_id=process.beat.worker_id,
                    host=process.beat.host,
                    queues=process.beat.queues,
                    slots_per_queue=process.beat.slots_per_queue,
                    running=process.beat.running,
                    started_at=process.started_at,
                    seen_at=process.seen_at,
                )
                for process in alive
            ),
            key=lambda worker: worker.worker_id,
        )

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        workers = await self.workers(alive_within)
        return [self._demand(queue, workers) for queue in queues]

    async def beat(self, beat: WorkerBeat) -> frozenset[str]:
        now = self._now()
        before = self._processes.get(beat.id)
        self._processes[beat.id] = _Process(beat, before.started_at if before else now, now)
        return frozenset(queue for queue in beat.queues if self.queues.state(queue).held is Hold.PAUSED)

    async def forget_worker(self, worker: UUID, older_than: timedelta) -> None:
        gone_before = self._now() - older_than
        self._processes = {
            id_: process for id_, process in self._processes.items() if id_ != worker and process.seen_at >= gone_before
        }

    async def ping(self) -> None:
        pass

    def now(self) -> datetime:
        return self._now()

    def busy(self) -> dict[str, int]:
        names = {job.queue for job in self._jobs.values() if job.queue}
        return {name: self._busy(name) for name in names}

    def completed_since(self, queue: str, since: datetime) -> bool:
        return any(
            run.record.outcome is RunOutcome.COMPLETED and run.record.ended_at and run.record.ended_at > since
            for job in self._jobs.values()
            if job.queue == queue
            for run in self._runs[job.id]
        )

    def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        since = self._now() - within
        ended = [
            run.record
            for job in self._jobs.values()
            if job.queue == queue
            for run in self._runs[job.id]
            if run.record.ended_at and run.record.ended_at > since
        ]
        alive = [each.beat for each in self._processes.values() if each.seen_at > self._now() - alive_within]
        return Workload(
            completed=sum(record.outcome is RunOutcome.COMPLETED for record in ended),
            overloads=sum(record.failure is not None and record.failure.code in OVERLOADS for record in ended),
            busy=self._busy(queue),
            due=min(sum(job.queue == queue for job in self._ready()), DEMAND_LIMIT),
            slots=sum(beat.slots_per_queue for beat in alive if queue in beat.queues),
        )

    def _busy(self, line: str) -> int:
        running = sum(job.status is JobStatus.RUNNING and job.line == line for job in self._jobs.values())
        return running + sum(slot.line == line for slot in self._closing.values())

    def _must_have_room(self, jobs: Sequence[NewJob], ceilings: Mapping[str, int]) -> None:
        new = {
            (each.owner_service, each.idempotency.key if each.idempotency else each.id)
            for each in jobs
            if not self._is_known(each)
        }
        for owner, more in Counter(owner for owner, _ in new).items():
            pending = sum((job.owner_service, job.status) == (owner, JobStatus.PENDING) for job in self._jobs.values())
            if owner in ceilings and pending + more > ceilings[owner]:
                raise TooManyPending(owner, ceilings[owner], more)

    def _is_known(self, new: NewJob) -> bool:
        key = (new.owner_service, new.idempotency.key) if new.idempotency else None
        return new.id in self._jobs or key in self._keys

    def _add(self, new: NewJob) -> Added:
        key = (new.owner_service, new.idempotency.key) if new.idempotency else None
        known = self._keys[key][1] if key in self._keys else new.id
        if known in self._jobs:
            return Added(replace(self._jobs[known], input=None, result=None), created=False)
        now = self._now()
        run_at = new.run_at or now
        job = new.stored(next(self._seq), run_at=run_at, due=run_at <= now, now=now)
        self._jobs[job.id] = job
        self._weigh(job, new.weight)
        self.uploads.use(new)
        if new.traceparent:
            self._traces[new.id] = new.traceparent
        self._changes[job.id].append(StatusChange(job.number, job.status, now))
        if key and new.idempotency:
            self._keys[key] = (new.idempotency.fingerprint, job.id)
        return Added(job, created=True)

    def _weigh(self, job: Job, weight: float | None) -> None:
        """None: it weighs what it did; a lane that was not there before, what its owner's others do."""
        line = self._lines[job.line]
        others = {
            level: known
            for (name, level, owner), known in self._weights.items()
            if (name, owner) == (job.line, job.owner_service)
        }
        if weight is None:
            weight = others.get(job.level, max(others.values(), default=1.0))
        self._weights[job.line, job.level, job.owner_service] = weight
        if (job.level, job.owner_service) not in {(lane.level, lane.owner) for lane in line.lanes}:
            self._lines[job.line] = replace(line, lanes=(*line.lanes, Lane(job.level, job.owner_service)))

    def _with_anothers_key(self, jobs: Sequence[NewJob]) -> list[JobId]:
        """Those whose key names another submission: one that is stored, or one before it among these."""
        marks: dict[tuple[str, str], bytes] = {}
        reused = []
        for new in jobs:
            if new.idempotency:
                key, mark = (new.owner_service, new.idempotency.key), new.idempotency.fingerprint
                stored, _ = self._keys.get(key, (mark, None))
                if marks.setdefault(key, stored) != mark:
                    reused.append(new.id)
        return reused

    def _pulse(self, job_id: JobId) -> Pulse:
        job, progress = self._jobs[job_id], self._progress.get(job_id)
        return Pulse(job.status, job.number, (progress.number, progress.report) if progress else (0, 0))

    def _listed(self, listing: Listing) -> Iterator[Job]:
        after = listing.after
        for job in sorted(self._jobs.values(), key=_created, reverse=listing.newest_first):
            place = _created(job)
            passed = after is None or (
                place < (after.created_at, after.seq) if listing.newest_first else place > (after.created_at, after.seq)
            )
            if passed and _matches(job, listing.where):
                yield job

    def _ready(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.status is JobStatus.PENDING and job.due]

    def _put(
        self, before: Job, after: Job, outcome: RunOutcome, attempts: tuple[ProviderAttempt, ...] = ()
    ) -> JobEvent:
        """Keep a job's new state, and what led to it."""
        self._jobs[after.id] = after
        if before.lease and before.lease != after.lease:
            self._leave_slot(before, before.lease, outcome)
        failure = after.failure if outcome in TELLING else None
        if before.lease and before.lease != after.lease and before.started_at and before.worker_id:
            record = RunRecord(before.started_at, before.worker_id, after.updated_at, outcome, failure, attempts)
            waited = before.started_at - _due_since(before)
            self._runs[after.id].append(_EndedRun(before.lease, record, waited))
        if after.number != before.number:
            self._changes[after.id].append(StatusChange(after.number, after.status, after.updated_at, failure))
            if after.finished_at:
                self._finished.append((after.owner_service, after.status, after.finished_at))
        return JobEvent.of(after, after.status, after.number)

    def _move(
        self,
        job_ids: Sequence[JobId],
        among: Sequence[JobStatus] | None,
        move: Callable[[Job], Job],
        outcome: RunOutcome,
    ) -> list[JobEvent]:
        events = []
        for job_id in dict.fromkeys(job_ids):
            job = self._jobs.get(job_id)
            if job is None or (among is not None and job.status not in among):
                continue
            try:
                moved = move(job)
            except InvalidTransition:
                continue
            if moved is not job:
                events.append(self._put(job, moved, outcome))
        return events

    def _settle(self, settlement: Settlement) -> bool:
        lease = settlement.lease
        self._free_closing(lease)
        try:
            job = self._jobs[lease.job_id]
            settled = job.settle(settlement, self._now())
        except (KeyError, LeaseLost):
            ended = (run.record.outcome for run in self._runs[lease.job_id] if run.lease == lease)
            return next(ended, None) is settlement.outcome
        self._put(job, settled, settlement.outcome, settlement.attempts)
        return True

    def _leave_slot(self, job: Job, lease: Lease, outcome: RunOutcome) -> None:
        """A run that ended frees its slot; one that was taken away keeps it until its call is closed."""
        assert job.started_at  # noqa: S101  # it was running
        assert job.lease_expires_at  # noqa: S101
        charge = self._charges.pop(lease, 0.0)
        slot = _ClosingSlot(job.line, job.level, job.owner_service, charge, job.started_at, job.lease_expires_at)
        self._closing[lease] = slot
        if outcome not in TAKEN_AWAY:
            self._free_closing(lease, completed=outcome is RunOutcome.COMPLETED)

    def _free_closing(self, lease: Lease, *, completed: bool = False) -> None:
        if slot := self._closing.pop(lease, None):
            cost = (self._now() - slot.started_at).total_seconds()
            line = self._weighed(slot.line)
            self._lines[slot.line] = correct(
                line, slot.level, slot.owner, charged=slot.charge, real=cost, completed=completed
            )

    def _start(self, job: Job, worker_id: str, lease: timedelta, charge: float, *, outside: bool) -> Job:
        now = self._now()
        started = job.claim(LeaseToken(uuid4()), worker_id, now + lease, now, lease if outside else None)
        self._put(job, started, RunOutcome.COMPLETED)
        assert started.lease  # noqa: S101  # it was just claimed
        self._charges[started.lease] = charge
        return started

    def _claim(self, claim: Claim) -> tuple[LeasedJob, ...]:
        fitting = [job for job in self._ready() if _is_served(job, claim)]
        limit = claim.limit
        if claim.alone:
            fitting = self._for_one_alone(claim.queue, fitting)
        else:
            fitting, limit = self._for_company(claim, fitting)
        started = self._claim_line(claim.queue, fitting, limit, claim.worker_id, claim.lease, outside=False)
        return tuple(replace(job.leased(), traceparent=self._traces.get(job.id), started_at=None) for job in started)

    def _for_one_alone(self, line: str, fitting: list[Job]) -> list[Job]:
        """The first suspect of the level that is next, or the jobs that are none."""
        state = self.queues.state(line)
        if state.circuit.state is CircuitState.HALF_OPEN:
            return fitting
        spare = self._spare({job.owner_service for job in fitting})
        open_ = [job for job in fitting if spare.get(job.owner_service, 1) > 0 and job.expire(self._now()) is job]
        picks, _ = choose(self._weighed(line), _waiting(open_), 1, reserved_share=state.policy.reserved_share)
        suspects = [job for job in open_ if job.suspect and picks and job.level == picks[0].level]
        return [min(suspects, key=_order)] if suspects else [job for job in fitting if not job.suspect]

    def _for_company(self, claim: Claim, fitting: list[Job]) -> tuple[list[Job], int]:
        """The jobs that are no suspects, and how many of them at most.

        Where a suspect has waited for a while, only the more urgent ones if this worker makes way for it; else a place
        in the queue stays free for it, and one of its owner's.
        """
        sound, limit = [job for job in fitting if not job.suspect], claim.limit
        suspects = [job for job in fitting if job.suspect]
        patient = [job for job in suspects if max(job.updated_at, job.run_at) < self._now() - PATIENCE]
        spare = self._spare({job.owner_service for job in fitting})
        full = {job.owner_service for job in patient if spare.get(job.owner_service, 2) <= 1}
        sound = [job for job in sound if job.owner_service not in full]
        open_ = [job for job in suspects if spare.get(job.owner_service, 1) > 0]
        first = min(open_, key=_order, default=None)
        if first is None or first not in patient:
            return sound, limit
        urgent = [job for job in sound if job.level < first.level]
        if urgent or self._makes_way(claim, first):
            return urgent, limit
        room = self.queues.state(claim.queue).limit
        return sound, limit if room is None else min(limit, room - self._busy(claim.queue) - 1)

    def _makes_way(self, claim: Claim, suspect: Job) -> bool:
        """Whether the worker is the one that must become free for a job without company."""
        now = self._now()
        serving = [
            (sum(process.beat.running.values()), process.beat.worker_id)
            for process in self._processes.values()
            if claim.queue in process.beat.queues
            and suspect.model_profile in process.beat.model_profiles
            and process.seen_at > now - PATIENCE
        ]
        return min(serving, default=(0, ""))[1] == claim.worker_id

    def _claim_one(self, line: str, fitting: list[Job], claim: ExternalClaim) -> Job | None:
        return next(iter(self._claim_line(line, fitting, 1, claim.worker_id, claim.lease, outside=True)), None)

    def _claim_line(
        self, line: str, fitting: list[Job], limit: int, worker_id: str, lease: timedelta, *, outside: bool
    ) -> list[Job]:
        now = self._now()
        fitting = [job for job in fitting if job.expire(now) is job]
        state = self.queues.state(line)
        room = limit if state.limit is None else min(limit, state.limit - self._busy(line))
        if state.held is Hold.PAUSED or state.circuit.state is CircuitState.OPEN or room <= 0 or not fitting:
            return []
        if state.circuit.state is CircuitState.HALF_OPEN:
            return self._try_one(line, fitting, state.circuit, worker_id, lease, outside=outside)
        jobs = {job.seq: job for job in fitting}
        ready = [job for job in self._ready() if job.line == line]
        picks, self._lines[line] = choose(
            self._weighed(line),
            _waiting(fitting),
            room,
            reserved_share=state.policy.reserved_share,
            spare=self._spare({job.owner_service for job in ready}),
            others=_lanes(job for job in ready if job.seq not in jobs),
        )
        return [self._start(jobs[pick.seq], worker_id, lease, pick.cost, outside=outside) for pick in picks]

    def _try_one(
        self, line: str, fitting: list[Job], circuit: Circuit, worker_id: str, lease: timedelta, *, outside: bool
    ) -> list[Job]:
        """Half open: one job, if none is tried: not the one that failed last, one of the sick server, if possible."""
        trial = self._trials.get(line)
        if trial and trial.job_id in self._jobs and self._jobs[trial.job_id].lease == trial:
            return []
        spare = self._spare({job.owner_service for job in fitting})
        fitting = [job for job in fitting if spare.get(job.owner_service, 1) > 0]
        if not fitting:
            return []
        nearest = sorted(fitting, key=lambda job: (job.level, job.owner_service, job.seq))
        sick = [job for job in nearest if job.model_profile == circuit.model_profile]
        well = [job for job in nearest if job.model_profile != circuit.model_profile]
        job = min(
            sick[:100] + well[:100],
            key=lambda job: (
                job.id == circuit.failed_job,
                job.model_profile != circuit.model_profile,
                job.give_backs,
                job.level,
                job.seq,
            ),
        )
        started = self._start(job, worker_id, lease, 0.0, outside=outside)
        assert started.lease  # noqa: S101  # it was just claimed
        self._trials[line] = started.lease
        started = self._jobs[job.id] = replace(started, trial=True)
        return [started]

    def _weighed(self, line: str) -> Line:
        """The line with the weights that are configured of owners."""
        known = self._lines[line]
        told = ((lane, self._weights[line, lane.level, lane.owner]) for lane in known.lanes)
        lanes = (replace(lane, weight=self.queues.owner(lane.owner).weight or weight) for lane, weight in told)
        return replace(known, lanes=tuple(lanes))

    def _spare(self, owners: Iterable[str]) -> dict[str, int]:
        limits = {owner: self.queues.owner(owner).max_running for owner in owners}
        running = Counter(job.owner_service for job in self._jobs.values() if job.status is JobStatus.RUNNING)
        running.update(slot.owner for slot in self._closing.values())
        return {owner: limit - running[owner] for owner, limit in limits.items() if limit is not None}

    def _lately(self) -> Iterator[tuple[Job, _EndedRun]]:
        since = self._now() - LATELY
        for job in self._jobs.values():
            for run in self._runs[job.id]:
                if run.record.ended_at and run.record.ended_at > since:
                    yield job, run

    def _demand(self, queue: str, workers: list[LiveWorker]) -> Demand:
        serving = [worker for worker in workers if queue in worker.queues]
        due = sum(job.queue == queue for job in self._ready())
        slots = sum(worker.slots_per_queue for worker in serving)
        busy = sum(worker.running.get(queue, 0) for worker in serving)
        state = self.queues.state(queue)
        room = None if state.limit is None else max(0, state.limit - self._busy(queue))
        return Demand(queue, min(due, DEMAND_LIMIT), slots, max(0, slots - busy), room, state.held)


TELLING = {
    RunOutcome.FAILED,
    RunOutcome.GIVEN_BACK,
    RunOutcome.EXPIRED,
    RunOutcome.CRASHED,
    RunOutcome.CANCELLED,
}
"""Outcomes of which the history tells why."""

TAKEN_AWAY = {RunOutcome.CANCELLED, RunOutcome.RETRIED, RunOutcome.PREEMPTED}
"""Outcomes that a run's holder does not know of yet."""


def _end_of(record: RunRecord) -> RunEnd | None:
    return RunEnd(record.outcome, record.failure.code if record.failure else None) if record.outcome else None


def _order(job: Job) -> tuple[int, int]:
    return job.level, job.seq


def _lanes(jobs: Iterable[Job]) -> set[tuple[int, str]]:
    return {(job.level, job.owner_service) for job in jobs}


def _waiting(jobs: Iterable[Job]) -> dict[tuple[int, str], list[int]]:
    waiting: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: job.seq):
        waiting[job.level, job.owner_service].append(job.seq)
    return dict(waiting)


def _created(job: Job) -> tuple[datetime, int]:
    return job.created_at, job.seq


def _past(job: Job) -> PastJob:
    return PastJob(job.id, job.owner_service, job.status, job.number, job.created_at, job.seq, job.finished_at)


def _due_since(job: Job) -> datetime:
    return max(job.run_at, job.created_at)


def _seconds(record: RunRecord) -> float:
    return (record.ended_at - record.started_at).total_seconds() if record.ended_at else 0.0


def _quantiles(values: Iterable[float]) -> Quantiles | None:
    ordered = sorted(values)
    if not ordered:
        return None
    return Quantiles(*(_quantile(ordered, part) for part in (0.5, 0.95, 0.99)))


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Interpolated between its neighbours, as PostgreSQL's `percentile_cont` does."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _is_served(job: Job, claim: Claim) -> bool:
    served = job.task_type in claim.task_types and job.model_profile in claim.model_profiles
    return served and job.queue == claim.queue


def _is_for(job: Job, claim: ExternalClaim) -> bool:
    wanted: tuple[tuple[tuple[str, ...] | None, str | None], ...] = (
        (claim.task_types, job.task_type),
        (claim.model_profiles, job.model_profile),
        (claim.owner_services, job.owner_service),
        (claim.queues, job.queue),
    )
    return all(values is None or value in values for values, value in wanted)


def _matches(job: Job, where: JobFilter) -> bool:
    wanted: tuple[tuple[Sequence[object], object], ...] = (
        (where.ids, job.id),
        (where.owner_service, job.owner_service),
        (where.owner_ref, job.owner_ref),
        (where.task_type, job.task_type),
        (where.model_profile, job.model_profile),
        (where.queue, job.queue),
        (where.status, job.status),
        (where.error_code, job.failure and job.failure.code),
        (where.priority, job.priority),
        (where.batch_id, job.batch_id),
        *((values, job.labels.get(name)) for name, values in where.labels),
    )
    return (
        all(not values or value in values for values, value in wanted)
        and (where.created_from is None or job.created_at >= where.created_from)
        and (where.created_before is None or job.created_at < where.created_before)
    )
