from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.job import Priority
from domain.simulation import Arrival, Rules, Run, gpu_time, simulate

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW

MINUTE, HOUR = 60.0, 3600.0


def mixed(owner: str, jobs: int, *, at: float = 0.0, level: int = NORMAL) -> list[Arrival]:
    """Jobs that take from half a second to half a minute, most of them little."""
    dice = random.Random(owner)
    return [Arrival(at, owner, dice.choice([0.5, 1.0, 1.0, 2.0, 2.0, 8.0, 30.0]), level) for _ in range(jobs)]


def all_wait_until(runs: Sequence[Run]) -> float:
    """When the first owner had no waiting job left."""
    return min({run.owner: run.started for run in runs}.values())


def shares(runs: Sequence[Run], begin: float, end: float) -> dict[str, float]:
    seconds = gpu_time(runs, begin, end)
    return {owner: given / sum(seconds.values()) for owner, given in seconds.items()}


def most_at_once(runs: Iterable[Run]) -> int:
    busy = most = 0
    for _, change in sorted(change for run in runs for change in ((run.started, 1), (run.ended, -1))):
        busy += change
        most = max(most, busy)
    return most


def run_of(runs: Sequence[Run], owner: str) -> Run:
    return next(run for run in runs if run.owner == owner)


@pytest.mark.parametrize(("slots", "newcomer"), [(1, "a"), (1, "z"), (4, "z")])
def test_behind_a_hundred_thousand_jobs_another_owners_first_has_the_next_free_slot(slots: int, newcomer: str):
    flood = [Arrival(0.0, "m", 1.0) for _ in range(100_000)]
    runs = simulate([*flood, Arrival(20.5, newcomer, 1.0)], Rules(slots=slots), until=30.0)
    assert run_of(runs, newcomer).waited == 0.5


def test_behind_a_hundred_thousand_jobs_many_newcomers_have_a_turn_before_the_flood_has_its_next():
    flood = [Arrival(0.0, "m", 1.0) for _ in range(100_000)]
    newcomers = [Arrival(20.5, f"{number}", 1.0) for number in range(8)]
    runs = simulate([*flood, *newcomers], Rules(slots=4), until=30.0)
    assert [run.owner == "m" for run in runs if run.started > 20.5][:9] == [False] * 8 + [True]


@pytest.mark.parametrize("slots", [1, 5, 32])
def test_weights_of_3_1_1_share_the_time_of_ten_thousand_mixed_jobs_as_60_20_20(slots: int):
    arrivals = [*mixed("a", 6000), *mixed("b", 2000), *mixed("c", 2000)]
    runs = simulate(arrivals, Rules(slots=slots, weights={"a": 3.0}))
    assert len(runs) == 10_000
    assert shares(runs, 0.0, all_wait_until(runs)) == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2}, abs=0.02)


def test_weights_hold_where_owners_runs_differ_in_length_a_hundredfold():
    arrivals = [
        *[Arrival(0.0, "a", 60.0) for _ in range(600)],
        *[Arrival(0.0, "b", 6.0) for _ in range(2000)],
        *[Arrival(0.0, "c", 0.6) for _ in range(20_000)],
    ]
    runs = simulate(arrivals, Rules(slots=4, weights={"a": 3.0}))
    assert shares(runs, 0.0, all_wait_until(runs)) == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2}, abs=0.02)


def test_a_newly_active_owner_has_no_credit_for_the_time_in_which_it_asked_for_nothing():
    arrivals = [*[Arrival(0.0, "a", 2.0) for _ in range(5000)], *[Arrival(HOUR, "b", 2.0) for _ in range(500)]]
    runs = simulate(arrivals, Rules(slots=2))
    assert shares(runs, HOUR, HOUR + MINUTE) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.05)


def test_a_newly_active_owner_has_no_debt_for_what_others_were_given():
    arrivals = [
        *[Arrival(0.0, owner, 2.0) for _ in range(3000) for owner in "ab"],
        *[Arrival(HOUR, "c", 2.0) for _ in range(500)],
    ]
    runs = simulate(arrivals, Rules(slots=3))
    assert shares(runs, HOUR, HOUR + MINUTE) == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.05)


def test_who_comes_back_at_once_still_owes_what_its_last_run_took():
    flood = [Arrival(0.0, "a", 1.0) for _ in range(500)]
    runs = simulate([*flood, Arrival(0.0, "b", 50.0), Arrival(51.5, "b", 1.0)], Rules(slots=1))
    given = gpu_time(runs, 0.0, [run.started for run in runs if run.owner == "b"][1])
    assert given["a"] == pytest.approx(50.0, abs=1.0)


