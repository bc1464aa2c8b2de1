"""What the domain needs from the outside. Adapters provide it; use cases are handed it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import UUID

from msgspec import Raw, Struct

from domain.adaptive import Adapted, Pressure, Workload
from domain.chat import ChatAnswer, ChatRequest
from domain.circuit import Circuit
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.errors import ErrorCode, Failure
from domain.events import JobEvent, Progress, Pulse, StatusChange
from domain.infra import Target
from domain.job import Job, JobId, JobStatus, Lease, LeasedJob, NewJob, Priority, RunEnd, RunRecord, Settlement
from domain.policy import Policies
from domain.queue import Hold, QueueState
from domain.retention import PastJob, Walk
from domain.speech import AudioSource, Recording, SpeechCall, Transcript
from domain.texts import TextPiece
from domain.upload import Upload


class Claim(Struct, frozen=True):
    """A request for jobs of one queue: the most urgent due ones that this worker can run, at most `limit` of them."""

    queue: str
    task_types: tuple[str, ...]
    model_profiles: tuple[str, ...]
    worker_id: str
    lease: timedelta
    limit: int
    alone: bool = False
    """Nothing else runs in the worker's process. Then, and only then, it may get a suspect (`Job.suspect`):
    before all others of its level, and no other beside it."""


class Exchange(Struct, frozen=True):
    """What came of settling ended runs and claiming new ones in one go."""

    claimed: tuple[LeasedJob, ...] = ()
    lost: frozenset[Lease] = frozenset()
    """Settlements whose run no longer held its job: they changed nothing."""
    refused: Mapping[Lease, str] = {}
    """Settlements that could not be stored, each with the reason. Their jobs are still running."""
    replaced: Mapping[Lease, Settlement] = {}
    """What was stored instead of a refused settlement."""


class ExternalClaim(Struct, frozen=True):
    """An external worker's request for jobs: the most urgent due ones among those that match. None matches any."""

    worker_id: str
    lease: timedelta
    limit: int = 1
    task_types: tuple[str, ...] | None = None
    model_profiles: tuple[str, ...] | None = None
    owner_services: tuple[str, ...] | None = None
    queues: tuple[str, ...] | None = None


class Added(Struct, frozen=True):
    """What came of storing one new job."""

    job: Job
    """Without input and result where it was there already."""
    created: bool


class JobFilter(Struct, frozen=True, kw_only=True):
    """Which jobs; several values of one field mean any of them, an empty field means all."""

    ids: tuple[JobId, ...] = ()
    owner_service: tuple[str, ...] = ()
    owner_ref: tuple[str, ...] = ()
    task_type: tuple[str, ...] = ()
    model_profile: tuple[str, ...] = ()
    queue: tuple[str, ...] = ()
    status: tuple[JobStatus, ...] = ()
    error_code: tuple[ErrorCode, ...] = ()
    priority: tuple[Priority, ...] = ()
    batch_id: tuple[UUID, ...] = ()
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Name and values; a job must match each name."""
    created_from: datetime | None = None
    created_before: datetime | None = None
    """Not itself included."""


class Place(Struct, frozen=True):
    """Where a list goes on: jobs are ordered by their creation, then by `seq`."""

    created_at: datetime
    seq: int


class Listing(Struct, frozen=True, kw_only=True):
    """Which jobs to read, in which order, and how much of each."""

    where: JobFilter = JobFilter()
    limit: int
    after: Place | None = None
    newest_first: bool = True
    with_input: bool = False
    with_result: bool = False


class Stretch(Struct, frozen=True):
    """A part of a walk over jobs that may be old enough to go."""

    now: datetime
    """By the storage's clock."""
    jobs: tuple[PastJob, ...]
    last: Place | None
    """Where the next part begins; None: there is none."""


class Tally(Struct, frozen=True):
    """How many jobs there are of one kind."""

    owner_service: str
    queue: str | None
    task_type: str
    model_profile: str
    priority: Priority
    status: JobStatus
    due: bool
    error_code: ErrorCode | None
    jobs: int


class Finished(Struct, frozen=True):
    """Jobs that became final in this state within the last minute, five minutes and hour."""

    owner_service: str
    status: JobStatus
    last_minute: int
    last_5_minutes: int
    last_hour: int


