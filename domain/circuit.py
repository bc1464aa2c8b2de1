"""The circuit breaker of a queue: while its model server is sick, nothing is started and no job pays for it.

Closed, it counts runs that found nobody there. Open, nothing starts; the server's health address is asked now and then,
and once it answers, the circuit is half open: one job is tried, and its end decides.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure
from domain.job import JobId

FIRST_WAIT = timedelta(seconds=1)
LONGEST_PROBE_WAIT = timedelta(seconds=5)
"""Between two questions to a health address: they cost a sick server nothing."""
LONGEST_TRIAL_WAIT = timedelta(seconds=60)
"""Between two jobs that are tried: each costs a job one of its give-backs."""


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Sign(StrEnum):
    """What the end of a run shows of the model server behind the queue."""

    ANSWERED = "answered"
    """It did its work, or said what is wrong with this job."""
    MISSED = "missed"
    """This run found nobody there, although the health address answers."""
    DOWN = "down"
    """Neither the run nor the health address found anybody."""
    REFUSED = "refused"
    """It takes nothing from us: a wrong key, or an exhausted quota."""
    NONE = "none"
    """Nothing either way: the run took too long, or failed for another reason."""


TELLING = frozenset({Sign.MISSED, Sign.DOWN, Sign.REFUSED})
"""Signs of trouble; others are of no interest, unless a run was let through a half-open circuit."""


class Report(Struct, frozen=True):
    """A sign of a run's end, and whose run that was."""

    sign: Sign
    job_id: JobId
    model_profile: str
    failure: Failure | None = None
    trial: bool = False
    """Whether the run was let through a half-open circuit."""


class Circuit(Struct, frozen=True):
    """Of one queue."""

    state: CircuitState = CircuitState.CLOSED
    reason: ErrorCode | None = None
    """Why it is open."""
    message: str = ""
    model_profile: str | None = None
    """Whose server is sick."""
    opened_at: datetime | None = None
    probe_at: datetime | None = None
    """Not before this is the server asked again."""
    probes: int = 0
    """How often its health address was asked in vain since the circuit opened."""
    trials: int = 0
    """How often a job was tried in vain since then."""
    missed: tuple[JobId, ...] = ()
    """The jobs of the latest consecutive runs that found nobody there: no more than it takes to open."""
    missed_at: datetime | None = None
    """When the first of them did."""
    failed_job: JobId | None = None
    """The one that failed last: another is tried first."""

    def heard(self, report: Report, threshold: int, now: datetime) -> Circuit:
        """What a run's end makes of it.

        While it is not closed only the run that was let through counts: others were started before it opened.
        """
        if self.state is not CircuitState.CLOSED:
            return self._tried(report, now) if report.trial else self
        match report.sign:
            case Sign.ANSWERED:
                return replace(self, missed=(), missed_at=None)
            case Sign.MISSED:
                # Of two jobs at least, whatever the threshold: one alone may be what the server chokes on.
                missed = (*self.missed, report.job_id)[-max(threshold, 2) :]
                if len(missed) >= threshold and len(set(missed)) > 1:
                    return self._open(report, now)
                return replace(self, missed=missed, missed_at=self.missed_at or now)
            case Sign.DOWN | Sign.REFUSED:
                return self._open(report, now)
            case Sign.NONE:
                return self

    def probed(self, now: datetime, *, healthy: bool) -> Circuit:
        """The health address was asked."""
        if self.state is not CircuitState.OPEN:
            return self
        return replace(self, state=CircuitState.HALF_OPEN) if healthy else self._probed_in_vain(now)

    def to_be_probed(self, now: datetime) -> bool:
        return self.state is CircuitState.OPEN and (self.probe_at is None or self.probe_at <= now)

    def _tried(self, report: Report, now: datetime) -> Circuit:
        if report.sign is Sign.ANSWERED:
            return Circuit()
        blamed = self if report.sign is Sign.NONE else self._open(report, now)
        tried = replace(
            blamed,
            state=CircuitState.OPEN,
            opened_at=self.opened_at,
            probes=self.probes,
            trials=self.trials,
            failed_job=report.job_id,
        )
        return tried._probed_in_vain(now) if report.sign is Sign.DOWN else tried._tried_in_vain(now)

    def _open(self, report: Report, now: datetime) -> Circuit:
        return Circuit(
            state=CircuitState.OPEN,
            reason=report.failure.code if report.failure else ErrorCode.PROVIDER_UNAVAILABLE,
            message=report.failure.message if report.failure else "",
            model_profile=report.model_profile,
            opened_at=now,
            probe_at=now + FIRST_WAIT,
            failed_job=report.job_id,
        )

    def _probed_in_vain(self, now: datetime) -> Circuit:
        probes = self.probes + 1
        return replace(self, probes=probes, probe_at=now + _back_off(probes, LONGEST_PROBE_WAIT))

    def _tried_in_vain(self, now: datetime) -> Circuit:
        trials = self.trials + 1
        return replace(self, trials=trials, probe_at=now + _back_off(trials, LONGEST_TRIAL_WAIT))


def _back_off(failures: int, longest: timedelta) -> timedelta:
    return min(FIRST_WAIT * (1 << min(failures, 10)), longest)


def sign_of(failure: Failure | None, *, healthy: bool) -> Sign:
    """What a run that ended so shows of its server.

    Args:
        failure: None where it completed.
        healthy: whether the health address answered right after it; asked only where nobody was there.
    """
    match failure and failure.code:
        case ErrorCode.PROVIDER_UNAVAILABLE:
            return Sign.MISSED if healthy else Sign.DOWN
        case ErrorCode.AUTH_ERROR | ErrorCode.QUOTA_EXHAUSTED:
            return Sign.REFUSED
        case code if code in SILENT:
            return Sign.NONE
        case _:
            return Sign.ANSWERED


SILENT = frozenset(
    {
        ErrorCode.CANCELLED,
        ErrorCode.TIMEOUT,
        ErrorCode.DEPENDENCY_ERROR,
        ErrorCode.STORAGE_ERROR,
        ErrorCode.STALE_WORKER,
        ErrorCode.INTERNAL_ERROR,
        ErrorCode.UNKNOWN,
        # A recording is looked at before any server hears it.
        ErrorCode.BAD_AUDIO,
    }
)
"""Codes that say nothing of whether the server does its work."""
