from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Raw
from msgspec.structs import asdict, replace

from domain.errors import ErrorCode, Failure, InvalidTransition, LeaseLost
from domain.job import (
    CANCELLED_BY_CALLER,
    EXPIRED,
    IdempotencyKey,
    Job,
    JobStatus,
    Lease,
    LeaseToken,
    RunOutcome,
    Settlement,
    crash,
)
from tests.factories import LEASE, NOW, leased_job, new_job, new_lease, running_job, stored_job

LATER = NOW + timedelta(minutes=1)
WAIT = timedelta(seconds=30)
TIMED_OUT = Failure(ErrorCode.TIMEOUT, "No answer within 5 minutes.")
MAX_CRASHES = 3
RETRY_DELAY = timedelta(seconds=7)

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = JobStatus

IN_STATE: dict[JobStatus, Callable[[], Job]] = {
    PENDING: stored_job,
    RUNNING: running_job,
    COMPLETED: lambda: stored_job(status=COMPLETED, attempts=1, result=Raw(b"{}"), finished_at=NOW),
    FAILED: lambda: stored_job(status=FAILED, attempts=3, failure=TIMED_OUT, finished_at=NOW),
    CANCELLED: lambda: stored_job(status=CANCELLED, failure=CANCELLED_BY_CALLER, finished_at=NOW),
}


def external_run(**changes: Any) -> Job:
    """A job that an external worker runs."""
    return running_job(lease_timeout=LEASE, **changes)


def a_lease_of(job: Job) -> Lease:
    """Its own, or one that it may have had before."""
    return job.lease or new_lease(job.id)


def completed(lease: Lease) -> Settlement:
    return Settlement(lease, RunOutcome.COMPLETED, COMPLETED, result=b'{"answer": 42}')


def tried_again(lease: Lease) -> Settlement:
    return Settlement(lease, RunOutcome.FAILED, PENDING, failure=TIMED_OUT, delay=WAIT)


def failed_for_good(lease: Lease) -> Settlement:
    return Settlement(lease, RunOutcome.FAILED, FAILED, failure=TIMED_OUT)


def given_back(lease: Lease) -> Settlement:
    return Settlement(lease, RunOutcome.GIVEN_BACK, PENDING, failure=Failure(ErrorCode.RATE_LIMITED), delay=WAIT)


def released(lease: Lease) -> Settlement:
    return Settlement(lease, RunOutcome.RELEASED, PENDING)


FENCED: dict[str, Callable[[Job, Lease], Job]] = {
    "renew": lambda job, lease: job.renew(lease, LATER + LEASE),
    "complete": lambda job, lease: job.settle(completed(lease), LATER),
    "try again": lambda job, lease: job.settle(tried_again(lease), LATER),
    "fail for good": lambda job, lease: job.settle(failed_for_good(lease), LATER),
    "give back": lambda job, lease: job.settle(given_back(lease), LATER),
    "release": lambda job, lease: job.settle(released(lease), LATER),
}


def by_its_holder(event: str) -> Callable[[Job], Job]:
    return lambda job: FENCED[event](job, a_lease_of(job))


EVENTS: dict[str, Callable[[Job], Job]] = {
    **{event: by_its_holder(event) for event in FENCED},
    "claim": lambda job: job.claim(LeaseToken(uuid4()), "worker-2", LATER + LEASE, LATER),
    "rescue": lambda job: job.rescue(MAX_CRASHES, RETRY_DELAY, LATER),
    "cancel": lambda job: job.cancel(LATER),
    "retry": lambda job: job.retry(LATER),
    "promote": lambda job: job.promote(LATER),
}

ENDINGS = [event for event in EVENTS if event not in {"claim", "renew", "promote"}]

Ending = JobStatus | type[Exception]

MOVES: dict[str, tuple[Ending, Ending, Ending, Ending, Ending]] = {
    # from:         pending            running            completed          failed             cancelled
    "claim":         (RUNNING,           InvalidTransition, InvalidTransition, InvalidTransition, InvalidTransition),
    "renew":         (LeaseLost,         RUNNING,           LeaseLost,         LeaseLost,         LeaseLost),
    "complete":      (LeaseLost,         COMPLETED,         LeaseLost,         LeaseLost,         LeaseLost),
    "try again":     (LeaseLost,         PENDING,           LeaseLost,         LeaseLost,         LeaseLost),
    "fail for good": (LeaseLost,         FAILED,            LeaseLost,         LeaseLost,         LeaseLost),
    "give back":     (LeaseLost,         PENDING,           LeaseLost,         LeaseLost,         LeaseLost),
    "release":       (LeaseLost,         PENDING,           LeaseLost,         LeaseLost,         LeaseLost),
    "rescue":        (InvalidTransition, PENDING,           InvalidTransition, InvalidTransition, InvalidTransition),
    "cancel":        (CANCELLED,         CANCELLED,         InvalidTransition, InvalidTransition, CANCELLED),
    "retry":         (InvalidTransition, PENDING,           InvalidTransition, PENDING,           PENDING),
    "promote":       (PENDING,           RUNNING,           COMPLETED,         FAILED,            CANCELLED),
}  # fmt: skip

