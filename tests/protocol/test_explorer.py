from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.explorer import Label, cut_off_from, explore, fair_circle


class Clock:
    """Counts hours, and breaks at one that it is given."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.breaks_at = breaks_at

    def start(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[tuple[Label, int]]:
        yield ("{} strikes", state + 1), state + 1

    def canonical(self, state: int) -> int:
        return state % 12

    def wrong(self, state: int) -> str | None:
        return "broken" if state == self.breaks_at else None


def test_states_that_differ_by_names_only_are_visited_once():
    explored = explore(Clock())
    assert (len(explored.states), explored.transitions, explored.depth) == (12, 12, 11)


def test_what_is_wrong_is_told_by_a_shortest_way():
    assert str(explore(Clock(breaks_at=2)).counterexample) == " 1. 1 strikes\n 2. 2 strikes\n=> broken"


def test_states_that_lead_nowhere_are_found():
    assert cut_off_from([[("a", 1)], [], [("b", 2)]], {1}) == {2}


def test_a_circle_that_a_fair_schedule_leaves_is_none():
    there_and_back = [[("go", 1)], [("back", 0), ("leave", 2)], []]
    assert fair_circle(there_and_back, {0, 1}) == set()


def test_a_circle_that_a_fair_schedule_need_not_leave_is_found():
    there_and_back = [[("go", 1)], [("go", 0), ("leave", 2)], [("go", 2)]]
    assert fair_circle([[("go", 1)], [("go", 0)], []], {0, 1}) == {0, 1}
    assert fair_circle(there_and_back, {2}) == {2}
