"""The lease protocol holds whatever happens, as far as the model goes; and a protocol that is broken is found out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from msgspec.structs import replace

from domain.job import JobStatus
from tests.protocol import transitions
from tests.protocol.explorer import explore
from tests.protocol.model import ABANDONED, DIES, EXCUSES, LeaseProtocol, State, Step, Worker
from tests.protocol.report import COMPLETES, QUICK, Findings, findings
from tests.protocol.storage import Storage, Store
from tests.protocol.transitions import FAILED, MAX_CRASHES, RUNNING

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.fixture(scope="module", params=QUICK)
def found(request: pytest.FixtureRequest) -> Findings:
    return of(request.param)


@cache
def of(name: str) -> Findings:
    return findings(QUICK[name])


def test_nothing_is_wrong_in_any_state(found: Findings):
    assert str(found.exploration.counterexample or "") == ""


def test_the_job_can_end_from_every_state_without_more_faults(found: Findings):
    assert found.stuck == 0


def test_with_a_fair_schedule_and_no_more_faults_the_job_does_end(found: Findings):
    assert found.endless == 0


def test_both_workers_believe_that_they_run_the_job_only_for_the_reasons_that_are_named(found: Findings):
    assert set(found.overlaps) <= set(EXCUSES.values())


def test_whatever_can_become_of_the_job_does():
    """A model in which nothing happens has no states that are wrong."""
    seen = {state.store.job for state in of("every ending, one retry or preemption, no fault").exploration.states}
    assert {job.status for job in seen} == set(JobStatus)
    assert {job.give_backs for job in seen} == {0, 1}
    assert {job.attempts for job in seen} == {0, 1, 2}


def test_a_job_can_crash_as_often_as_it_may():
    seen = {state.store.job for state in of("two deaths, stops or lost locks").exploration.states}
    assert {job.crashes for job in seen} == {*range(MAX_CRASHES + 1)}
    assert {job.status for job in seen if job.crashes == MAX_CRASHES} == {FAILED}


# Broken protocols.


class NoFence(Storage):
    """Stores a run's end without looking at its token."""

    def settle(self, store: Store, token: int, end: str) -> tuple[Store, bool]:
        if store.job.status != RUNNING:
            return super().settle(store, token, end)
        after = self.record(store, token, transitions.settled(store.job, store.job.token, end), end)
        return replace(after, busy=store.busy - 1), True


class KeepsTheToken(Storage):
    """Rescues a job and leaves it the token of the run that it was taken from."""

    def rescue(self, store: Store) -> Store:
        after = super().rescue(store)
        return replace(after, job=replace(after.job, token=store.job.token))


class FreesAtCancel(Storage):
    """Gives the slot of a run that is cancelled to others, though its call may still be open."""

    def leave_slot(self, store: Store, token: int, age: int) -> Store:
        return replace(store, busy=store.busy - 1)


class CountsTwice(Storage):
    """Takes the repetition of a settlement for another one."""

    def settle_late(self, store: Store, token: int, end: str) -> tuple[Store, bool]:
        if (token, end) not in store.runs:
            return store, False
        again = self.record(store, token, store.job, end)
        return replace(again, open=store.open), True


class RefusesRepetitions(Storage):
    """Tells a worker whose answer was lost that its run had lost the job."""

    def settle_late(self, store: Store, token: int, end: str) -> tuple[Store, bool]:
        return store, False


class StartsAnyway(LeaseProtocol):
    """Does not look how old the lease is before it starts a job."""

    def may_start(self, worker: Worker) -> bool:
        return True


class NeverStarts(LeaseProtocol):
    """Finds every lease too old."""

    def may_start(self, worker: Worker) -> bool:
        return False


class ForgetsSlots(LeaseProtocol):
    """Never frees the slot of a worker that is not heard of."""

    def steps(self, state: State) -> Iterator[Step]:
        return (step for step in super().steps(state) if step[0][0] is not ABANDONED)


BROKEN: dict[str, tuple[LeaseProtocol, int, str]] = {
    "no fence": (
        LeaseProtocol(storage=NoFence, endings=COMPLETES),
        6,
        "the end of a run was stored that did not hold the lease",
    ),
    "rescue keeps the token": (
        LeaseProtocol(storage=KeepsTheToken, endings=COMPLETES),
        2,
        "the job is pending and has a lease",
    ),
    "slot freed at cancel": (
        LeaseProtocol(storage=FreesAtCancel, endings=COMPLETES),
        4,
        "A is well, its call is open, and its slot counts as free",
    ),
    "repetition counted twice": (
        LeaseProtocol(storage=CountsTwice, endings=COMPLETES),
        8,
        "a worker is told that its run's end is stored, and the history has it not, or twice",
    ),
    "repetition refused": (
        LeaseProtocol(storage=RefusesRepetitions, endings=COMPLETES),
        8,
        "the end of a run is stored, and its worker is told that it is not",
    ),
    "old lease started": (
        StartsAnyway(endings=COMPLETES),
        6,
        "A is well, and runs what was taken from it without having heard of it in time",
    ),
}


@pytest.mark.parametrize(("protocol", "steps", "wrong"), BROKEN.values(), ids=BROKEN)
def test_a_broken_protocol_is_found_out_by_a_short_way(protocol: LeaseProtocol, steps: int, wrong: str):
    found = explore(protocol).counterexample
    assert found
    assert (found.wrong, len(found.steps)) == (wrong, steps), str(found)


def test_a_counterexample_reads_as_a_story():
    found = explore(StartsAnyway(endings=COMPLETES)).counterexample
    assert str(found).splitlines() == [
        " 1. A asks for a job, and it is given run 1",
        " 2. 7.5 s pass",
        " 3. 7.5 s pass",
        " 4. the lease of run 1 has run out: the job is taken from A",
        " 5. A hears of it, and finds the lease of run 1 fresh",
        " 6. A starts run 1",
        "=> A is well, and runs what was taken from it without having heard of it in time",
    ]


def test_a_slot_that_nobody_frees_is_found_to_hold_the_job_up():
    found = findings(ForgetsSlots(endings=COMPLETES, kinds=frozenset({DIES})))
    assert found.exploration.counterexample is None
    assert found.stuck > 0


def test_a_job_that_is_handed_back_for_ever_is_found():
    assert findings(NeverStarts(faults=0, hands=0, endings=COMPLETES)).endless > 0


def test_the_figures_of_the_page_are_those_of_the_tests(found: Findings, request: pytest.FixtureRequest):
    explored, name = found.exploration, request.node.callspec.params["found"]
    row = f"| {name} | {len(explored.states):,} | {explored.transitions:,} | {explored.depth} |"
    assert row in PAGE.read_text(encoding="utf-8"), row