CASES = {
    f"{event} a {status} job": (event, status, ending)
    for event, endings in MOVES.items()
    for status, ending in zip(JobStatus, endings, strict=True)
}
ALLOWED = {name: (event, status) for name, (event, status, ending) in CASES.items() if isinstance(ending, JobStatus)}


def test_the_table_of_moves_names_every_event_once():
    assert MOVES.keys() == EVENTS.keys()


@pytest.mark.parametrize(("event", "status", "ending"), CASES.values(), ids=CASES)
def test_each_event_in_each_state_ends_as_the_table_says(event: str, status: JobStatus, ending: Ending):
    job = IN_STATE[status]()
    if isinstance(ending, JobStatus):
        assert EVENTS[event](job).status is ending
    else:
        with pytest.raises(ending):
            EVENTS[event](job)


@pytest.mark.parametrize(("event", "status"), ALLOWED.values(), ids=ALLOWED)
def test_whatever_happens_the_fields_of_a_job_agree_with_its_state(event: str, status: JobStatus):
    job = EVENTS[event](IN_STATE[status]())
    assert (job.lease is not None) == (job.lease_expires_at is not None) == (job.worker_id is not None)
    assert (job.lease is not None) == (job.status is RUNNING)
    assert (job.finished_at is not None) == job.status.final
    assert job.result is None or job.status is COMPLETED


@pytest.mark.parametrize(("event", "status"), ALLOWED.values(), ids=ALLOWED)
def test_every_change_of_state_and_nothing_else_takes_the_next_number(event: str, status: JobStatus):
    job = replace(IN_STATE[status](), number=7)
    counted = event not in {"renew", "promote"} and (event, status) != ("cancel", CANCELLED)
    assert EVENTS[event](job).number == 7 + counted


@pytest.mark.parametrize("event", ENDINGS)
def test_the_end_of_an_external_workers_run_leaves_nothing_of_its_claim(event: str):
    assert EVENTS[event](external_run()).lease_timeout is None


def changed(before: Job, after: Job) -> dict[str, Any]:
    return {name: value for name, value in asdict(after).items() if value != getattr(before, name)}


def test_a_claim_starts_a_run_and_keeps_what_the_last_one_left():
    token = LeaseToken(uuid4())
    job = stored_job(failure=TIMED_OUT, attempts=1, crashes=1, give_backs=2)
    assert changed(job, job.claim(token, "worker-2", LATER + LEASE, LATER)) == {
        "status": RUNNING,
        "number": 2,
        "lease": Lease(job.id, token),
        "lease_expires_at": LATER + LEASE,
        "worker_id": "worker-2",
        "started_at": LATER,
        "updated_at": LATER,
    }


def test_an_external_workers_claim_says_how_long_its_renewals_last():
    job = stored_job()
    run = job.claim(LeaseToken(uuid4()), "theirs", LATER + LEASE, LATER, LEASE)
    assert (run.lease_timeout, job.claim(LeaseToken(uuid4()), "ours", LATER + LEASE, LATER).lease_timeout) == (
        LEASE,
        None,
    )


def test_a_job_that_is_not_due_cannot_be_claimed():
    with pytest.raises(InvalidTransition):
        EVENTS["claim"](stored_job(run_at=LATER, due=False))


def test_a_renewal_moves_the_end_of_the_lease_only():
    job = running_job()
    assert changed(job, EVENTS["renew"](job)) == {"lease_expires_at": LATER + LEASE}


ENDED = {"number": 3, "lease": None, "lease_expires_at": None, "worker_id": None, "updated_at": LATER}
"""What the end of a run changes in any case: it is the third change of state, after submission and start."""


def test_a_completion_is_an_attempt_and_clears_the_last_failure():
    job = running_job(attempts=1, failure=TIMED_OUT)
    assert changed(job, EVENTS["complete"](job)) == {
        **ENDED,
        "status": COMPLETED,
        "attempts": 2,
        "result": Raw(b'{"answer": 42}'),
        "failure": None,
        "finished_at": LATER,
    }


