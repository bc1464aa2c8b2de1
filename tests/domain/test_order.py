from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.job import Priority
from domain.order import NO_LIMITS, UNKNOWN_COST, Lane, Line, Pick, choose, correct

HIGH, NORMAL, LOW = (int(level) for level in Priority)

Key = tuple[int, str]

keys = st.tuples(st.sampled_from([HIGH, NORMAL, LOW]), st.sampled_from("abc"))
queues = st.lists(keys, max_size=14)
dyadic = st.integers(0, 64).map(lambda quarters: quarters / 4)
weights = st.sampled_from([0.5, 1.0, 2.0, 4.0])
means = st.none() | st.sampled_from([0.5, 1.0, 8.0])


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Whatever a line may remember, in figures that add up exactly."""
    lanes = [
        Lane(
            level,
            owner,
            vtime=draw(dyadic),
            asleep=draw(st.booleans()),
            fresh=draw(st.booleans()),
            mean=draw(means),
            weight=draw(weights),
        )
        for level, owner in draw(st.lists(keys, unique=True))
    ]
    clocks = {level: draw(dyadic) for level in (HIGH, NORMAL, LOW)}
    return Line(tuple(lanes), clocks, draw(means), draw(dyadic) - 8)


def waiting_of(queue: Sequence[Key]) -> dict[Key, list[int]]:
    """The jobs of a queue, numbered as they stand."""
    return {key: [seq for seq, each in enumerate(queue) if each == key] for key in queue}


def pick_one_by_one(
    line: Line, waiting: dict[Key, list[int]], room: int, *, reserved_share: float, spare: Mapping[str, int]
) -> tuple[list[Pick], Line]:
    picks: list[Pick] = []
    left = dict(spare)
    for _ in range(room):
        picked, line = choose(line, waiting, 1, reserved_share=reserved_share, spare=left)
        for pick in picked:
            waiting[pick.level, pick.owner].remove(pick.seq)
            if pick.owner in left:
                left[pick.owner] -= 1
        picks += picked
    return picks, line


def owners_of(picks: Sequence[Pick]) -> str:
    return "".join(pick.owner for pick in picks)


def take(line: Line, waiting: Mapping[Key, Sequence[int]], room: int = 1) -> str:
    return owners_of(choose(line, waiting, room)[0])


def test_the_most_urgent_level_is_served_until_it_is_empty():
    picks, _ = choose(Line(), {(LOW, "a"): [1], (HIGH, "a"): [4, 5], (NORMAL, "b"): [2, 3]}, 4)
    assert [(pick.level, pick.seq) for pick in picks] == [(HIGH, 4), (HIGH, 5), (NORMAL, 2), (NORMAL, 3)]


def test_owners_take_turns_whoever_came_first():
    assert take(Line(), {(NORMAL, "a"): [1, 2, 3], (NORMAL, "b"): [4, 5, 6]}, 6) == "ababab"


def test_an_owner_of_thrice_the_weight_has_thrice_as_many_turns():
    line = Line((Lane(NORMAL, "a", weight=3.0), Lane(NORMAL, "b")))
    picks = take(line, {(NORMAL, "a"): range(100), (NORMAL, "b"): range(100, 200)}, 40)
    assert picks.count("a") == 30


def test_an_owner_of_runs_of_thrice_the_length_has_a_third_of_the_turns():
    line = Line((Lane(NORMAL, "a", mean=6.0), Lane(NORMAL, "b", mean=2.0)))
    picks = take(line, {(NORMAL, "a"): range(100), (NORMAL, "b"): range(100, 200)}, 40)
    assert picks.count("a") == 10


def test_a_lane_without_a_mean_is_charged_that_of_its_line_and_before_there_is_one_a_second():
    (pick,), _ = choose(Line(mean=7.0), {(NORMAL, "a"): [1]}, 1)
    assert pick.cost == 7.0
    (pick,), _ = choose(Line(), {(NORMAL, "a"): [1]}, 1)
    assert pick.cost == UNKNOWN_COST


@pytest.mark.parametrize("newcomer", ["a", "z"])
def test_the_first_job_of_a_newcomer_is_next_whatever_it_is_called(newcomer: str):
    waiting: dict[Key, Sequence[int]] = {(NORMAL, "m"): range(100_000)}
    _, line = choose(Line(), waiting, 8)
    assert take(line, {(NORMAL, "m"): range(8, 100_000), (NORMAL, newcomer): [100_000]}) == newcomer


def test_newcomers_that_find_no_room_are_still_next_when_there_is_some():
    _, line = choose(Line(), {(NORMAL, "a"): range(10)}, 1)
    picks, _ = pick_one_by_one(
        line, {(NORMAL, owner): list(range(10)) for owner in "abcd"}, 4, reserved_share=0.0, spare=NO_LIMITS
    )
    assert owners_of(picks) == "bcda"


def test_a_lane_that_wakes_begins_where_the_one_stands_that_is_furthest_behind():
    lanes = (Lane(NORMAL, "a", 50.0, asleep=False), Lane(NORMAL, "b", 70.0, asleep=False), Lane(NORMAL, "c", 3.0))
    picks, _ = choose(Line(lanes), {(NORMAL, owner): range(9) for owner in "abc"}, 1)
    assert [(pick.owner, pick.start) for pick in picks] == [("c", 50.0)]


def test_a_lane_that_wakes_keeps_its_debts():
    lanes = (Lane(NORMAL, "a", 50.0, asleep=False), Lane(NORMAL, "c", 53.0))
    assert take(Line(lanes), {(NORMAL, owner): range(9) for owner in "ac"}, 5) == "aaaca"


def test_where_all_slept_they_begin_where_the_last_pick_began():
    lanes = (Lane(NORMAL, "a", 50.0), Lane(NORMAL, "c", 3.0))
    picks, _ = choose(Line(lanes, {NORMAL: 48.0}), {(NORMAL, owner): range(9) for owner in "ac"}, 3)
    assert [(pick.owner, pick.start) for pick in picks] == [("c", 48.0), ("c", 49.0), ("a", 50.0)]


def test_a_lane_whose_jobs_wait_for_another_claimer_keeps_its_place():
    lanes = (Lane(NORMAL, "a", 2.0, asleep=False), Lane(NORMAL, "b", 2.0, asleep=False))
    _, line = choose(Line(lanes), {(NORMAL, "b"): range(9)}, 5, others=[(NORMAL, "a")])
    assert take(line, {(NORMAL, "a"): range(9), (NORMAL, "b"): range(9)}, 5) == "aaaaa"


def test_a_lane_saves_nothing_up_while_its_owner_runs_as_many_as_it_may():
    waiting: dict[Key, Sequence[int]] = {(NORMAL, "a"): range(99), (NORMAL, "b"): range(99)}
    _, line = choose(Line(), waiting, 20, spare={"a": 1})
    assert take(line, waiting, 6) in {"ababab", "bababa"}


def test_an_owner_with_a_limit_has_no_more_picks_than_it_has_to_spare():
    waiting: dict[Key, Sequence[int]] = {(level, "a"): range(level, 99, 7) for level in (HIGH, NORMAL)}
    waiting[LOW, "b"] = [100]
    picks, _ = choose(Line(), waiting, 5, spare={"a": 2})
    assert owners_of(picks) == "aab"


def test_a_job_that_went_back_is_the_next_of_its_owner():
    waiting = {(NORMAL, "a"): [1, 2, 3]}
    (pick,), line = choose(Line(), waiting, 1)
    line = correct(line, NORMAL, "a", charged=pick.cost, real=0.25, completed=False)
    (again,), _ = choose(line, waiting, 1)
    assert (pick.seq, again.seq) == (1, 1)


def test_a_lane_pays_for_what_a_run_took_and_not_for_what_was_expected():
    _, line = choose(Line(), {(NORMAL, "a"): [1, 2], (NORMAL, "b"): [3, 4]}, 2)
    line = correct(line, NORMAL, "a", charged=1.0, real=9.0, completed=True)
    line = correct(line, NORMAL, "b", charged=1.0, real=0.5, completed=True)
    assert [lane.vtime for lane in line.lanes] == [9.0, 0.5]


def test_a_mean_follows_what_runs_take_lately():
    line = Line((Lane(NORMAL, "a"),))
    for real in [10.0, 20.0]:
        line = correct(line, NORMAL, "a", charged=10.0, real=real, completed=True)
    assert (line.mean, line.lanes[0].mean) == (12.0, 12.0)


def test_a_failed_run_counts_in_the_mean_only_where_it_took_longer_than_was_charged():
    line = Line((Lane(NORMAL, "a", mean=10.0),), mean=10.0)
    assert correct(line, NORMAL, "a", charged=10.0, real=0.1, completed=False).lanes[0].mean == 10.0
    assert correct(line, NORMAL, "a", charged=10.0, real=60.0, completed=False).lanes[0].mean == 20.0


def test_what_seems_to_cost_nothing_is_not_always_next():
    line = Line((Lane(NORMAL, "a", mean=0.0), Lane(NORMAL, "b", mean=0.0)))
    assert take(line, {(NORMAL, "a"): [1, 2], (NORMAL, "b"): [3, 4]}, 4) == "abab"


def test_of_lanes_that_stand_level_the_one_is_next_whose_job_has_waited_longer():
    lanes = (Lane(NORMAL, "a", 5.0, asleep=False), Lane(NORMAL, "b", 5.0, asleep=False))
    assert take(Line(lanes), {(NORMAL, "a"): [2], (NORMAL, "b"): [1]}) == "b"


def test_the_reserved_share_goes_to_the_job_that_has_waited_longest_of_the_less_urgent():
    waiting: dict[Key, Sequence[int]] = {(HIGH, "a"): range(10, 100), (NORMAL, "b"): range(5, 9), (LOW, "c"): range(5)}
    picks, _ = choose(Line(), waiting, 9, reserved_share=0.25)
    assert owners_of(picks) == "acaaacaaa"


def test_nothing_is_reserved_where_nobody_else_waits():
    _, line = choose(Line(), {(HIGH, "a"): range(100)}, 50, reserved_share=0.25)
    assert line.reserve == 0.0


@given(lines(), queues, st.integers(1, 16), st.sampled_from([0.0, 0.25, 0.5]))
def test_many_picks_at_once_are_the_same_as_one_by_one(line: Line, queue: list[Key], room: int, share: float):
    for spare in [NO_LIMITS, {"a": 2, "b": 0}]:
        at_once = choose(line, waiting_of(queue), room, reserved_share=share, spare=spare)
        assert at_once == pick_one_by_one(line, waiting_of(queue), room, reserved_share=share, spare=spare)


@given(lines(), queues, st.sampled_from([0.0, 0.1, 0.5]))
def test_every_waiting_job_is_picked_once(line: Line, queue: list[Key], share: float):
    picks, _ = choose(line, waiting_of(queue), len(queue) + 1, reserved_share=share)
    assert sorted(pick.seq for pick in picks) == list(range(len(queue)))
    assert all(queue[pick.seq] == (pick.level, pick.owner) for pick in picks)


@given(lines(), queues)
def test_without_a_reserve_no_less_urgent_job_is_picked_before_a_more_urgent_one(line: Line, queue: list[Key]):
    picks, _ = choose(line, waiting_of(queue), len(queue))
    assert [pick.level for pick in picks] == sorted(pick.level for pick in picks)


@given(lines(), queues, st.integers(0, 16), st.sampled_from([0.0, 0.25]))
def test_an_owners_jobs_of_a_level_are_picked_first_in_first_out(line: Line, queue: list[Key], room: int, share: float):
    picks, _ = choose(line, waiting_of(queue), room, reserved_share=share)
    for key, seqs in waiting_of(queue).items():
        picked = [pick.seq for pick in picks if (pick.level, pick.owner) == key]
        assert picked == seqs[: len(picked)]


@given(lines(), queues, st.integers(0, 16), st.integers(0, 5))
def test_a_limit_of_one_owner_takes_nothing_from_the_others(line: Line, queue: list[Key], room: int, spare: int):
    picks, _ = choose(line, waiting_of(queue), room, spare={"a": spare})
    free = len([owner for _, owner in queue if owner != "a"])
    assert len(picks) == min(room, free + min(spare, len(queue) - free))


@given(lines(), queues)
def test_choosing_changes_nothing_that_it_was_given(line: Line, queue: list[Key]):
    waiting, spare = waiting_of(queue), {"a": 1}
    before = replace(line, clocks=dict(line.clocks))
    choose(line, waiting, 5, reserved_share=0.25, spare=spare)
    assert (line, waiting, spare) == (before, waiting_of(queue), {"a": 1})


costs = st.floats(0.01, 1000.0)
shares = st.floats(0.1, 10.0)


@given(st.lists(st.tuples(costs, shares), min_size=2, max_size=4), st.integers(1, 200))
def test_the_service_of_any_two_owners_that_wait_differs_by_a_run_of_each_at_most(
    owners: list[tuple[float, float]], room: int
):
    """Theorem 1 of the paper, for any part of the time: costs are known, and service is divided by weight."""
    lanes = {str(number): Lane(NORMAL, str(number), mean=cost, weight=w) for number, (cost, w) in enumerate(owners)}
    picks, _ = choose(Line(tuple(lanes.values())), {(NORMAL, owner): range(room) for owner in lanes}, room)
    steps = {owner: cost / weight for owner, (cost, weight) in zip(lanes, owners, strict=True)}
    for one in lanes:
        for other in lanes:
            gap, gaps = 0.0, [0.0]
            for pick in picks:
                gap += steps[one] * (pick.owner == one) - steps[other] * (pick.owner == other)
                gaps.append(gap)
            assert max(gaps) - min(gaps) <= (steps[one] + steps[other]) * (1 + 1e-9) or one == other
