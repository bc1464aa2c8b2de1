from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.job import JobStatus
from domain.policy import Kept, OwnerPolicy, Policies
from domain.retention import FINAL, PastJob, Retention, Walk, retention
from tests.factories import NOW, new_id

DAY = timedelta(days=1)
COMPLETED, FAILED, CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED
EVERYBODYS: Kept = {COMPLETED: 30 * DAY, FAILED: 90 * DAY, CANCELLED: 30 * DAY}
USUAL = Retention(EVERYBODYS)


def past(status: JobStatus = COMPLETED, age: timedelta = 30 * DAY, owner: str = "beeline", **changes: Any) -> PastJob:
    """A job that became final so long ago, a minute after its creation."""
    finished = NOW - age
    job = PastJob(new_id(), owner, status, 3, finished - timedelta(minutes=1), 1, finished)
    return replace(job, **changes)


def owned(**kept: timedelta | None) -> Retention:
    return Retention(EVERYBODYS, {"beeline": {JobStatus(name): time for name, time in kept.items()}})


@pytest.mark.parametrize("status", FINAL)
def test_a_job_goes_at_its_age_and_not_a_moment_before(status: JobStatus):
    kept = EVERYBODYS[status]
    assert kept
    assert USUAL.is_over(past(status, kept), NOW)
    assert not USUAL.is_over(past(status, kept - timedelta(microseconds=1)), NOW)


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_a_job_that_is_not_final_never_goes(status: JobStatus):
    assert not USUAL.is_over(past(status, 1000 * DAY, finished_at=None), NOW)


def test_an_owners_own_time_counts_for_it_alone():
    kept = owned(completed=7 * DAY)
    assert kept.is_over(past(age=8 * DAY), NOW)
    assert not kept.is_over(past(age=8 * DAY, owner="lion"), NOW)
    assert not kept.is_over(past(FAILED, age=8 * DAY), NOW)


def test_what_is_kept_forever_never_goes():
    kept = owned(completed=None)
    assert not kept.is_over(past(age=3000 * DAY), NOW)
    assert kept.cut_off("beeline", COMPLETED, NOW) is None
    assert kept.is_over(past(FAILED, age=90 * DAY), NOW)


def test_policies_say_what_is_kept_of_owners():
    policies = Policies(owners={"beeline": OwnerPolicy(retention={FAILED: DAY}), "lion": OwnerPolicy(weight=3)})
    assert retention(EVERYBODYS, policies) == Retention(EVERYBODYS, {"beeline": {FAILED: DAY}})


def test_jobs_are_looked_for_state_by_state():
    assert [(walk.status, walk.older_than) for walk in USUAL.walks()] == list(EVERYBODYS.items())


def test_an_owner_whose_jobs_go_sooner_is_looked_at_apart():
    first, *others = owned(completed=7 * DAY).walks()
    assert first == Walk(older_than=7 * DAY, owner="beeline")
    assert [walk.status for walk in others] == list(FINAL)
    assert not any(walk.covers(past()) for walk in others)
    assert all(walk.covers(past(owner="lion")) for walk in others)


@pytest.mark.parametrize("kept", [None, 31 * DAY])
def test_an_owner_whose_jobs_stay_longer_needs_no_walk_of_its_own(kept: timedelta | None):
    assert owned(completed=kept).walks() == USUAL.walks()


def test_where_everything_stays_nothing_is_looked_for():
    assert Retention().walks() == []
    assert owned().only((), [COMPLETED]).at(DAY).walks() == [Walk(older_than=DAY, status=COMPLETED)]


def test_by_hand_it_can_be_for_one_owner_alone():
    kept = owned(completed=7 * DAY).only(["beeline", "lion"], [COMPLETED])
    assert kept.walks() == [Walk(older_than=7 * DAY, owner="beeline"), Walk(older_than=30 * DAY, owner="lion")]
    assert not kept.is_over(past(FAILED, age=900 * DAY), NOW)
    assert not kept.is_over(past(age=900 * DAY, owner="mts"), NOW)


def test_another_age_moves_all_but_what_is_kept_forever():
    kept = owned(failed=None).at(DAY)
    assert kept.is_over(past(age=DAY), NOW)
    assert not kept.is_over(past(FAILED, age=900 * DAY), NOW)
    assert kept.is_over(past(FAILED, age=DAY, owner="lion"), NOW)


TIMES = st.one_of(st.none(), st.integers(1, 100).map(lambda days: days * DAY))
KEPT = st.fixed_dictionaries(dict.fromkeys(FINAL, TIMES))
OWN = st.dictionaries(st.sampled_from(["beeline", "lion"]), st.dictionaries(st.sampled_from(FINAL), TIMES))
AGES = st.integers(0, 100).map(lambda days: days * DAY)
OLD = st.builds(past, st.sampled_from(FINAL), AGES, st.sampled_from(["beeline", "lion", "mts"]))


@given(KEPT, OWN, st.lists(OLD))
def test_exactly_one_walk_meets_each_job_that_is_to_go(kept: Kept, own: Mapping[str, Kept], jobs: list[PastJob]):
    rule = Retention(kept, own)
    for job in jobs:
        meeting = [walk for walk in rule.walks() if meets(walk, job)]
        assert len(meeting) == 1 if rule.is_over(job, NOW) else len(meeting) <= 1


def meets(walk: Walk, job: PastJob) -> bool:
    return (
        walk.status in (None, job.status)
        and walk.owner in (None, job.owner_service)
        and job.created_at <= NOW - walk.older_than
        and walk.covers(job)
    )
