from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import CARDS, Card, Fault, befallen, schedule

SEEDS = st.integers(0, 10**6)


@given(seed=SEEDS, length=st.floats(10, 3600), faults=st.integers(0, 300))
def test_the_same_seed_brings_the_same_faults(seed: int, length: float, faults: int) -> None:
    drawn = schedule(seed, length, faults)
    assert drawn == schedule(seed, length, faults)
    assert len(drawn) == faults


def test_another_seed_brings_others() -> None:
    assert schedule(1, 600, 40) != schedule(2, 600, 40)


@given(seed=SEEDS)
def test_each_kind_of_fault_comes_before_any_comes_again(seed: int) -> None:
    kinds = {(fault.kind, fault.link) for fault in schedule(seed, 60, len(CARDS))}
    assert kinds == {(card.kind, card.link) for card in CARDS}


@given(seed=SEEDS, length=st.floats(10, 3600), faults=st.integers(0, 300))
def test_no_two_faults_befall_the_same_thing_at_once(seed: int, length: float, faults: int) -> None:
    ends: defaultdict[str, float] = defaultdict(float)
    for fault in schedule(seed, length, faults):
        for thing in befallen(fault, fault.target):
            assert fault.at >= ends[thing]
            ends[thing] = fault.end


@given(seed=SEEDS)
def test_a_fault_lasts_as_long_as_its_kind_may(seed: int) -> None:
    for fault in schedule(seed, 300, 60):
        assert any(_is_of(card, fault) for card in CARDS), fault


def _is_of(card: Card, fault: Fault) -> bool:
    same = (card.kind, card.link) == (fault.kind, fault.link) and fault.target in card.targets
    return same and card.shortest - 0.05 <= fault.length <= card.longest + 0.05


def test_a_long_run_is_as_long_as_was_asked() -> None:
    assert max(fault.end for fault in schedule(7, 1800, 210)) < 1800 + 60