def test_a_failure_for_good_is_an_attempt_and_says_why():
    job = running_job(attempts=2)
    assert changed(job, EVENTS["fail for good"](job)) == {
        **ENDED,
        "status": FAILED,
        "attempts": 3,
        "failure": TIMED_OUT,
        "finished_at": LATER,
    }


def test_a_failure_to_be_tried_again_is_an_attempt_and_waits():
    job = running_job()
    assert changed(job, EVENTS["try again"](job)) == {
        **ENDED,
        "status": PENDING,
        "attempts": 1,
        "failure": TIMED_OUT,
        "run_at": LATER + WAIT,
        "due": False,
    }


def test_a_job_given_back_waits_uncounted_and_keeps_the_code():
    job = running_job(attempts=1, give_backs=4)
    assert changed(job, EVENTS["give back"](job)) == {
        **ENDED,
        "status": PENDING,
        "give_backs": 5,
        "failure": Failure(ErrorCode.RATE_LIMITED),
        "run_at": LATER + WAIT,
        "due": False,
    }


def test_a_released_job_is_as_it_was():
    job = running_job(attempts=1, give_backs=4, crashes=1, failure=TIMED_OUT)
    assert changed(job, EVENTS["release"](job)) == {**ENDED, "status": PENDING}


def test_a_failure_without_a_wait_is_due_at_once():
    job = running_job()
    again = job.settle(Settlement(a_lease_of(job), RunOutcome.FAILED, PENDING, failure=TIMED_OUT), LATER)
    assert again.due
    assert again.run_at == job.run_at


def test_a_rescued_job_goes_back_at_once_uncounted():
    job = running_job(attempts=1, give_backs=4)
    assert changed(job, EVENTS["rescue"](job)) == {
        **ENDED,
        "status": PENDING,
        "crashes": 1,
        "failure": crash(1, hopeless=False),
    }


def test_a_job_whose_worker_dies_too_often_fails_as_stale_worker():
    job = running_job(crashes=MAX_CRASHES - 1)
    failed = EVENTS["rescue"](job)
    assert changed(job, failed) == {
        **ENDED,
        "status": FAILED,
        "crashes": MAX_CRASHES,
        "failure": crash(MAX_CRASHES, hopeless=True),
        "finished_at": LATER,
    }
    assert failed.failure is not None
    assert failed.failure.code is ErrorCode.STALE_WORKER


def test_an_external_lease_that_ran_out_is_a_failed_attempt_tried_again_later():
    job = external_run(attempts=1, crashes=1, give_backs=4)
    assert changed(job, EVENTS["rescue"](job)) == {
        **ENDED,
        "lease_timeout": None,
        "status": PENDING,
        "attempts": 2,
        "failure": EXPIRED,
        "run_at": LATER + RETRY_DELAY,
        "due": False,
    }


def test_an_external_lease_that_ran_out_on_the_last_attempt_fails_the_job():
    job = external_run(attempts=2, max_attempts=3)
    assert changed(job, EVENTS["rescue"](job)) == {
        **ENDED,
        "lease_timeout": None,
        "status": FAILED,
        "attempts": 3,
        "failure": EXPIRED,
        "finished_at": LATER,
    }


def test_an_external_worker_that_vanishes_is_no_crash_however_often():
    job = external_run(crashes=MAX_CRASHES - 1)
    assert EVENTS["rescue"](job).crashes == MAX_CRASHES - 1


def test_a_built_in_worker_that_dies_burns_no_attempt_even_the_last():
    job = running_job(attempts=2, max_attempts=3)
    rescued = EVENTS["rescue"](job)
    assert (rescued.status, rescued.attempts, rescued.due) == (PENDING, 2, True)


def test_a_cancelled_run_is_no_attempt():
    job = running_job(attempts=1, failure=TIMED_OUT)
    assert changed(job, EVENTS["cancel"](job)) == {
        **ENDED,
        "status": CANCELLED,
        "failure": CANCELLED_BY_CALLER,
        "finished_at": LATER,
    }


def test_cancelling_twice_changes_nothing():
    job = IN_STATE[CANCELLED]()
    assert job.cancel(LATER) is job


@pytest.mark.parametrize("status", [PENDING, RUNNING])
def test_whoever_cancels_may_say_why(status: JobStatus):
    too_late = Failure(ErrorCode.CANCELLED, "Its deadline passed.")
    assert IN_STATE[status]().cancel(LATER, too_late).failure == too_late


def test_the_first_reason_of_a_cancellation_stands():
    job = stored_job().cancel(LATER, Failure(ErrorCode.CANCELLED, "Its deadline passed."))
    assert job.cancel(LATER, CANCELLED_BY_CALLER) is job


