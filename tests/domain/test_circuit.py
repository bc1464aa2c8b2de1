from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.circuit import (
    FIRST_WAIT,
    LONGEST_PROBE_WAIT,
    LONGEST_TRIAL_WAIT,
    Circuit,
    CircuitState,
    Report,
    Sign,
    sign_of,
)
from domain.errors import ErrorCode, Failure
from domain.job import JobId
from tests.factories import NOW, PROFILE, new_id

CLOSED, OPEN, HALF_OPEN = CircuitState
ANSWERED, MISSED, DOWN, REFUSED, NONE = Sign

THRESHOLD = 5
SECOND = timedelta(seconds=1)
JOBS = tuple(new_id() for _ in range(4))
FIRST, SECOND_JOB, *_ = JOBS

FAILURES = {
    MISSED: Failure(ErrorCode.PROVIDER_UNAVAILABLE, "The provider answered 500."),
    DOWN: Failure(ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepts no connections."),
    REFUSED: Failure(ErrorCode.AUTH_ERROR, "The provider answered 401."),
    NONE: Failure(ErrorCode.TIMEOUT, "The provider fell silent."),
}

# As the public contract puts it: by name, so that a renamed code is noticed too.
DOCUMENTED = {
    REFUSED: "auth_error quota_exhausted",
    NONE: "cancelled timeout dependency_error storage_error stale_worker internal_error unknown bad_audio",
    ANSWERED: "rate_limited bad_response provider_error model_unavailable context_length bad_input "
    "unsupported_task transcript_hallucination transcript_incomplete",
}
SIGNS = {ErrorCode(code): sign for sign, codes in DOCUMENTED.items() for code in codes.split()}


def report(sign: Sign, job: JobId = FIRST, *, trial: bool = False, profile: str = PROFILE) -> Report:
    return Report(sign, job, profile, FAILURES.get(sign), trial)


def after(*signs: Sign, jobs: Sequence[JobId] = JOBS[:2], threshold: int = THRESHOLD) -> Circuit:
    """A circuit that has heard these, of these jobs in turn."""
    circuit = Circuit()
    for number, sign in enumerate(signs):
        circuit = circuit.heard(report(sign, jobs[number % len(jobs)]), threshold, NOW)
    return circuit


def opened(sign: Sign = DOWN) -> Circuit:
    return after(sign)


def half_open(sign: Sign = DOWN) -> Circuit:
    return opened(sign).probed(NOW, healthy=True)


BEGUN = after(*[MISSED] * (THRESHOLD - 1))
BEGUN_BY_ONE_JOB = after(*[MISSED] * (THRESHOLD - 1), jobs=[FIRST])

reports = st.builds(report, st.sampled_from(Sign), st.sampled_from(JOBS), trial=st.booleans())
thresholds = st.integers(1, 7)


class TestSigns:
    def test_every_code_is_a_sign(self):
        assert {*SIGNS, ErrorCode.PROVIDER_UNAVAILABLE} == set(ErrorCode)

    @pytest.mark.parametrize("code", SIGNS)
    @pytest.mark.parametrize("healthy", [True, False])
    def test_a_code_says_the_same_whatever_the_health_address_says(self, code: ErrorCode, healthy: bool):
        assert sign_of(Failure(code, ""), healthy=healthy) is SIGNS[code]

    def test_a_run_that_found_nobody_missed_where_the_health_address_answers(self):
        assert sign_of(FAILURES[MISSED], healthy=True) is MISSED
        assert sign_of(FAILURES[MISSED], healthy=False) is DOWN

    def test_a_run_that_completed_was_answered(self):
        assert sign_of(None, healthy=True) is ANSWERED


class TestTransitions:
    @pytest.mark.parametrize(
        ("circuit", "sign", "trial", "state"),
        [
            (Circuit(), ANSWERED, False, CLOSED),
            (Circuit(), MISSED, False, CLOSED),
            (Circuit(), NONE, False, CLOSED),
            (Circuit(), DOWN, False, OPEN),
            (Circuit(), REFUSED, False, OPEN),
            (BEGUN, ANSWERED, False, CLOSED),
            (BEGUN, MISSED, False, OPEN),
            (BEGUN, NONE, False, CLOSED),
            (BEGUN, DOWN, False, OPEN),
            (BEGUN_BY_ONE_JOB, MISSED, False, CLOSED),
            # A trial that ends after an operator has closed the circuit is a run like any other.
            (Circuit(), MISSED, True, CLOSED),
            (Circuit(), DOWN, True, OPEN),
            *[(opened(), sign, False, OPEN) for sign in Sign],
            *[(half_open(), sign, False, HALF_OPEN) for sign in Sign],
            (half_open(), ANSWERED, True, CLOSED),
            *[(half_open(), sign, True, OPEN) for sign in (MISSED, DOWN, REFUSED, NONE)],
            (opened(), ANSWERED, True, CLOSED),
            *[(opened(), sign, True, OPEN) for sign in (MISSED, DOWN, REFUSED, NONE)],
        ],
    )
    def test_what_is_heard_leads_to(self, circuit: Circuit, sign: Sign, trial: bool, state: CircuitState):
        assert circuit.heard(report(sign, trial=trial), THRESHOLD, NOW).state is state

    @pytest.mark.parametrize(
        ("circuit", "healthy", "state"),
        [
            (Circuit(), True, CLOSED),
            (Circuit(), False, CLOSED),
            (opened(), True, HALF_OPEN),
            (opened(), False, OPEN),
            (half_open(), True, HALF_OPEN),
            (half_open(), False, HALF_OPEN),
        ],
    )
    def test_a_probe_leads_to(self, circuit: Circuit, healthy: bool, state: CircuitState):
        assert circuit.probed(NOW, healthy=healthy).state is state

    @pytest.mark.parametrize(
        ("circuit", "due"),
        [
            (Circuit(), False),
            (half_open(), False),
            (opened(), True),
            (replace(opened(), probe_at=None), True),
            (replace(opened(), probe_at=NOW + 2 * SECOND), False),
        ],
    )
    def test_only_an_open_one_is_probed_and_not_before_its_time(self, circuit: Circuit, due: bool):
        assert circuit.to_be_probed(NOW + SECOND) is due


class TestReason:
    def test_an_open_circuit_says_whose_server_is_sick_and_of_what(self):
        circuit = opened(REFUSED)
        assert (circuit.reason, circuit.message) == (ErrorCode.AUTH_ERROR, "The provider answered 401.")
        assert (circuit.model_profile, circuit.opened_at, circuit.failed_job) == (PROFILE, NOW, FIRST)

    def test_without_a_failure_nobody_was_there(self):
        heard = Circuit().heard(Report(DOWN, FIRST, PROFILE), THRESHOLD, NOW)
        assert heard.reason is ErrorCode.PROVIDER_UNAVAILABLE

    def test_a_trial_that_fails_otherwise_changes_the_reason_and_not_the_time(self):
        tried = half_open().heard(report(REFUSED, SECOND_JOB, trial=True, profile="other"), THRESHOLD, NOW + SECOND)
        assert (tried.reason, tried.model_profile) == (ErrorCode.AUTH_ERROR, "other")
        assert (tried.opened_at, tried.failed_job) == (NOW, SECOND_JOB)

    def test_a_trial_that_tells_nothing_leaves_the_reason(self):
        tried = half_open(REFUSED).heard(report(NONE, SECOND_JOB, trial=True), THRESHOLD, NOW + SECOND)
        assert (tried.reason, tried.failed_job) == (ErrorCode.AUTH_ERROR, SECOND_JOB)

    def test_the_time_of_the_first_miss_is_kept_until_one_is_answered(self):
        begun = Circuit().heard(report(MISSED), THRESHOLD, NOW)
        later = begun.heard(report(MISSED), THRESHOLD, NOW + SECOND)
        assert later.missed_at == NOW
        assert later.heard(report(ANSWERED), THRESHOLD, NOW + SECOND) == Circuit()


class TestOpening:
    @given(heard=st.lists(reports, max_size=30), threshold=thresholds)
    def test_misses_open_it_when_as_many_as_the_threshold_came_in_a_row_from_two_jobs(
        self, heard: list[Report], threshold: int
    ):
        circuit, row = Circuit(), list[JobId]()
        for said in heard:
            if said.sign in {DOWN, REFUSED}:
                continue
            circuit = circuit.heard(said, threshold, NOW)
            row = [] if said.sign is ANSWERED else [*row, said.job_id] if said.sign is MISSED else row
            enough = len(row) >= threshold and len({*row[-max(threshold, 2) :]}) > 1
            assert circuit.state is (OPEN if enough else CLOSED)
            if enough:
                return

    @given(misses=st.integers(1, 50), threshold=thresholds)
    def test_one_job_alone_never_does(self, misses: int, threshold: int):
        assert after(*[MISSED] * misses, jobs=[FIRST], threshold=threshold).state is CLOSED

    @given(misses=st.integers(0, 50), threshold=thresholds)
    def test_a_job_that_fails_for_ever_lets_another_open_it_only_with_as_many_in_a_row(
        self, misses: int, threshold: int
    ):
        begun = after(*[MISSED] * misses, jobs=[FIRST], threshold=threshold)
        both = begun.heard(report(MISSED, SECOND_JOB), threshold, NOW)
        assert both.state is (OPEN if misses + 1 >= max(threshold, 2) else CLOSED)

    @given(heard=st.lists(reports, max_size=30), threshold=thresholds)
    def test_no_more_jobs_are_remembered_than_it_takes(self, heard: list[Report], threshold: int):
        circuit = Circuit()
        for said in heard:
            circuit = circuit.heard(said, threshold, NOW)
            assert len(circuit.missed) <= max(threshold, 2)


class TestClosing:
    @given(heard=st.lists(reports, max_size=20), healthy=st.lists(st.booleans(), max_size=5), job=st.sampled_from(JOBS))
    def test_an_answered_trial_closes_it_whatever_went_before(
        self, heard: list[Report], healthy: list[bool], job: JobId
    ):
        circuit = opened()
        for said in heard:
            circuit = circuit.heard(said, THRESHOLD, NOW)
        for well in healthy:
            circuit = circuit.probed(NOW, healthy=well)
        assert circuit.heard(report(ANSWERED, job, trial=True), THRESHOLD, NOW) == Circuit()

    @given(said=reports.filter(lambda said: not said.trial))
    @pytest.mark.parametrize("circuit", [opened(), half_open()], ids=["open", "half open"])
    def test_while_it_is_not_closed_runs_that_began_before_change_nothing(self, circuit: Circuit, said: Report):
        assert circuit.heard(said, THRESHOLD, NOW) is circuit

    @pytest.mark.parametrize("healthy", [True, False])
    @pytest.mark.parametrize("circuit", [Circuit(), BEGUN, half_open()], ids=["closed", "begun", "half open"])
    def test_a_probe_changes_nothing_but_an_open_circuit(self, circuit: Circuit, healthy: bool):
        assert circuit.probed(NOW, healthy=healthy) is circuit


class TestWaiting:
    def test_the_first_probe_comes_after_a_second(self):
        assert opened().probe_at == NOW + FIRST_WAIT

    def test_probes_back_off_to_five_seconds(self):
        assert waits_of_probes(5) == [1, 2, 4, 5, 5, 5]

    def test_trials_back_off_to_a_minute(self):
        assert waits_of_trials(7, MISSED) == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_trials_that_find_the_server_down_back_off_like_probes(self):
        assert waits_of_trials(5, DOWN) == [1, 2, 4, 5, 5, 5]

    def test_the_first_trial_after_a_long_outage_costs_two_seconds(self):
        circuit = opened()
        for _ in range(100):
            circuit = circuit.probed(NOW, healthy=False)
        tried = circuit.probed(NOW, healthy=True).heard(report(MISSED, trial=True), THRESHOLD, NOW)
        assert tried.probe_at == NOW + 2 * SECOND

    @given(events=st.lists(st.sampled_from([False, MISSED, DOWN, REFUSED, NONE]), max_size=2_000))
    def test_it_is_asked_again_within_a_minute_however_often_that_was_in_vain(self, events: list[bool | Sign]):
        circuit = opened()
        for event in events:
            if isinstance(event, Sign):
                circuit = circuit.probed(NOW, healthy=True).heard(report(event, trial=True), THRESHOLD, NOW)
            else:
                circuit = circuit.probed(NOW, healthy=False)
            assert circuit.state is OPEN
            assert circuit.probe_at
            longest = LONGEST_TRIAL_WAIT if event in {MISSED, REFUSED, NONE} else LONGEST_PROBE_WAIT
            assert FIRST_WAIT < circuit.probe_at - NOW <= longest


def waits_of_probes(probes: int) -> list[float]:
    circuits = [opened()]
    for _ in range(probes):
        circuits.append(circuits[-1].probed(NOW, healthy=False))
    return waits(circuits)


def waits_of_trials(trials: int, sign: Sign) -> list[float]:
    circuits = [opened()]
    for _ in range(trials):
        tried = circuits[-1].probed(NOW, healthy=True).heard(report(sign, trial=True), THRESHOLD, NOW)
        circuits.append(tried)
    return waits(circuits)


def waits(circuits: Sequence[Circuit]) -> list[float]:
    return [(circuit.probe_at - NOW).total_seconds() for circuit in circuits if circuit.probe_at]
