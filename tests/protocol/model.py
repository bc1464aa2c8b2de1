"""The lease protocol as a model: one job, two workers with a slot each, and whatever can come between them.

What a worker does follows actors/desk.py and actors/runtime.py. A worker that is well renews its leases several times
within a tick, and hears then of what it has lost. One that is stopped takes no step, but time passes, and what it sent
before is done; then it goes on with whatever comes next. One that is cut off goes on, but nothing reaches the storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import ErrorCode
from domain.job import RunOutcome
from tests.protocol.storage import Storage, Store
from tests.protocol.transitions import (
    CANCELLED,
    COMPLETED,
    FAILED,
    GIVE_BACKS,
    LEASE,
    MAX_CRASHES,
    PENDING,
    RUNNING,
    Row,
)

START_WITHIN = 1
"""Ticks that may have passed since a job was claimed, or its lease renewed, when it is started."""

ENDINGS = (RunOutcome.COMPLETED, RunOutcome.FAILED, RunOutcome.GIVEN_BACK, RunOutcome.RELEASED)
"""How a run may end."""

FINAL = frozenset({COMPLETED, FAILED, CANCELLED})

GONE = 2
"""Holds the job in place of a worker process that is dead; 0 and 1 are those that live."""

NAMES = ("A", "B", "a dead worker")

# What a worker does with its slot.
IDLE = "idle"
SENT = "sent"
"""How its run ended is on its way to the storage, with the claim of the next job."""
ANSWERED = "answered"
"""It was done, and the answer is on its way."""
UNANSWERED = "unanswered"
"""The answer will not come: it does not know whether what it asked for was done."""
HOLDS = "holds"
"""It has found its lease fresh enough, and starts the run next."""
RUNS = "runs"
STOPPING = "stopping"
"""It has heard that its lease is lost, and the call is being closed."""

CALLING = (RUNS, STOPPING)

TAKEN = "taken"

WELL, STOPPED, CUT = "well", "stopped", "cut off"

REVOKED, WOKEN, MISTAKEN, TIDIED = "revoked", "woken", "mistaken", "tidied"
EXCUSES = {
    STOPPED: "it is stopped",
    CUT: "it is cut off",
    REVOKED: "the job was cancelled, retried or preempted just now",
    WOKEN: "it was stopped or cut off until just now",
    MISTAKEN: "its lock was lost just now, although it lives",
    TIDIED: "its own release of orphans came late, just now",
}
"""Why a worker may run a job that is not its own any more. "Just now": its next beat, within 2 s, tells it."""


class Worker(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    phase: str = IDLE
    token: int = 0
    """The lease that it holds, as far as it knows."""
    end: str = ""
    """How the run ended that is to be stored."""
    stored: bool = False
    """The answer: that is stored."""
    got: int = 0
    """The answer: the lease of the next job."""
    health: str = WELL
    heard: int = 0
    """Ticks since it asked for the job that it has not started yet, or renewed its lease."""
    excuse: str = ""


class Ghost(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """A statement on its way whose sender does not wait for it any more."""

    kind: str
    holder: int
    token: int
    end: str = ""


EXCHANGE, TIDY, RENEWAL = "exchange", "tidy", "renewal"


class State(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    store: Store
    workers: tuple[Worker, Worker]
    ghosts: tuple[Ghost, ...]
    faults: int
    """That may still happen."""
    hands: int
    """Manual retries and preemptions that may still happen."""
    wrong: str = ""
    """What the last step did that must not happen."""


Label = tuple[object, ...]
Step = tuple[Label, State]


class LeaseProtocol:
    def __init__(
        self,
        *,
        limit: int = 1,
        faults: int = 1,
        hands: int = 1,
        endings: tuple[RunOutcome, ...] = ENDINGS,
        kinds: frozenset[str] | None = None,
        storage: type[Storage] = Storage,
    ) -> None:
        """
        Args:
            limit: slots of the queue.
            faults: that happen at most.
            hands: manual retries and preemptions at most. A cancel is free: it ends the job, and only a retry goes on.
            endings: how runs may end.
            kinds: of faults; None: any.
        """
        self.limit = limit
        self.faults = faults
        self.hands = hands
        self.endings = endings
        self.kinds = FAULTS if kinds is None else kinds
        self.storage = storage(limit)

    def start(self) -> State:
        return State(Store(), (Worker(), Worker()), (), self.faults, self.hands)

    # What may happen.

    def steps(self, state: State) -> Iterator[Step]:
        before = state.store.job
        for label, after in self._all_steps(state):
            job = after.store.job
            if before.status in FINAL and job is not before and job != before and label[0] is not RETRIED:
                yield label, replace(after, wrong=f"a job that was {before.status} changed, and nobody retried it")
            elif after != state:
                yield label, after

    def _all_steps(self, state: State) -> Iterator[Step]:
        yield from self._of_scheduler(state)
        yield from self._of_people(state)
        for place, ghost in enumerate(state.ghosts):
            yield self._arrives(replace(state, ghosts=state.ghosts[:place] + state.ghosts[place + 1 :]), ghost)
        for me, worker in enumerate(state.workers):
            yield from self._of_worker(state, me, worker)
            if state.faults:
                faults = self._faults(replace(state, faults=state.faults - 1), me, worker)
                yield from (step for step in faults if step[0][0] in self.kinds)

    def _of_scheduler(self, state: State) -> Iterator[Step]:
        store, job = state.store, state.store.job
        yield (PASSES,), self._pass_time(state)
        if job.status == RUNNING:
            name, rescued = NAMES[job.holder], self.storage.rescue(store)
            if job.age >= LEASE:
                yield (RAN_OUT, job.token, name), replace(state, store=rescued)
            if job.holder == GONE or state.workers[job.holder].health == CUT:
                yield (LOCK_GONE, name, job.token), replace(state, store=rescued)
            elif state.faults and LOCK_LOST in self.kinds:
                mistaken = self._excuse(state, job.token, MISTAKEN)
                yield (LOCK_LOST, name, job.token), replace(mistaken, store=rescued, faults=state.faults - 1)
        for token, age in store.closing:
            if age >= LEASE:
                yield (ABANDONED, token), replace(state, store=self.storage.close_slot(store, token))
        if job.status == PENDING:
            yield (COMES_DUE,), replace(state, store=self.storage.promote(store))
            yield (TOO_LATE,), replace(state, store=self.storage.expire(store))

    def _of_people(self, state: State) -> Iterator[Step]:
        store, job = state.store, state.store.job
        revoked = self._excuse(state, job.token, REVOKED) if job.token else state
        if job.status in (PENDING, RUNNING):
            yield (CANCELS,), replace(revoked, store=self.storage.cancel(store))
        if state.hands and job.status in (FAILED, CANCELLED, RUNNING):
            yield (RETRIED,), replace(revoked, store=self.storage.retry(store), hands=state.hands - 1)
        if state.hands and job.status == RUNNING:
            yield (PREEMPTS, job.token), replace(revoked, store=self.storage.preempt(store), hands=state.hands - 1)

    def _of_worker(self, state: State, me: int, worker: Worker) -> Iterator[Step]:
        if worker.phase == SENT and worker.health != CUT:
            yield self._is_done(state, me, worker)
        if worker.health != WELL:
            excuse = WOKEN if _may_run(worker) else ""
            label = (GOES_ON if worker.health == STOPPED else CONNECTED, NAMES[me])
            yield label, self._put(state, me, replace(worker, health=WELL, excuse=excuse))
        if worker.health == WELL:
            yield from self._speak(state, me, worker)
        if worker.health != STOPPED:
            yield from self._run(state, me, worker)

    def _speak(self, state: State, me: int, worker: Worker) -> Iterator[Step]:
        """What needs a connection."""
        name = NAMES[me]
        if worker.token:
            label = RENEWS if worker.token == state.store.job.token else TOLD
            yield (label, name, worker.token), self._beat(state, me, worker)
        match worker.phase:
            case "idle":
                yield self._is_done(state, me, worker)
            case "answered":
                yield self._hears(state, me, worker)
            case "unanswered":
                store = self.storage.release_orphans(state.store, me, worker.token)
                # What is tidied up here it has never heard of: it needs no excuse.
                again = replace(worker, phase=SENT if worker.token else IDLE)
                yield (AGAIN, name), self._put(replace(state, store=store), me, again)
            case _:
                pass

    def _run(self, state: State, me: int, worker: Worker) -> Iterator[Step]:
        name = NAMES[me]
        match worker.phase:
            case "holds":
                yield (STARTS, name, worker.token), self._put(state, me, replace(worker, phase=RUNS, heard=0))
            case "runs":
                for end in self.endings:
                    # What a give-back does is decided by the worker, from what it was given.
                    free = worker.token != state.store.job.token or state.store.job.give_backs < GIVE_BACKS
                    if end is not RunOutcome.GIVEN_BACK or free:
                        yield (ENDS[end], name, worker.token), self._put(state, me, _ended(worker, end))
            case "stopping":
                yield (CLOSED, name, worker.token), self._put(state, me, _ended(worker, RunOutcome.RELEASED))
            case _:
                pass

    def _faults(self, state: State, me: int, worker: Worker) -> Iterator[Step]:
        if worker.phase == IDLE:
            return
        name = NAMES[me]
        renewal = self._haunted(state, RENEWAL, me, worker)
        yield (DIES, name), self._die(state, me)
        if worker.phase == SENT:
            request = self._haunted(state, EXCHANGE, me, worker)
            yield (DIES_ASKING, name), self._die(request, me)
            yield (REQUEST_LATER, name), self._put(request, me, replace(worker, phase=UNANSWERED))
            yield (REQUEST_LOST, name), self._put(state, me, replace(worker, phase=UNANSWERED))
        if worker.phase == ANSWERED:
            yield (ANSWER_LOST, name), self._put(state, me, _unanswered(worker))
        if worker.phase == UNANSWERED and worker.health == WELL:
            yield (TIDY_LATER, name), self._haunted(state, TIDY, me, worker)
        if worker.health == WELL:
            yield (STOPS, name), self._put(state, me, replace(worker, health=STOPPED))
            yield (LOSES, name), self._put(state, me, replace(worker, health=CUT))
            if worker.token:
                yield (LOSES_RENEWING, name), self._put(renewal, me, replace(worker, health=CUT))
                yield (DIES_RENEWING, name), self._die(renewal, me)

    # What that does.

    def may_start(self, worker: Worker) -> bool:
        return worker.heard <= START_WITHIN

    def _beat(self, state: State, me: int, worker: Worker) -> State:
        """Renew the lease; where it is lost, the run is stopped."""
        state = replace(state, store=self.storage.renew(state.store, worker.token))
        if state.store.job.token == worker.token:
            excuse = "" if worker.excuse == WOKEN else worker.excuse
            return self._put(state, me, replace(worker, heard=0, excuse=excuse))
        if worker.phase == RUNS:
            return self._put(state, me, replace(worker, phase=STOPPING))
        return self._put(state, me, _ended(worker, RunOutcome.RELEASED)) if worker.phase == HOLDS else state

    def _is_done(self, state: State, me: int, worker: Worker) -> Step:
        """What it asked for: its run's end is stored, and the next job claimed, in one commit."""
        store, stored, wrong = self._settle(state.store, worker.token, worker.end)
        store, got = self.storage.claim(store, me)
        phase = ANSWERED if worker.token or got else IDLE
        done = replace(worker, phase=phase, stored=stored, got=got, heard=0, excuse="" if got else worker.excuse)
        text = DONE if worker.token else ASKS
        label = (text + AND_GIVES, NAMES[me], got) if got else (text, NAMES[me])
        return label, self._put(replace(state, store=store, wrong=wrong), me, done)

    def _settle(self, store: Store, token: int, end: str) -> tuple[Store, bool, str]:
        """What the storage has then, whether the sender is told that it is stored, and what is wrong with that."""
        if not token:
            return store, False, ""
        after, stored = self.storage.settle(store, token, end)
        if token != store.job.token and after.job != store.job:
            return after, stored, "the end of a run was stored that did not hold the lease"
        if (token, end) in store.runs and not stored:
            return after, stored, "the end of a run is stored, and its worker is told that it is not"
        if stored and after.runs.count((token, end)) != 1:
            return after, stored, "a worker is told that its run's end is stored, and the history has it not, or twice"
        return after, stored, ""

    def _hears(self, state: State, me: int, worker: Worker) -> Step:
        name, token, got = NAMES[me], worker.token, worker.got
        text = (HEARS_STORED if worker.stored else HEARS_LOST) if token else HEARS
        if not got:
            return (text, name, token), self._put(state, me, Worker())
        if self.may_start(worker):
            holds = Worker(HOLDS, got, heard=worker.heard, excuse=worker.excuse)
            return (text + GETS, name, token, got), self._put(state, me, holds)
        refuses = Worker(SENT, got, str(RunOutcome.RELEASED))
        return (text + REFUSES, name, token, got), self._put(state, me, refuses)

    def _arrives(self, state: State, ghost: Ghost) -> Step:
        """A late statement is done; nobody hears its answer."""
        name = NAMES[ghost.holder]
        if ghost.kind == RENEWAL:
            return (LATE_RENEWAL, name, ghost.token), replace(state, store=self.storage.renew(state.store, ghost.token))
        if ghost.kind == TIDY:
            store = self.storage.release_orphans(state.store, ghost.holder, ghost.token)
            if store is not state.store:
                state = self._excuse(state, state.store.job.token, TIDIED)
            return (LATE_TIDY, name), replace(state, store=store)
        store, _, wrong = self._settle(state.store, ghost.token, ghost.end)
        store, got = self.storage.claim(store, ghost.holder)
        label = (LATE_EXCHANGE + AND_GIVES, name, got) if got else (LATE_EXCHANGE, name)
        return label, replace(state, store=store, wrong=wrong)

    def _pass_time(self, state: State) -> State:
        """A worker that is well renews several times within a tick: once at its end comes to the same."""
        first, second = state.workers
        state = replace(state, store=self.storage.pass_time(state.store), workers=(_older(first), _older(second)))
        for me in (0, 1):
            worker = state.workers[me]
            if worker.token and worker.health == WELL:
                state = self._beat(state, me, worker)
        return state

    def _die(self, state: State, me: int) -> State:
        """A fresh process takes its place."""
        store = state.store
        if store.job.status == RUNNING and store.job.holder == me:
            store = replace(store, job=replace(store.job, holder=GONE))
        ghosts = tuple(replace(ghost, holder=GONE) if ghost.holder == me else ghost for ghost in state.ghosts)
        return self._put(replace(state, store=store, ghosts=ghosts), me, Worker())

    def _haunted(self, state: State, kind: str, me: int, worker: Worker) -> State:
        end = worker.end if kind == EXCHANGE else ""
        return replace(state, ghosts=(*state.ghosts, Ghost(kind, me, worker.token, end)))

    def _excuse(self, state: State, token: int, excuse: str) -> State:
        for me, worker in enumerate(state.workers):
            if token in (worker.token, worker.got) and _may_run(worker) and worker.excuse != WOKEN:
                state = self._put(state, me, replace(worker, excuse=excuse))
        return state

    def _put(self, state: State, me: int, worker: Worker) -> State:
        return replace(state, workers=(state.workers[0], worker) if me else (worker, state.workers[1]))

    # What must hold.

    def wrong(self, state: State) -> str | None:
        return state.wrong or next(
            filter(None, (self._wrong_with_job(state.store), *self._wrong_with_calls(state))), None
        )

    def _wrong_with_job(self, store: Store) -> str | None:
        job = store.job
        running = job.status == RUNNING
        closing = len(store.closing)
        if bool(job.token) != running:
            return f"the job is {job.status} and has {'a' if job.token else 'no'} lease"
        if store.busy != running + closing:
            return f"{store.busy} slots are counted as busy; {int(running)} run, {closing} are being closed"
        if store.busy > self.limit:
            return f"{store.busy} slots are busy, and there are {self.limit}"
        if store.open != running:
            return f"{store.open} starts have no row in the history, and {int(running)} run goes on"
        if store.counts != (job.attempts, job.give_backs, job.crashes):
            told = f"{job.attempts} attempts, {job.give_backs} give-backs, {job.crashes} crashes"
            return f"the job counts {told}, and its history has {store.counts}"
        if any(former[0] == run[0] for former, run in pairwise(sorted(store.runs))):
            return f"the history has the end of a run twice: {store.runs}"
        if (job.status == FAILED and job.code == ErrorCode.STALE_WORKER) != (job.crashes >= MAX_CRASHES):
            return f"the job is {job.status} after {job.crashes} crashes"
        return None

    def _wrong_with_calls(self, state: State) -> Iterator[str | None]:
        store = state.store
        slots = {store.job.token, *(token for token, _ in store.closing)}
        for name, worker in zip(NAMES, state.workers, strict=False):
            if worker.phase in CALLING:
                if excuse_of(worker, store.job) is None:
                    yield f"{name} is well, and runs what was taken from it without having heard of it in time"
                if worker.health == WELL and worker.excuse in ("", REVOKED) and worker.token not in slots:
                    yield f"{name} is well, its call is open, and its slot counts as free"

    # Names.

    def canonical(self, state: State) -> State:
        first, second = _profile(state, 0), _profile(state, 1)
        if first == second:
            return min(_renamed(state), _renamed(_swapped(state)))
        return _renamed(_swapped(state) if first > second else state)


