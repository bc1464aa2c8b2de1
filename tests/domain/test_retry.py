from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ErrorCode, Failure
from domain.job import JobStatus, RunOutcome, Settlement
from domain.retry import MAX_GIVE_BACKS, RETRIES, RetryPolicy, give_back_wait, settle_failure, settle_outage
from tests.factories import leased_job

FAST, SLOW = timedelta(seconds=30), timedelta(minutes=2)
POLICY = RetryPolicy(fast=FAST, slow=SLOW)

# As the public contract puts it: by name, so that a renamed code is noticed too.
DOCUMENTED = {
    "fast": "provider_unavailable model_unavailable provider_error dependency_error timeout storage_error stale_worker",
    "slow": "bad_response transcript_hallucination transcript_incomplete internal_error unknown",
    "never": "bad_audio bad_input context_length unsupported_task cancelled",
    "given back": "rate_limited auth_error quota_exhausted",
}
KIND = {ErrorCode(code): kind for kind, codes in DOCUMENTED.items() for code in codes.split()}
DELAYS = {"fast": FAST, "slow": SLOW, "given back": SLOW}

RETRIED = [code for code, kind in KIND.items() if kind in {"fast", "slow"}]
FINAL = [code for code, kind in KIND.items() if kind == "never"]
GIVEN_BACK = [code for code, kind in KIND.items() if kind == "given back"]

retry_afters = st.timedeltas(timedelta(0), timedelta(hours=1))
jitters = st.floats(0, 1, exclude_max=True)


def settle(code: ErrorCode, *, retry_after: timedelta | None = None, jitter: float = 0.5, **job: int) -> Settlement:
    return settle_failure(leased_job(**job), Failure(code, "It failed.", retry_after), POLICY, jitter=jitter)


def test_the_table_knows_every_code_and_no_other():
    assert set(RETRIES) == set(KIND) == set(ErrorCode)


def test_the_default_delays_are_the_documented_ones():
    assert RetryPolicy() == POLICY


@pytest.mark.parametrize("code", RETRIED)
def test_a_failure_is_tried_again_after_its_delay_while_attempts_remain(code: ErrorCode):
    ended = settle(code, attempts=1, max_attempts=3)
    assert (ended.outcome, ended.status, ended.delay) == (RunOutcome.FAILED, JobStatus.PENDING, DELAYS[KIND[code]])


@pytest.mark.parametrize("code", RETRIED)
def test_a_failure_of_the_last_attempt_is_final(code: ErrorCode):
    ended = settle(code, attempts=2, max_attempts=3)
    assert (ended.outcome, ended.status) == (RunOutcome.FAILED, JobStatus.FAILED)


@pytest.mark.parametrize("code", RETRIED)
def test_a_job_with_one_attempt_fails_at_its_first_failure(code: ErrorCode):
    assert settle(code, attempts=0, max_attempts=1).status is JobStatus.FAILED


@pytest.mark.parametrize("code", FINAL)
@pytest.mark.parametrize("attempts", [0, 2])
def test_some_failures_are_final_whatever_attempts_remain(code: ErrorCode, attempts: int):
    ended = settle(code, attempts=attempts, max_attempts=3, retry_after=1 * FAST)
    assert (ended.outcome, ended.status, ended.delay) == (RunOutcome.FAILED, JobStatus.FAILED, timedelta(0))


@pytest.mark.parametrize("code", GIVEN_BACK)
@pytest.mark.parametrize("give_backs", range(10))
def test_what_is_not_the_jobs_fault_gives_it_back_even_at_its_last_attempt(code: ErrorCode, give_backs: int):
    ended = settle(code, attempts=2, max_attempts=3, give_backs=give_backs)
    assert (ended.outcome, ended.status) == (RunOutcome.GIVEN_BACK, JobStatus.PENDING)