class Quantiles(Struct, frozen=True):
    """Seconds."""

    p50: float
    p95: float
    p99: float


class Durations(Struct, frozen=True):
    """How long the runs that ended lately waited and took: those of five minutes, at most the last 1,000."""

    waited: Quantiles | None
    """From when the job was due to the start; None where no run ended."""
    ran: Quantiles | None


class Pace(Struct, frozen=True):
    """How long runs of one kind take on average, and how many ended, of those that ended lately."""

    queue: str | None
    task_type: str
    model_profile: str
    runs: int
    run_seconds: float
    within: float = 300.0
    """Seconds that they ended in: less where so many did that only the last of them were looked at."""


class LiveWorker(Struct, frozen=True):
    """A built-in worker process that was heard of lately."""

    worker_id: str
    host: str
    queues: tuple[str, ...]
    slots_per_queue: int
    running: Mapping[str, int]
    """Jobs that it ran at its last beat, by queue."""
    started_at: datetime
    seen_at: datetime


class Demand(Struct, frozen=True):
    """What a queue has to do and who is free to do it."""

    queue: str
    due: int
    """Jobs that could start now; counted up to `DEMAND_LIMIT`."""
    slots: int
    """Slots of its live workers."""
    idle: int
    """Slots of them that run nothing."""
    room: int | None = None
    """Jobs that its limit lets start now; None: it has none."""
    held: Hold | None = None
    """Why nothing starts, whatever is free."""

    @property
    def startable(self) -> int:
        """Jobs that could start at this moment."""
        if self.held:
            return 0
        return min(self.due, self.idle if self.room is None else min(self.idle, self.room))


class Prospect(Struct, frozen=True):
    """What a pending job has before it."""

    ahead: int
    """As `JobStore.ahead` says."""
    demand: Demand | None
    """Of its queue, whose due jobs are not counted here; None where it has none."""


DEMAND_LIMIT = 1_000

NO_TIME = timedelta(0)


class RescueTerms(Struct, frozen=True):
    """Which workers count as dead, and what becomes of their jobs: see `Job.rescue`."""

    max_crashes: int
    retry_delay: timedelta
    """Before a job whose external worker let its lease run out is tried again."""
    steady: timedelta = NO_TIME
    """Only where the storage has been there without a gap for so long: else leases may have run out for want of it."""
    everyone: bool = False
    """No built-in worker can be alive."""


class WorkerBeat(Struct, frozen=True):
    """A built-in worker process saying that it lives."""

    id: UUID
    worker_id: str
    host: str
    queues: tuple[str, ...]
    slots_per_queue: int
    running: Mapping[str, int]
    """Jobs that it runs now, by queue."""
    model_profiles: tuple[str, ...]
    """What it can serve."""


NO_CEILINGS: Mapping[str, int] = {}


class Presence(Protocol):
    """Where worker processes say that they live.

    Every method raises `StorageUnavailable` while the storage cannot be reached.
    """

    async def beat(self, beat: WorkerBeat) -> frozenset[str]:
        """Note that a worker process lives. Returns those of its queues that are paused or stopped."""

    async def forget_worker(self, worker: UUID, older_than: timedelta) -> None:
        """Strike a worker process that has left, and those not heard of for `older_than`."""