def excuse_of(worker: Worker, job: Row) -> str | None:
    """Why it may run the job: "" where that is its own; None where there is no excuse."""
    if worker.token == job.token:
        return ""
    return worker.health if worker.health != WELL else worker.excuse or None


def _ended(worker: Worker, end: RunOutcome) -> Worker:
    return replace(worker, phase=SENT, end=str(end), heard=0, excuse="")


def _unanswered(worker: Worker) -> Worker:
    return replace(worker, phase=UNANSWERED, stored=False, got=0, heard=0, excuse="")


def _may_run(worker: Worker) -> bool:
    """What it holds, or will be given: nobody needs an excuse for a call that is closed."""
    return worker.phase in (HOLDS, *CALLING) or bool(worker.got)


def _older(worker: Worker) -> Worker:
    return replace(worker, heard=min(worker.heard + 1, LEASE)) if worker.got or worker.phase == HOLDS else worker


def _profile(state: State, me: int) -> tuple[object, ...]:
    """What tells the workers apart, whatever tokens are called."""
    worker, job = state.workers[me], state.store.job
    return (
        job.status == RUNNING and job.holder == me,
        worker.token == job.token,
        worker.got == job.token,
        worker.phase,
        worker.end,
        worker.health,
        worker.excuse,
        worker.heard,
        worker.stored,
        bool(worker.token),
        bool(worker.got),
        [age for token, age in state.store.closing if token == worker.token],
        [outcome for token, outcome in state.store.runs if token == worker.token],
        [ghost.kind for ghost in state.ghosts if ghost.holder == me],
    )