@pytest.mark.parametrize("code", GIVEN_BACK)
@pytest.mark.parametrize("give_backs", [10, 11, 1_000])
def test_a_job_given_back_ten_times_is_counted_and_waits_the_long_delay(code: ErrorCode, give_backs: int):
    ended = settle(code, attempts=0, max_attempts=3, give_backs=give_backs)
    assert (ended.outcome, ended.status, ended.delay) == (RunOutcome.FAILED, JobStatus.PENDING, SLOW)


@pytest.mark.parametrize("code", GIVEN_BACK)
def test_a_job_given_back_ten_times_fails_at_its_last_attempt(code: ErrorCode):
    assert settle(code, attempts=2, max_attempts=3, give_backs=10).status is JobStatus.FAILED


@pytest.mark.parametrize("code", ErrorCode)
@pytest.mark.parametrize("give_backs", [0, 10])
def test_a_settlement_carries_its_lease_and_the_failure(code: ErrorCode, give_backs: int):
    held, failure = leased_job(give_backs=give_backs), Failure(code, "It failed.")
    ended = settle_failure(held, failure, POLICY, jitter=0)
    assert (ended.lease, ended.failure, ended.result) == (held.lease, failure, None)


@given(code=st.sampled_from(RETRIED), retry_after=retry_afters)
def test_retry_after_lengthens_a_delay_and_never_shortens_it(code: ErrorCode, retry_after: timedelta):
    assert settle(code, retry_after=retry_after).delay == max(DELAYS[KIND[code]], retry_after)


@given(code=st.sampled_from(GIVEN_BACK), give_backs=st.integers(0, 12), retry_after=retry_afters, jitter=jitters)
def test_a_job_given_back_starts_not_before_retry_after_nor_before_its_own_wait(
    code: ErrorCode, give_backs: int, retry_after: timedelta, jitter: float
):
    without = settle(code, give_backs=give_backs, jitter=jitter).delay
    asked = settle(code, give_backs=give_backs, jitter=jitter, retry_after=retry_after).delay
    assert asked == max(without, retry_after)


@given(jitter=jitters)
def test_the_wait_of_a_job_given_back_doubles_from_a_second_to_a_minute_and_half_of_it_is_random(jitter: float):
    for give_backs, longest in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]):
        wait = give_back_wait(give_backs, jitter).total_seconds()
        assert longest / 2 <= wait <= longest


def test_jobs_given_back_together_do_not_come_back_together():
    assert len({give_back_wait(MAX_GIVE_BACKS - 1, step / 10) for step in range(10)}) == 10


class TestOutage:
    FAILURE = Failure(ErrorCode.PROVIDER_UNAVAILABLE, "Connection refused.", timedelta(minutes=5))

    def settle(self, **job: int) -> Settlement:
        return settle_outage(leased_job(**job), self.FAILURE, POLICY)

    @pytest.mark.parametrize("attempts", [0, 2])
    @pytest.mark.parametrize("give_backs", range(MAX_GIVE_BACKS))
    def test_a_job_whose_server_is_down_goes_back_uncounted_and_waits_for_nothing_but_the_circuit(
        self, attempts: int, give_backs: int
    ):
        ended = self.settle(attempts=attempts, max_attempts=3, give_backs=give_backs)
        assert (ended.outcome, ended.status, ended.delay) == (RunOutcome.GIVEN_BACK, JobStatus.PENDING, timedelta(0))

    def test_it_says_what_its_run_met(self):
        assert self.settle().failure == self.FAILURE

    def test_given_back_ten_times_it_is_counted_and_waits_the_long_delay(self):
        ended = settle_outage(leased_job(give_backs=10), Failure(ErrorCode.PROVIDER_UNAVAILABLE), POLICY)
        assert (ended.outcome, ended.status, ended.delay) == (RunOutcome.FAILED, JobStatus.PENDING, SLOW)

    def test_given_back_ten_times_it_fails_at_its_last_attempt(self):
        assert self.settle(attempts=2, max_attempts=3, give_backs=10).status is JobStatus.FAILED
