"""What PostgreSQL holds of one job and its line, and what each statement does to it in one commit.

The job moves by the domain's transitions; slots, history and what is answered follow adapters/postgres: settle_jobs,
claim_line, rescue_jobs, free_abandoned_slots, preempt_jobs, cancel_jobs, retry_jobs, renew_leases, release_orphans.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from domain.job import RunOutcome
from tests.protocol import transitions
from tests.protocol.transitions import LEASE, PENDING, RUNNING, Row

COUNTED = (RunOutcome.COMPLETED, RunOutcome.FAILED)


class Store(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    job: Row = Row()
    busy: int = 0
    """The line's counter."""
    closing: tuple[tuple[int, int], ...] = ()
    """Slots of runs that lost the job, until their calls are known to be closed: token, and ticks since renewed."""
    runs: tuple[tuple[int, str], ...] = ()
    """The history: token and outcome. Kept of tokens that somebody may still report."""
    open: int = 0
    """Starts that have no row in the history."""
    counts: tuple[int, int, int] = (0, 0, 0)
    """Rows since the last manual retry: finished or failed, given back, crashed."""


class Storage:
    """The statements. Each may be replaced, to see that the checks miss what it does."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: slots of the line.
        """
        self.limit = limit

    def claim(self, store: Store, holder: int) -> tuple[Store, int]:
        """Returns the new lease's token; 0 where there is no job or no slot."""
        job = store.job
        if job.status != PENDING or not job.due or store.busy >= self.limit:
            return store, 0
        token = 1 + max([0, *_tokens(store)])
        started = transitions.claimed(job, token, holder)
        return replace(store, job=started, busy=store.busy + 1, open=store.open + 1), token

    def settle(self, store: Store, token: int, end: str) -> tuple[Store, bool]:
        """Returns whether the sender is told that it is stored. Either way the run's slot is free."""
        if store.job.token != token:
            return self.settle_late(self.close_slot(store, token), token, end)
        after = self.record(store, token, transitions.settled(store.job, token, end), end)
        return replace(after, busy=max(after.busy - 1, 0)), True

    def settle_late(self, store: Store, token: int, end: str) -> tuple[Store, bool]:
        """The token is not the job's: if the history has this end of it, it is a repetition."""
        return store, (token, end) in store.runs

    def renew(self, store: Store, token: int) -> Store:
        """The lease, or the slot of a call that is being closed. It is lost where the token is not the job's."""
        if store.job.token == token:
            return replace(store, job=transitions.renewed(store.job, token))
        closing = tuple((each, 0 if each == token else age) for each, age in store.closing)
        return replace(store, closing=closing)

    def release_orphans(self, store: Store, holder: int, known: int) -> Store:
        """Release what this worker holds without having heard of it."""
        job = store.job
        if job.status != RUNNING or job.holder != holder or job.token == known:
            return store
        return self.settle(store, job.token, RunOutcome.RELEASED)[0]

    def rescue(self, store: Store) -> Store:
        """The worker must be dead: its slot is free at once."""
        after = self.record(store, store.job.token, transitions.rescued(store.job), RunOutcome.CRASHED)
        return replace(after, busy=max(after.busy - 1, 0))

    def cancel(self, store: Store) -> Store:
        return self._take_away(store, transitions.cancelled(store.job), RunOutcome.CANCELLED)

    def retry(self, store: Store) -> Store:
        after = self._take_away(store, transitions.retried(store.job), RunOutcome.RETRIED)
        return replace(after, counts=(0, 0, 0))

    def preempt(self, store: Store) -> Store:
        return self._take_away(store, transitions.preempted(store.job), RunOutcome.PREEMPTED)

    def promote(self, store: Store) -> Store:
        return replace(store, job=transitions.promoted(store.job))

    def expire(self, store: Store) -> Store:
        return replace(store, job=transitions.expired(store.job))

    def close_slot(self, store: Store, token: int) -> Store:
        left = tuple(slot for slot in store.closing if slot[0] != token)
        freed = len(store.closing) - len(left)
        return replace(store, closing=left, busy=max(store.busy - freed, 0)) if freed else store

    def leave_slot(self, store: Store, token: int, age: int) -> Store:
        """The slot of a run that was taken away stays taken until its call is closed."""
        return replace(store, closing=(*store.closing, (token, age)))

    def record(self, store: Store, token: int, job: Row, outcome: str) -> Store:
        """The job's new state, and a row of the history that says what led to it."""
        finished, given_back, crashed = store.counts
        return replace(
            store,
            job=job,
            runs=(*store.runs, (token, str(outcome))),
            open=store.open - 1,
            counts=(
                finished + (outcome in COUNTED),
                given_back + (outcome == RunOutcome.GIVEN_BACK),
                crashed + (outcome == RunOutcome.CRASHED),
            ),
        )

    def pass_time(self, store: Store) -> Store:
        job = store.job
        if job.status == RUNNING:
            job = replace(job, age=min(job.age + 1, LEASE))
        closing = tuple((token, min(age + 1, LEASE)) for token, age in store.closing)
        return replace(store, job=job, closing=closing)

    def _take_away(self, store: Store, job: Row, outcome: RunOutcome) -> Store:
        token, age = store.job.token, store.job.age
        if not token:
            return replace(store, job=job)
        return self.leave_slot(self.record(store, token, job, outcome), token, age)


def _tokens(store: Store) -> Iterator[int]:
    yield store.job.token
    yield from (token for token, _ in store.closing)
    yield from (token for token, _ in store.runs)