def _swapped(state: State) -> State:
    store, first_to_last = state.store, state.workers[::-1]
    if store.job.status == RUNNING and store.job.holder != GONE:
        store = replace(store, job=replace(store.job, holder=1 - store.job.holder))
    ghosts = tuple(replace(ghost, holder=(1, 0, GONE)[ghost.holder]) for ghost in state.ghosts)
    return replace(state, store=store, ghosts=ghosts, workers=first_to_last)


def _renamed(state: State) -> State:
    """Tokens by the order in which they are met; history that nobody can ask for is left out."""
    store, (first, second), ghosts = state.store, state.workers, state.ghosts
    if len(ghosts) > 1:
        ghosts = tuple(sorted(ghosts, key=lambda ghost: (ghost.kind, ghost.holder, ghost.end, ghost.token)))
    names = {0: 0}
    for token in (store.job.token, first.token, first.got, second.token, second.got):
        names.setdefault(token, len(names))
    for ghost in ghosts:
        names.setdefault(ghost.token, len(names))
    asked_for = set(names)
    for token, _ in sorted(store.closing, key=lambda slot: slot[1]):
        names.setdefault(token, len(names))
    runs = tuple(sorted((names[token], _told(outcome)) for token, outcome in store.runs if token in asked_for))
    closing = tuple(sorted((names[token], age) for token, age in store.closing))
    if all(token == name for token, name in names.items()):
        if (runs, closing, ghosts) == (store.runs, store.closing, state.ghosts):
            return state
        return replace(state, store=replace(store, runs=runs, closing=closing), ghosts=ghosts)
    job = replace(store.job, token=names[store.job.token])
    return replace(
        state,
        store=replace(store, job=job, closing=closing, runs=runs),
        workers=(
            replace(first, token=names[first.token], got=names[first.got]),
            replace(second, token=names[second.token], got=names[second.got]),
        ),
        ghosts=tuple(replace(ghost, token=names[ghost.token]) for ghost in ghosts),
    )