class JobStore(Presence, Protocol):
    """Where jobs live. Its clock alone decides leases and `run_at`; every change is atomic.

    Every method raises `StorageUnavailable` while the storage cannot be reached; nothing is half done then.
    """

    async def add(self, jobs: Sequence[NewJob], ceilings: Mapping[str, int] = NO_CEILINGS) -> list[Added]:
        """Store new jobs, all or none, in the order given. Adding a job that is already there changes nothing.

        Args:
            ceilings: by owner, how many jobs may then be pending, where that is limited.

        Raises:
            KeyReused: an idempotency key names a job that was submitted otherwise.
            NoSuchUpload: a new job's upload is not there, or is another owner's.
            TooManyPending: they would be more than a ceiling allows.
        """

    async def get(self, job_id: JobId) -> Job:
        """The whole job.

        Raises:
            JobNotFound: there is none.
        """

    async def pulses(self, job_ids: Sequence[JobId]) -> dict[JobId, Pulse]:
        """How far those of these jobs are that exist."""

    async def runs(self, job_id: JobId) -> list[RunRecord]:
        """The runs of a job, oldest first; the one that goes on is the last."""

    async def changes(self, job_id: JobId, after: int) -> list[StatusChange]:
        """Its changes of state with higher numbers, in their order."""

    async def progress(self, job_id: JobId) -> Progress | None:
        """The last that a run of it reported."""

    async def find(self, listing: Listing) -> list[Job]:
        """Jobs in the order of their creation."""

    async def count(self, where: JobFilter) -> int:
        """How many jobs match."""

    async def ahead(self, job: Job) -> int:
        """How many due jobs would be claimed before this pending one: exact to 1,000, then an estimate."""

    async def prospect(self, job: Job, alive_within: timedelta) -> Prospect:
        """How it stands with this pending job, and who could serve it; `alive_within` as for `demand`."""

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        """Settle ended runs, then claim: one commit. A settlement that was stored before counts as stored.

        A settlement frees its run's slot of the queue, also where the run no longer holds its job.
        """

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        """Extend leases from now on. Returns those that are no longer current: their slots are kept until settled."""

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        """Give back this worker's running jobs of a queue that are not among `held`: their claim's answer was lost.

        Returns how many they were.
        """

    async def claim(self, claim: ExternalClaim) -> list[Job]:
        """Claim for an external worker; each job comes whole, with its lease."""

    async def report(self, lease: Lease, progress: Raw | None) -> tuple[datetime, int]:
        """Renew an external worker's lease, and keep its progress.

        Returns:
            When the lease now runs out, and the change of state that began the run.

        Raises:
            LeaseLost: the run no longer holds the job; nothing changes.
        """

    async def note_progress(self, lease: Lease, progress: Raw) -> int:
        """Keep the progress of a built-in worker's run; its lease stays as it is.

        Returns:
            The change of state that began the run.

        Raises:
            LeaseLost: the run no longer holds the job; nothing changes.
        """

    async def run_end(self, lease: Lease) -> RunEnd | None:
        """How this run ended; None while it goes on, or if there was none."""

    async def cancel(
        self, job_ids: Sequence[JobId], failure: Failure, among: Sequence[JobStatus] | None = None
    ) -> list[JobEvent]:
        """Cancel those of these jobs that are pending or running; the leases of their runs are revoked.

        Args:
            among: only those that are in one of these states at this moment; None: any.
        """

    async def retry(self, job_ids: Sequence[JobId], among: Sequence[JobStatus] | None = None) -> list[JobEvent]:
        """Start those of these jobs afresh that are failed, cancelled or running; `among` as for `cancel`."""

    async def erase(self, job_ids: Sequence[JobId]) -> list[JobId]:
        """Delete those of these jobs that are final, with everything that is known of them. Returns which they were."""

    async def walk(self, walk: Walk, after: Place | None, limit: int) -> Stretch:
        """Look at no more than so many jobs of a walk, final or not, from a place on; None: from the first."""

    async def prune(self, jobs: Sequence[PastJob]) -> list[JobId]:
        """As `erase`, but only those to which nothing has happened since they were read: neither a retry nor its end.

        All or none. Nobody waits for it: a job that somebody else holds at this moment is passed over.
        """

    async def oldest_finished(self) -> dict[JobStatus, float]:
        """For how many seconds the oldest jobs of each final state have been final.

        Of the hundred that were created first: cheap, and exact to how much the times that jobs take differ.
        """

    async def promote_due(self) -> dict[str, int]:
        """Make claimable what has become due. Returns how many by queue."""

    async def route(self, bindings: Mapping[tuple[str, str], str]) -> dict[str, int]:
        """Move due jobs without a queue to the one that their task type and model profile are bound to now.

        Only some of them at once, where there are many.

        Returns:
            How many by queue.
        """

    async def rescue(self, terms: RescueTerms) -> list[JobEvent]:
        """Take running jobs from dead workers: their leases ran out, or they are proven dead before that."""

    async def preempt(self, queue: str, alive_within: timedelta) -> list[JobEvent]:
        """Take slots from running low jobs for due high ones that find none free, where the queue's policy allows.

        Only from built-in workers, the run that began last first. The victims go back unharmed, in their old place.
        """

    async def expire_deadlines(self) -> list[JobEvent]:
        """Cancel jobs that were not started for the first time by their deadline."""

    async def age(self) -> int:
        """Raise the jobs that have waited so long that their queue's policy orders them as more urgent.

        Returns how many they were.
        """

    async def free_abandoned_slots(self, steady: timedelta = NO_TIME) -> int:
        """Free slots of runs whose end nobody will tell any more. Returns how many they were.

        Args:
            steady: as of `RescueTerms`.
        """

    async def tend_lines(self) -> None:
        """Set right what a crash or a race may have left: counts of busy slots, owners' places that nobody uses."""

    async def tallies(self) -> list[Tally]:
        """How many jobs there are of each kind."""

    async def finished(self) -> list[Finished]:
        """How many jobs became final lately, to within ten seconds of the periods."""

    async def durations(self, owner: str | None) -> Durations:
        """How long runs took lately; of one owner's jobs, or of all."""

    async def paces(self) -> list[Pace]:
        """How long runs of each kind took lately."""

    async def oldest_due(self, owner: str | None) -> float | None:
        """For how many seconds work has been waiting, or None where none is due.

        The longest that a first in line of any queue and priority has been due; of an owner: its oldest due job.
        """

    async def fold_tallies(self) -> int:
        """Sum up what has been noted of changes since the last time, so that reading tallies stays cheap.

        Returns:
            How many changes there were.
        """

    async def workers(self, alive_within: timedelta) -> list[LiveWorker]:
        """Worker processes whose last beat is younger."""

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        """What each of these queues has to do, with the workers whose last beat is younger than `alive_within`."""

    async def ping(self) -> None:
        """Return when the storage answers."""