def test_who_comes_back_later_owes_nothing_any_more():
    flood = [Arrival(0.0, "a", 1.0) for _ in range(500)]
    runs = simulate([*flood, Arrival(0.0, "b", 50.0), Arrival(200.5, "b", 1.0)], Rules(slots=1))
    assert [run.waited for run in runs if run.owner == "b"][1] == 0.5


def test_an_owner_whose_runs_take_longer_than_expected_pays_for_it():
    """Each of its runs is charged what those of the line take, and takes ninety times as long: it has fewer of them."""
    arrivals = [
        *[Arrival(0.0, "a", 1.0) for _ in range(9000)],
        *[Arrival(0.0, "b", 90.0, completes=False) for _ in range(100)],
    ]
    runs = simulate(arrivals, Rules(slots=2))
    assert shares(runs, 0.0, all_wait_until(runs)) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.02)


@pytest.mark.parametrize("caller", ["a", "z"])
def test_an_owner_that_submits_one_job_at_a_time_has_its_turn_each_time_whatever_it_is_called(caller: str):
    """Each of its jobs comes while one of the flood runs."""
    flood = [Arrival(0.0, "m", 1.0) for _ in range(200)]
    runs = simulate([*flood, *[Arrival(2.0 * turn + 0.5, caller, 1.0) for turn in range(100)]])
    assert {run.waited for run in runs if run.owner == caller} == {0.5}


def test_the_less_urgent_have_their_reserved_share_in_the_long_run():
    arrivals = [*mixed("a", 9000, level=HIGH), *mixed("b", 2000, level=LOW)]
    runs = simulate(arrivals, Rules(slots=4, reserved_share=0.1))
    assert shares(runs, 0.0, all_wait_until(runs)) == pytest.approx({"a": 0.9, "b": 0.1}, abs=0.01)


def test_the_reserved_share_is_one_for_all_less_urgent_levels_together():
    arrivals = [
        *[Arrival(0.0, "a", 1.0, HIGH) for _ in range(4000)],
        *[Arrival(0.0, "b", 1.0, NORMAL) for _ in range(2000)],
        *[Arrival(0.0, "c", 1.0, LOW) for _ in range(2000)],
    ]
    given = shares(simulate(arrivals, Rules(slots=4, reserved_share=0.2)), 0.0, 1000.0)
    assert given["a"] == pytest.approx(0.8, abs=0.01)


def test_less_urgent_runs_that_all_fail_after_long_do_not_exceed_the_reserved_share():
    arrivals = [
        *[Arrival(0.0, "a", 1.0, HIGH) for _ in range(30_000)],
        *[Arrival(0.0, "b", 30.0, LOW, completes=False) for _ in range(1000)],
    ]
    given = shares(simulate(arrivals, Rules(slots=4, reserved_share=0.1), until=2 * HOUR), 0.0, 2 * HOUR)
    assert given["b"] == pytest.approx(0.1, abs=0.02)


def test_without_a_reserve_the_less_urgent_wait_until_no_other_job_does():
    runs = simulate([*mixed("a", 300, level=LOW), *mixed("b", 300, level=HIGH)], Rules(slots=4))
    assert max(run.started for run in runs if run.owner == "b") <= run_of(runs, "a").started


def test_an_owner_never_runs_more_than_it_may_and_the_others_have_the_rest():
    runs = simulate([*mixed("a", 500), *mixed("b", 2000)], Rules(slots=8, max_running={"a": 2}))
    assert most_at_once(run for run in runs if run.owner == "a") == 2
    assert shares(runs, 0.0, all_wait_until(runs)) == pytest.approx({"a": 0.25, "b": 0.75}, abs=0.05)


def test_a_job_that_has_aged_is_ordered_as_more_urgent():
    """Ten seconds make it normal, ten more high; the line is full of high jobs all the while."""
    flood = [Arrival(0.0, "a", 1.0, HIGH) for _ in range(100)]
    runs = simulate([*flood, Arrival(0.5, "b", 1.0, LOW)], Rules(ageing=10.0))
    assert (run_of(runs, "b").started, run_of(runs, "b").level) == (21.0, HIGH)


def test_a_job_that_comes_late_stands_where_its_number_puts_it():
    arrivals = [Arrival(2.5, "a", 1.0), *[Arrival(0.0, "a", 1.0) for _ in range(4)]]
    assert [run.job for run in simulate(arrivals)] == [1, 2, 3, 0, 4]