def _told(outcome: str) -> str:
    """Who else took the job makes no difference to a worker that reports its run's end."""
    return outcome if outcome in ENDINGS else TAKEN


# What happens, in words.

PASSES = "7.5 s pass"
RAN_OUT = "the lease of run {} has run out: the job is taken from {}"
LOCK_GONE = "the lock of {} is gone: the job is taken from run {}"
LOCK_LOST = "{} lives and has lost its lock: the job is taken from run {}"
ABANDONED = "the slot of run {} was not renewed: it is free"
COMES_DUE = "the job's time has come"
TOO_LATE = "the job's deadline has passed"
CANCELS = "somebody cancels the job"
RETRIED = "somebody retries the job"
PREEMPTS = "a more urgent job takes the slot of run {}"
GOES_ON = "{} goes on"
CONNECTED = "{} is connected again"
STARTS = "{} starts run {}"
CLOSED = "{} has closed the call of run {}"
ASKS = "{} asks for a job"
DONE = "what {} sent is done"
AND_GIVES = ", and it is given run {}"
AGAIN = "{} releases what it does not know of, and sends again"
RENEWS = "{} renews run {}"
TOLD = "{} is told that run {} is not its own any more"
HEARS = "{0} hears of it"
HEARS_STORED = "{0} hears that the end of run {1} is stored"
HEARS_LOST = "{0} hears that run {1} had lost the job"
GETS = ", and finds the lease of run {2} fresh"
REFUSES = ", and hands run {2} back: its lease may be too old"
LATE_EXCHANGE = "a late request of {} is done"
LATE_TIDY = "a late release of what {} did not know of is done"
LATE_RENEWAL = "a late renewal of {}'s run {} is done"
DIES = "{} dies; a new process takes its place"
DIES_ASKING = "{} dies while its request is on its way; a new process takes its place"
DIES_RENEWING = "{} dies while its renewal is on its way; a new process takes its place"
STOPS = "{} is stopped"
LOSES = "{} is cut off"
LOSES_RENEWING = "{} is cut off while its renewal is on its way"
TIDY_LATER = "{}'s release of what it does not know of is delayed"
ANSWER_LOST = "the answer to {} is lost"
REQUEST_LOST = "{}'s request is lost"
REQUEST_LATER = "{}'s request is delayed, and it waits no longer"
ENDS = {
    RunOutcome.COMPLETED: "{}'s run {} completes",
    RunOutcome.FAILED: "{}'s run {} fails",
    RunOutcome.GIVEN_BACK: "{}'s run {} finds the model server busy",
    RunOutcome.RELEASED: "{}'s run {} is stopped by a shutdown",
}

FAULTS = frozenset(
    {
        *(LOCK_LOST, DIES, DIES_ASKING, DIES_RENEWING, STOPS, LOSES, LOSES_RENEWING),
        *(TIDY_LATER, ANSWER_LOST, REQUEST_LOST, REQUEST_LATER),
    }
)
WHIMS = FAULTS | {CANCELS, RETRIED, PREEMPTS, ENDS[RunOutcome.RELEASED]}
"""What nobody can rely on: the job must end without any of it, and need not while it goes on and on."""
