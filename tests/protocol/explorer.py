"""Looks at every state that a model can reach, breadth first, so that what it finds wrong it finds by a shortest way.

A model says what may happen in a state; what must hold is checked in each. Knows nothing of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)

Label = tuple[object, ...]
"""What happens in a step: a text, and what is filled into it. Steps with the same text are of one kind."""


class Model(Protocol[S]):
    def start(self) -> S: ...

    def steps(self, state: S) -> Iterable[tuple[Label, S]]:
        """What may happen next, and the states that it leads to."""

    def canonical(self, state: S) -> S:
        """One state for all those that differ by names only."""

    def wrong(self, state: S) -> str | None:
        """What does not hold in this state."""


@dataclass(frozen=True)
class Counterexample:
    wrong: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*(f"{number:2}. {step}" for number, step in enumerate(self.steps, 1)), f"=> {self.wrong}"])


@dataclass(frozen=True)
class Exploration(Generic[S]):
    states: Sequence[S]
    """In the order in which they were found: those that are fewer steps away first."""
    edges: Sequence[Sequence[tuple[object, int]]]
    """Where the steps of each state lead: their kind, and the place of the state in `states`."""
    depth: int
    seconds: float
    counterexample: Counterexample | None = None

    @property
    def transitions(self) -> int:
        return sum(map(len, self.edges))


def explore(model: Model[S], most: int = 2_000_000) -> Exploration[S]:
    """Visit every reachable state, or stop at the first thing that is wrong.

    Raises:
        OverflowError: there are more than `most` states.
    """
    began = time.perf_counter()
    first = model.canonical(model.start())
    states, parents, depths = [first], [-1], [0]
    places = {first: 0}
    edges: list[list[tuple[object, int]]] = []
    for place, state in enumerate(states):  # which grows meanwhile
        leads: list[tuple[object, int]] = []
        edges.append(leads)
        if wrong := model.wrong(state):
            way = [states[each] for each in _way(parents, place)]
            found = Counterexample(wrong, tuple(_told(model, way)))
            return Exploration(states, edges, depths[-1], time.perf_counter() - began, found)
        for label, raw in model.steps(state):
            target = model.canonical(raw)
            there = places.get(target)
            if there is None:
                there = places[target] = len(states)
                states.append(target)
                parents.append(place)
                depths.append(depths[place] + 1)
            leads.append((label[0], there))
        if len(states) > most:
            raise OverflowError(f"There are more than {most} states.")
    return Exploration(states, edges, depths[-1], time.perf_counter() - began)


def _way(parents: Sequence[int], place: int) -> list[int]:
    way = [place]
    while parents[way[-1]] >= 0:
        way.append(parents[way[-1]])
    return way[::-1]


def _told(model: Model[S], way: Sequence[S]) -> Iterator[str]:
    """The way once more, with the names that things have from its beginning to its end."""
    state = model.start()
    for source, target in pairwise(way):
        # Where a model does not tell all names apart, they may change on the way.
        steps = chain(model.steps(state), model.steps(source))
        label, state = next(step for step in steps if model.canonical(step[1]) == target)
        yield str(label[0]).format(*label[1:])


def cut_off_from(edges: Sequence[Sequence[tuple[object, int]]], goals: Iterable[int]) -> set[int]:
    """States from which none of these can be reached."""
    sources: list[list[int]] = [[] for _ in edges]
    for place, leads in enumerate(edges):
        for _, target in leads:
            sources[target].append(place)
    reaching = set(goals)
    waiting = list(reaching)
    while waiting:
        for source in sources[waiting.pop()]:
            if source not in reaching:
                reaching.add(source)
                waiting.append(source)
    return set(range(len(edges))) - reaching


def fair_circle(edges: Sequence[Sequence[tuple[object, int]]], within: set[int]) -> set[int]:
    """States among these between which one may go on for ever although the schedule is fair; none if there are none.

    Fair: what can happen again and again (a kind of step) does happen. So a circle in which some kind of step is
    possible, but leads out of it wherever it is, is left in the end.
    """
    waiting = [within]
    while waiting:
        for circle in _circles(edges, waiting.pop()):
            inner = {kind for place in circle for kind, target in edges[place] if target in circle}
            leaving = {place for place in circle if any(kind not in inner for kind, _ in edges[place])}
            if not leaving:
                return circle
            waiting.append(circle - leaving)
    return set()


def _circles(edges: Sequence[Sequence[tuple[object, int]]], within: set[int]) -> Iterator[set[int]]:
    """The strongly connected components that hold a circle (Tarjan, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    work: list[tuple[int, Iterator[tuple[object, int]]]] = []

    def enter(place: int) -> None:
        order[place] = low[place] = len(order)
        stack.append(place)
        on_stack.add(place)
        work.append((place, iter(edges[place])))

    for root in within:
        if root in order:
            continue
        enter(root)
        while work:
            place, leads = work[-1]
            for _, target in leads:
                if target not in within:
                    continue
                if target not in order:
                    enter(target)
                    break
                if target in on_stack:
                    low[place] = min(low[place], order[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[place])
                if low[place] == order[place]:
                    component = {stack.pop()}
                    while place not in component:
                        component.add(stack.pop())
                    on_stack.difference_update(component)
                    if len(component) > 1 or any(target == place for _, target in edges[place]):
                        yield component
