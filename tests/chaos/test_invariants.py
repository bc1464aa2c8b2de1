"""Each check finds what it is for in a history that was made up to violate it, and nothing in one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.chaos import invariants
from tests.chaos.history import Call, Change, End, Followed, History, Job, Run, Submission, Trouble
from tests.chaos.invariants import Check

FIELDS: dict[str, Any] = {
    "owner": "o",
    "queue": "q",
    "priority": 3,
    "status": "completed",
    "number": 3,
    "attempts": 1,
    "max_attempts": 3,
    "crashes": 0,
    "give_backs": 0,
    "finished": True,
}


def a_job(name: str = "a", **fields: Any) -> Job:
    return Job(**{"id": f"id of {name}", "name": name, "result": f"{name} #1", **FIELDS, **fields})


def a_run(name: str = "a", **fields: Any) -> Run:
    given = {"number": 3, "worker": "w1/0", "began": 10.0, "ended": 12.0, "outcome": "completed", "became": "completed"}
    return Run(job_id=f"id of {name}", **{**given, **fields})


def a_call(name: str = "a", **fields: Any) -> Call:
    given = {"serial": 1, "place": "w1", "began": 10.1, "ended": 11.9, "how": End.ANSWERED}
    return Call(name=name, **{**given, **fields})


def submitted(name: str = "a", **fields: Any) -> Submission:
    given = {"owner": "o", "priority": 3, "key": "k", "ids": [f"id of {name}"], "accepted_at": 9.0}
    return Submission(name=name, **{**given, **fields})


def history(**parts: Any) -> History:
    """One job that was submitted, run and completed; parts of it may be others."""
    given = {"submissions": [submitted()], "jobs": [a_job()], "runs": [a_run()], "calls": [a_call()], "limit": 1}
    return History(**{**given, **parts})


def crashed(**fields: Any) -> Run:
    """A first run whose worker was thought to be dead."""
    return a_run(**{"began": 1.0, "ended": 5.0, "outcome": "crashed", "became": "pending", **fields})


SECOND = a_run(number=5, worker="w2/0")
"""A run that completed its job after another."""

TWICE = a_job(number=5, crashes=1, result="a #2")
"""A job that was run twice."""

FIRST_CALL = a_call(began=1.1, ended=11.0, how=End.HUNG_UP)
SECOND_CALL = a_call(serial=2, place="w2")

TROUBLE = Trouble("w1", 2.0, 7.0, "stop worker")

CALM = [
    history(),
    history(jobs=[TWICE], runs=[crashed(), SECOND], calls=[FIRST_CALL, SECOND_CALL], troubles=[TROUBLE]),
    history(
        jobs=[a_job(status="cancelled", number=2, attempts=0, result=None)],
        runs=[],
        calls=[],
        changes=[Change("id of a", 2, "cancelled", 9.5)],
    ),
    history(followed=[Followed("a", ("1", "2", "2.1", "2.3", "3", "3.done"), 2)]),
    history(jobs=[a_job(result="lease t")], runs=[a_run(token="t")], calls=[]),
    history(submissions=[submitted(), submitted("b", ids=[])]),
]


@pytest.mark.parametrize("calm", CALM)
def test_nothing_is_found_where_all_is_well(calm: History) -> None:
    assert [found.violations for found in invariants.check(calm) if found.violations] == []


def waited_in_vain(**parts: Any) -> History:
    """A low job is started at 20 while a high one waits, which was accepted at 9 and started at 30."""
    low, high = a_job("low", priority=5), a_job("high", priority=1)
    runs = [a_run("low", began=20.0, ended=21.0), a_run("high", began=30.0, ended=31.0)]
    return history(submissions=[submitted("low"), submitted("high")], jobs=[low, high], runs=runs, calls=[], **parts)


VIOLATIONS: Sequence[tuple[Check, str, History]] = [
    (invariants.accepted_jobs_end, "is lost", history(jobs=[])),
    (invariants.accepted_jobs_end, "is pending", history(jobs=[a_job(status="pending", finished=False)])),
    (invariants.submissions_never_double, "several jobs", history(submissions=[submitted(ids=["id of a", "other"])])),
    (invariants.submissions_never_double, "stored 2 times", history(jobs=[a_job(), a_job(id="other")])),
    (invariants.submissions_never_double, "was answered as", history(jobs=[a_job(id="other")])),
    (invariants.submissions_never_double, "by nobody", history(jobs=[a_job(), a_job("b")])),
    (invariants.histories_are_whole, "its number is 5", history(jobs=[a_job(number=5)])),
    (invariants.histories_are_whole, "[2, 2, 3, 3]", history(runs=[a_run(), a_run(token="t")])),
    (invariants.histories_are_whole, "made it completed", history(jobs=[a_job(status="failed")])),
    (invariants.counts_are_those_of_runs, "has attempts 2", history(jobs=[a_job(attempts=2)])),
    (invariants.counts_are_those_of_runs, "has crashes 0", history(jobs=[a_job(number=5)], runs=[crashed(), SECOND])),
    (invariants.counts_are_those_of_runs, "has give_backs 1", history(jobs=[a_job(give_backs=1)])),
    (
        invariants.counts_are_those_of_runs,
        "has attempts 1",
        history(runs=[a_run()], changes=[Change("id of a", 4, "pending", 13.0)]),
    ),
    (invariants.counts_are_those_of_runs, "1 attempts of 0", history(jobs=[a_job(max_attempts=0)])),
    (
        invariants.counts_are_those_of_runs,
        "before its attempts were used up",
        history(jobs=[a_job(status="failed", error_code="timeout")], runs=[a_run(outcome="failed", became="failed")]),
    ),
    (invariants.results_are_of_their_runs, "2 of its runs", history(jobs=[TWICE], runs=[a_run(), SECOND])),
    (invariants.results_are_of_their_runs, "has no result", history(jobs=[a_job(result=None)])),
    (invariants.results_are_of_their_runs, "and has a result", history(jobs=[a_job(status="failed")], runs=[])),
    (invariants.results_are_of_their_runs, "nobody said", history(calls=[])),
    (
        invariants.results_are_of_their_runs,
        "not of the run by w2/0",
        history(
            jobs=[a_job(number=5, crashes=1)],
            runs=[crashed(), SECOND],
            calls=[a_call(began=1.1, ended=11.0), SECOND_CALL],
        ),
    ),
    (
        invariants.results_are_of_their_runs,
        "not of the run that",
        history(jobs=[a_job(result="lease old")], runs=[a_run(token="new")], calls=[]),
    ),
    (
        invariants.leases_never_overlap,
        "before w1/0 had ended",
        history(jobs=[TWICE], runs=[crashed(ended=20.0), SECOND]),
    ),
    (invariants.calls_are_runs, "2 calls in 1 runs", history(calls=[a_call(), a_call(serial=2)])),
    (invariants.calls_are_runs, "no run of it", history(calls=[a_call(place="w2")])),
    (invariants.calls_are_runs, "after its run was completed", history(calls=[a_call(began=13.0, ended=14.0)])),
    (
        invariants.calls_are_alone,
        "before the call of w1 was over",
        history(jobs=[TWICE], runs=[crashed(), SECOND], calls=[a_call(began=1.1, ended=12.0), SECOND_CALL]),
    ),
    (
        invariants.calls_are_alone,
        "before the call of w1 was over",
        history(
            jobs=[TWICE],
            runs=[crashed(outcome="retried"), SECOND],
            calls=[a_call(began=1.1, ended=12.0), SECOND_CALL],
        ),
    ),
    (
        invariants.limits_hold,
        "was open with 1 others",
        history(
            jobs=[a_job(), a_job("b")], runs=[a_run(), a_run("b")], calls=[a_call(), a_call("b", serial=2, began=11.0)]
        ),
    ),
    (invariants.urgent_jobs_go_first, "had been waiting", waited_in_vain()),
    (invariants.the_living_keep_their_jobs, "which was well", history(jobs=[TWICE], runs=[crashed(), SECOND])),
    (
        invariants.suspects_run_alone,
        "which ran a",
        history(
            jobs=[TWICE, a_job("b")],
            runs=[
                crashed(token="1"),
                crashed(token="2"),
                a_run(number=5, worker="w2/0", token="3"),
                a_run("b", worker="w2/0", token="4"),
            ],
        ),
    ),
    (invariants.events_have_no_gap, "1 3", history(followed=[Followed("a", ("1", "3"), 0)])),
    (invariants.events_have_no_gap, "2 1", history(followed=[Followed("a", ("1", "2", "1"), 0)])),
    (invariants.events_have_no_gap, "2 2", history(followed=[Followed("a", ("1", "2", "2"), 1)])),
    (invariants.events_have_no_gap, "2.2 2.1", history(followed=[Followed("a", ("1", "2", "2.2", "2.1"), 1)])),
    (invariants.events_have_no_gap, "3.done", history(followed=[Followed("a", ("1", "2", "3.done"), 1)])),
    (invariants.slots_are_counted, "2 slots are taken", history(busy={"q": 2})),
    (invariants.slots_are_counted, "being closed", history(closing_slots=1)),
    (invariants.slots_are_counted, "3 counted", history(miscounted=["3 counted"])),
    (invariants.nothing_is_left, "a process", history(left=["a process"])),
]


@pytest.mark.parametrize(("check", "told", "violating"), VIOLATIONS)
def test_what_is_violated_is_found_and_told(check: Check, told: str, violating: History) -> None:
    violations = check(violating).violations
    assert violations
    assert told in violations[0]


def test_every_check_has_a_history_that_violates_it() -> None:
    assert {check for check, _, _ in VIOLATIONS} == set(invariants.CHECKS)


def test_a_second_call_is_excused_and_counted_where_the_first_ones_worker_was_in_trouble() -> None:
    doubled = history(
        jobs=[TWICE], runs=[crashed(), SECOND], calls=[a_call(began=1.1, ended=12.0), SECOND_CALL], troubles=[TROUBLE]
    )
    assert invariants.calls_are_alone(doubled).violations == []
    assert sum(invariants.calls_are_alone(doubled).excused.values()) == 1
    assert invariants.limits_hold(doubled).violations == []


def test_order_is_not_judged_while_a_circuit_was_not_closed() -> None:
    assert invariants.urgent_jobs_go_first(waited_in_vain(unordered=[(15.0, 25.0)])).violations == []