@pytest.mark.parametrize("status", [RUNNING, FAILED, CANCELLED])
def test_a_manual_retry_starts_afresh_in_the_old_place(status: JobStatus):
    counts = {"attempts": 2, "crashes": 2, "give_backs": 10}
    before = {"status": status, "run_at": LATER + LEASE, "due": False, "failure": TIMED_OUT, **counts}
    job = IN_STATE[status]()
    again = stored_job(**{**asdict(job), **before, "deadline_at": LATER + LEASE}).retry(LATER)
    assert again == stored_job(
        id=job.id,
        seq=job.seq,
        number=job.number + 1,
        input=job.input,
        run_at=LATER,
        started_at=job.started_at,
        updated_at=LATER,
    )


@pytest.mark.parametrize("event", [*FENCED, "rescue", "cancel"])
def test_only_a_retry_by_hand_lifts_the_deadline(event: str):
    assert EVENTS[event](running_job(deadline_at=LATER)).deadline_at == LATER


def test_a_retry_by_hand_keeps_what_the_job_is_known_by():
    marks = {"labels": {"team": "red"}, "batch_id": uuid4(), "owner_ref": "call/7", "progress": Raw(b"{}")}
    again = stored_job(status=FAILED, finished_at=NOW, **marks).retry(LATER)
    assert {name: getattr(again, name) for name in marks} == marks


def test_a_job_is_promoted_from_the_moment_that_its_time_has_come():
    job = stored_job(run_at=LATER, due=False)
    assert not job.promote(LATER - timedelta(microseconds=1)).due
    assert changed(job, job.promote(LATER)) == {"due": True}


@pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED])
def test_a_final_job_is_never_promoted(status: JobStatus):
    job = stored_job(status=status, run_at=NOW, due=False)
    assert job.promote(LATER) == job


@pytest.mark.parametrize("event", FENCED)
def test_a_token_that_was_never_given_out_changes_nothing(event: str):
    job = running_job()
    with pytest.raises(LeaseLost):
        FENCED[event](job, new_lease(job.id))


@pytest.mark.parametrize("event", FENCED)
def test_a_lease_of_another_job_changes_nothing(event: str):
    with pytest.raises(LeaseLost):
        FENCED[event](running_job(), a_lease_of(running_job()))


@pytest.mark.parametrize("event", FENCED)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_that_has_ended_changes_nothing_any_more(ending: str, event: str):
    job = running_job()
    with pytest.raises(LeaseLost):
        FENCED[event](EVENTS[ending](job), a_lease_of(job))


@pytest.mark.parametrize("event", FENCED)
def test_a_rescued_job_is_not_changed_by_its_first_worker_once_another_runs_it(event: str):
    job = running_job()
    rerun = EVENTS["claim"](EVENTS["rescue"](job))
    with pytest.raises(LeaseLost):
        FENCED[event](rerun, a_lease_of(job))


def test_a_run_holds_what_its_worker_needs():
    job = running_job(attempts=1, give_backs=2)
    held = job.leased()
    assert held.id == job.id
    own = {"waited": job.waited.total_seconds(), "traceparent": None}
    assert {
        name: value for name, value in asdict(held).items() if value != own.get(name, getattr(job, name, None))
    } == {}


@pytest.mark.parametrize("status", [PENDING, COMPLETED, FAILED, CANCELLED])
def test_only_a_running_job_has_a_lease(status: JobStatus):
    with pytest.raises(InvalidTransition):
        IN_STATE[status]().leased()


def test_a_worker_ends_its_run_with_its_own_lease():
    held = leased_job()
    assert held.complete(b"{}") == Settlement(held.lease, RunOutcome.COMPLETED, COMPLETED, result=b"{}")
    assert held.release() == Settlement(held.lease, RunOutcome.RELEASED, PENDING)


def test_a_submitted_job_is_stored_pending_with_all_that_was_sent():
    sent = new_job(
        owner_ref="call/7",
        deadline_at=LATER,
        labels={"team": "red"},
        batch_id=uuid4(),
        idempotency=IdempotencyKey("k", b"1"),
    )
    job = sent.stored(17, run_at=LATER, due=False, now=NOW)
    of_the_request = {"run_at", "idempotency", "weight", "upload_id", "traceparent"}
    kept = {name: value for name, value in asdict(sent).items() if name not in of_the_request}
    assert job == Job(
        **kept, seq=17, level=3, status=PENDING, run_at=LATER, due=False, created_at=NOW, updated_at=NOW, number=1
    )
