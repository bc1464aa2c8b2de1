"""How long jobs stay once they are final, by state and owner: which of them are old enough to go."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from domain.job import JobId, JobStatus
from domain.policy import Kept, Policies

FINAL = tuple(status for status in JobStatus if status.final)


class PastJob(Struct, frozen=True):
    """What decides whether a job may go, as it was read. Another `number` says that something has happened since."""

    id: JobId
    owner_service: str
    status: JobStatus
    number: int
    created_at: datetime
    seq: int
    finished_at: datetime | None


class Walk(Struct, frozen=True):
    """Jobs to look at in the order of their creation: those of one state, or all of one owner.

    A job became final after it was created, so that whatever is old enough to go was created longer ago than that.
    """

    older_than: timedelta
    """Jobs created later need not be looked at."""
    status: JobStatus | None = None
    owner: str | None = None
    besides: frozenset[str] = frozenset()
    """Owners whose jobs another walk looks at."""

    def covers(self, job: PastJob) -> bool:
        return job.owner_service not in self.besides


class Retention(Struct, frozen=True):
    """What is kept how long; what an owner is not given of its own is kept as everybody's."""

    kept: Kept = {}
    """A state that is not named: forever."""
    owners: Mapping[str, Kept] = {}

    def of(self, owner: str, status: JobStatus) -> timedelta | None:
        """How long an owner's jobs stay that became final in this state. None: forever."""
        own = self.owners.get(owner, {})
        return own[status] if status in own else self.kept.get(status)

    def cut_off(self, owner: str, status: JobStatus, now: datetime) -> datetime | None:
        """Those go that became final then or before. None: none does."""
        kept = self.of(owner, status)
        return None if kept is None else now - kept

    def is_over(self, job: PastJob, now: datetime) -> bool:
        """Whether the job is old enough to go.

        Args:
            now: by the storage's clock, which said when the job became final.
        """
        if job.finished_at is None:
            return False
        cut_off = self.cut_off(job.owner_service, job.status, now)
        return cut_off is not None and job.finished_at <= cut_off

    def walks(self) -> list[Walk]:
        """Where to look for jobs that are old enough.

        An owner whose jobs go sooner than everybody's has a walk of its own: else all jobs of the time between would be
        looked at for its sake.
        """
        own = {owner: self._soonest(owner) for owner in self.owners if self._goes_sooner(owner)}
        return [
            *(Walk(older_than=older, owner=owner) for owner, older in own.items() if older is not None),
            *(
                Walk(older_than=kept, status=status, besides=frozenset(own))
                for status, kept in self.kept.items()
                if kept is not None
            ),
        ]

    def only(self, owners: Collection[str], statuses: Collection[JobStatus]) -> Retention:
        """The same for these owners and states; all others' jobs stay. An empty collection means all."""
        wanted = statuses or FINAL
        if owners:
            chosen = {owner: {status: self.of(owner, status) for status in wanted} for owner in owners}
            return Retention({}, chosen)
        return Retention(
            _among(self.kept, wanted), {owner: _among(kept, wanted) for owner, kept in self.owners.items()}
        )

    def at(self, age: timedelta) -> Retention:
        """This age instead of whatever is set; what is kept forever still is."""
        return replace(
            self,
            kept=_aged(self.kept, age),
            owners={owner: _aged(kept, age) for owner, kept in self.owners.items()},
        )

    def _soonest(self, owner: str) -> timedelta | None:
        return min((kept for status in FINAL if (kept := self.of(owner, status)) is not None), default=None)

    def _goes_sooner(self, owner: str) -> bool:
        return any(
            own is not None and (everybodys is None or own < everybodys)
            for own, everybodys in ((self.of(owner, status), self.kept.get(status)) for status in FINAL)
        )


def retention(kept: Kept, policies: Policies) -> Retention:
    """What holds for everybody, and what the policies of owners say instead."""
    return Retention(kept, {name: policy.retention for name, policy in policies.owners.items() if policy.retention})


def _among(kept: Kept, statuses: Collection[JobStatus]) -> Kept:
    return {status: time for status, time in kept.items() if status in statuses}


def _aged(kept: Kept, age: timedelta) -> Kept:
    return {status: None if time is None else age for status, time in kept.items()}