@st.composite
def days(draw: st.DrawFn) -> list[Arrival]:
    """Jobs of a few owners as they may come, in the order in which they come."""
    arrival = st.builds(
        Arrival,
        at=st.integers(0, 20).map(float),
        owner=st.sampled_from("abc"),
        duration=st.floats(0.1, 30.0),
        level=st.sampled_from(Priority),
        completes=st.booleans(),
    )
    return sorted(draw(st.lists(arrival, max_size=25)), key=lambda arrival: arrival.at)


any_rules = st.builds(
    Rules,
    slots=st.integers(1, 4),
    weights=st.dictionaries(st.sampled_from("abc"), st.floats(0.1, 10.0)),
    max_running=st.dictionaries(st.sampled_from("abc"), st.integers(1, 2)),
    reserved_share=st.sampled_from([0.0, 0.1, 0.5]),
    ageing=st.none() | st.floats(1.0, 30.0),
)
strict_rules = st.builds(Rules, slots=st.integers(1, 4))


@given(days(), any_rules)
def test_every_job_is_run_once_and_not_before_it_is_due(arrivals: list[Arrival], rules: Rules):
    runs = simulate(arrivals, rules)
    assert sorted(run.job for run in runs) == list(range(len(arrivals)))
    assert all(run.waited >= 0 and run.started >= arrivals[run.job].at for run in runs)


@given(days(), any_rules)
def test_no_more_run_at_once_than_there_are_slots(arrivals: list[Arrival], rules: Rules):
    runs = simulate(arrivals, rules)
    assert most_at_once(runs) <= rules.slots
    for owner, most in rules.max_running.items():
        assert most_at_once([run for run in runs if run.owner == owner]) <= most


@given(days(), any_rules.map(lambda rules: replace(rules, ageing=None)))
def test_an_owners_jobs_of_a_level_start_in_the_order_in_which_they_came(arrivals: list[Arrival], rules: Rules):
    runs = simulate(arrivals, rules)
    for owner, level in {(run.owner, arrivals[run.job].level) for run in runs}:
        jobs = [run.job for run in runs if (run.owner, arrivals[run.job].level) == (owner, level)]
        assert jobs == sorted(jobs)


@given(days(), strict_rules)
def test_nothing_starts_while_something_more_urgent_waits(arrivals: list[Arrival], rules: Rules):
    runs = simulate(arrivals, rules)
    for place, run in enumerate(runs):
        later = runs[place + 1 :]
        assert not [one for one in later if one.level < run.level and arrivals[one.job].at <= run.started]


@given(days(), strict_rules)
def test_no_slot_is_free_while_a_job_waits(arrivals: list[Arrival], rules: Rules):
    runs = simulate(arrivals, rules)
    for run in runs:
        if run.waited:
            busy = [one for one in runs if one.started < run.started and one.ended >= run.started]
            assert len(busy) >= rules.slots


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0.1, 10.0), min_size=2),
    st.lists(st.floats(0.1, 100.0), min_size=20, max_size=60),
)
def test_on_one_slot_any_two_owners_that_wait_differ_by_a_run_of_each_whatever_their_runs_take(
    weights: dict[str, float], durations: list[float]
):
    """The bound of start-time fair queueing, with the longest runs, though nobody knew what a run would take."""
    owners = sorted(weights)
    arrivals = [Arrival(0.0, owners[number % len(owners)], taken) for number, taken in enumerate(durations)]
    runs = simulate(arrivals, Rules(weights=weights))
    longest = {owner: max(run.ended - run.started for run in runs if run.owner == owner) for owner in owners}
    until = all_wait_until(runs)
    for one, other in pairwise(owners):
        gap, gaps = 0.0, [0.0]
        for run in runs:
            if run.started < until and run.owner in {one, other}:
                service = (run.ended - run.started) / weights[run.owner]
                gap += service if run.owner == one else -service
                gaps.append(gap)
        bound = longest[one] / weights[one] + longest[other] / weights[other]
        assert max(gaps) - min(gaps) <= bound * (1 + 1e-9)


def test_the_same_arrivals_always_give_the_same_runs():
    arrivals = [*mixed("a", 200), *mixed("b", 200, level=LOW), *mixed("c", 50, at=100.0, level=HIGH)]
    rules = Rules(slots=3, reserved_share=0.1, ageing=300.0)
    assert simulate(arrivals, rules) == simulate(arrivals, rules)


def test_gpu_time_counts_the_seconds_within_the_period_only():
    runs = simulate([Arrival(0.0, "a", 4.0), Arrival(0.0, "b", 4.0)], Rules(slots=1))
    assert gpu_time(runs, 1.0, 6.0) == {"a": 3.0, "b": 2.0}