class TableVitals(Struct, frozen=True):
    """Rows of one of our tables, as PostgreSQL estimates them."""

    live: int
    dead: int
    """That are gone, and take up room until VACUUM removes them."""


class StorageVitals(Struct, frozen=True, kw_only=True):
    """What tells early that PostgreSQL will become slow."""

    tables: Mapping[str, TableVitals]
    oldest_snapshot_seconds: float
    """Age of the oldest transaction that keeps VACUUM from removing rows; 0 where there is none, or none that we may
    see."""
    oldest_snapshot_transactions: int
    """The same in transactions, replication slots included."""
    size_bytes: int
    connections: int
    unfolded_changes: int
    """Changes of counts that are not added up yet; counted up to 100,000."""


class Vitals(Protocol):
    """What only operators ask of the storage.

    Every method raises `StorageUnavailable` while the storage cannot be reached.
    """

    async def vitals(self) -> StorageVitals: ...

    async def oldest_due(self) -> dict[str | None, float]:
        """For how many seconds the first in line of each queue has been due; those without a queue as None."""


class QueueStore(Protocol):
    """How queues are held, limited and guarded; beside the jobs, so that a claim obeys it.

    Every method raises `StorageUnavailable` while the storage cannot be reached.
    """

    async def states(self) -> list[QueueState]:
        """Every queue that is configured, was ever steered or has had jobs, in the order of their names."""

    async def configure(self, policies: Policies, queues: Sequence[str], *, only_new: bool = False) -> None:
        """Put policies in force; queues and owners that they do not name get the defaults.

        Args:
            queues: that exist, whether a policy names them or not.
            only_new: leave alone what is there already.
        """

    async def hold(self, queues: Sequence[str], *, paused: bool | None = None, stopped: bool | None = None) -> None:
        """Set or clear these flags; None leaves one as it is."""

    async def change_circuit(self, queue: str, change: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        """Change a queue's circuit while nobody else does. Returns what it is now.

        Args:
            change: is given the circuit as it is, and the storage's time.
        """

    async def completed_since(self, queue: str, since: datetime) -> bool:
        """Whether a run of the queue has completed since then."""

    async def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        """How the runs of the queue ended lately."""

    async def adapt(self, queue: str, adapted: Adapted | None) -> None:
        """Keep what the queue's model server was found to take, if its policy still asks for that; None: nothing."""


class UploadStore(Protocol):
    """Where uploaded files are kept in pieces, beside the jobs that use them.

    Every method raises `StorageUnavailable` while the storage cannot be reached.
    """

    async def append(self, upload_id: UUID, place: int, data: bytes) -> None:
        """Keep one piece of a file that is coming in; the places count from 0. It is no upload before it is finished.

        Pieces of what is not finished within an hour of the last one are pruned.
        """

    async def finish(self, upload_id: UUID, owner_service: str, *, chunks: int, size: int) -> Upload:
        """Make these pieces an upload.

        Raises:
            UploadNotFound: some have been pruned.
        """

    async def discard(self, upload_id: UUID) -> None:
        """Have the pieces of an unfinished one pruned now."""

    async def get(self, upload_id: UUID) -> Upload:
        """
        Raises:
            UploadNotFound.
        """

    def read(self, upload: Upload) -> AsyncIterator[bytes]:
        """Its content, piece by piece.

        Raises:
            UploadNotFound: it is gone, or goes meanwhile.
        """

    async def remove(self, upload_id: UUID) -> None:
        """Take an upload away, unless it is needed.

        Raises:
            UploadNotFound.
            UploadInUse: a job that is pending or running uses it.
        """

    async def prune(self) -> int:
        """Take away uploads that are no longer needed, and what is left of those that never came whole.

        No longer needed: its jobs are completed or cancelled, or erased; 24 hours after creation, where no job used it;
        24 hours after its last job ended, where one failed. Bounded: what is left waits for the next time.

        Returns:
            How many uploads were taken away.
        """


class Health(Protocol):
    """Asks model servers how they are, by means that cost them nothing."""

    async def answers(self, model_profile: str) -> bool:
        """Whether the server of the profile can be used at all; True where nobody knows how to ask it."""

    async def pressure(self, model_profile: str) -> Pressure | None:
        """What the server tells of its own load; None where it tells nothing."""


class ProviderState(Struct, frozen=True, kw_only=True):
    """How a model server answered when it was last asked."""

    reachable: bool
    """Whether it can be used at all, as far as can be told: one that is slow is not away."""
    trouble: str | None = None
    """What is wrong with it, in our words; they name no address."""
    latency: float | None = None
    """Seconds that its answer took; None: it gave none."""
    models: tuple[str, ...] | None = None
    """What it lists, the first of them; None: it lists nothing that could be read."""
    serves_model: bool | None = None
    """Whether it lists the model that the profile asks it for; None: it is no server of which that tells anything."""
    authorised: bool | None = None
    """Whether it takes our key; None: it was not asked for anything that needs one."""
    asked_at: datetime


class ProviderProbe(Protocol):
    """Asks model servers what they serve, by means that cost nothing."""

    async def status(self, model_profile: str) -> ProviderState:
        """How the server of the profile is; never raises. One that was asked moments ago is not asked again."""


class InfraProbe(Protocol):
    """Asks the machines behind the model servers how they are."""

    async def look(self) -> tuple[Target, ...]:
        """What every target tells, in bounded time; never raises. Those asked moments ago are not asked again.

        One that does not answer is among them with its error; it holds back no other.
        """


class Events(Protocol):
    """Tells of what happens to jobs, in this process and in others. A lost event is only a delay."""

    def publish(self, events: Sequence[JobEvent]) -> None:
        """Hand events over for delivery. Returns at once and never raises; may be called from any thread."""

    def listen(self, listener: Callable[[Sequence[JobEvent]], None], kinds: Collection[str] | None = None) -> None:
        """Call this with events as they come, on any thread. It must return at once and not raise.

        Args:
            kinds: only with these; None: with all.
        """


class Texts(Protocol):
    """Carries what runs answer, as they answer it, to whoever reads along. A lost piece is only a delay."""

    def send(self, pieces: Sequence[TextPiece]) -> None:
        """Hand pieces over for delivery. Returns at once and never raises; may be called from any thread."""

    def listen(self, listener: Callable[[Sequence[TextPiece]], None]) -> None:
        """Call this with pieces as they come, on any thread. It must return at once and not raise."""


class Leadership(Protocol):
    """One scheduler among several leads. A former leader that acts once more does no harm: its actions are guarded."""

    async def lead(self, holder: UUID, ttl: timedelta) -> timedelta | None:
        """Take or keep the lead.

        Returns:
            For how long somebody has led without a gap; None while another leads.
        """

    async def resign(self, holder: UUID) -> None:
        """Give the lead up at once, so that another need not wait for it to run out."""


class Tickets(Protocol):
    """Wakes workers: a ticket says "there may be work on this queue". A lost one costs time, never a job."""

    def publish(self, queue: str, count: int) -> None:
        """Hand tickets over for delivery. Returns at once and never raises."""

    async def waiting(self, queue: str) -> int | None:
        """Tickets that lie in the broker undelivered, or None while that cannot be known."""

    async def reachable(self) -> bool:
        """Whether the broker answers."""


class BrokerQueue(Struct, frozen=True):
    """What the broker holds of one of our queues: tickets, not jobs."""

    ready: int
    """Tickets that wait for an idle slot."""
    unacked: int
    """Tickets that a worker has, and has not acknowledged."""
    consumers: int
    """Worker processes that take its tickets."""


class BrokerState(Struct, frozen=True, kw_only=True):
    """What the broker told when it was last asked; None: it did not tell that, or does not tell it to us."""

    queues: Mapping[str, BrokerQueue] = {}
    """By their names. One that was declared moments ago may be missing; queues of others may be among them."""
    version: str | None = None
    nodes_up: int | None = None
    nodes_down: int | None = None
    memory_alarm: bool | None = None
    """Whether a node is short of memory, so that nothing can be published."""
    disk_alarm: bool | None = None
    """Whether a node is short of disk, with the same effect."""
    trouble: str | None = None
    """Why it told nothing, in our words; they name no address."""
    asked_at: datetime


class BrokerFigures(Protocol):
    """Asks the broker how it is. What it counts itself is some seconds old."""

    async def look(self) -> BrokerState | None:
        """How the broker is, in bounded time; never raises. One that was asked moments ago is not asked again.

        Returns:
            None where there is no broker, or nobody to ask about it.
        """


Tell = Callable[[str], None]
"""Hears an answer's text as it comes, piece by piece; it returns at once and never raises."""


def nobody(text: str) -> None:
    """Hears it for nobody."""


class ChatProvider(Protocol):
    """A chat model behind some API."""

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        """Ask it.

        Args:
            tell: is given the answer's text as it comes; all of it together is the answer's content.

        Raises:
            RunFailed: with the error code that its answer, or its silence, stands for.
        """


class EmbeddingProvider(Protocol):
    """An embedding model behind some API."""

    async def embed(self, request: EmbeddingRequest, job: LeasedJob) -> EmbeddingAnswer:
        """Ask it.

        Raises:
            RunFailed.
        """


class SpeechProvider(Protocol):
    """A speech model behind some API."""

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        """Have it transcribe the recording; times in the answer are those of this file, whatever it was cut from.

        Raises:
            RunFailed: `TooLong` where the server takes no file of this size or length.
        """


class Recordings(Protocol):
    """Takes recordings apart with a real decoder, in processes of its own: a file may be made to hurt it."""

    async def examine(self, path: Path) -> Recording:
        """What the file holds, and where somebody speaks.

        Raises:
            RunFailed: `bad_audio`: nothing that can be heard, or more than is allowed; `internal_error`: this machine
                cannot look.
        """

    async def split(self, recording: Recording, folder: Path) -> list[Recording]:
        """One file per channel; where there is only one channel, the recording itself.

        Raises:
            RunFailed: `bad_audio`.
        """

    async def cut(self, recording: Recording, folder: Path, *, longest: float, most_bytes: int) -> list[Recording]:
        """Pieces that begin and end in silence where there is some, none longer (in seconds) or larger than this.

        Raises:
            RunFailed: `bad_audio`.
            ValueError: not even a second fits.
        """


class AudioFiles(Protocol):
    """Fetches recordings from wherever they are."""

    async def fetch(self, source: AudioSource, owner_service: str, path: Path) -> None:
        """Write the recording into a file.

        Raises:
            RunFailed: `bad_input`, `dependency_error` or `timeout`: it is not there, too large, or may not be fetched.
        """


class Schemas(Protocol):
    """Knows JSON Schema."""

    def check(self, schema: object) -> None:
        """See that it is a JSON schema.

        Raises:
            BadInput: with the JSON pointer of what is wrong, from the schema's root.
        """

    async def misfit(self, schema: object, document: object) -> str | None:
        """Where the document does not fit the schema, without quoting it; None where it does."""
