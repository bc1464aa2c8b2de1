from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.adaptive import (
    DECREASE,
    LONGEST_PROBE_WAIT,
    PROBE_WAIT,
    START,
    STEEPEST_DECREASE,
    Adapted,
    Pressure,
    Workload,
    adapt,
)
from tests.domain.simulated_server import SimulatedServer, Simulation, adaptive

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TICK = timedelta(seconds=1)
RELAXED = Pressure(running=10, waiting=0)

counts = st.integers(0, 500)
limits = st.integers(1, 500)
workloads = st.builds(Workload, completed=counts, overloads=counts, busy=counts, due=counts, slots=counts)
amounts = st.floats(0, 1_000)
pressures = st.none() | st.builds(Pressure, running=amounts, waiting=amounts)
moments = st.timedeltas(timedelta(0), timedelta(hours=1)).map(lambda ago: NOW - ago)


@st.composite
def adapteds(draw: st.DrawFn) -> Adapted:
    """What may be kept of a queue."""
    limit = draw(limits)
    changed_at = draw(moments)
    return Adapted(
        limit=limit,
        ceiling=draw(st.none() | st.integers(limit, 600)),
        changed_at=changed_at,
        lowered_at=draw(st.none() | st.just(changed_at)),
        probe_wait=draw(st.timedeltas(TICK, LONGEST_PROBE_WAIT)),
        unsettled=draw(counts),
        unproven=draw(counts),
        waiting=draw(amounts),
    )


def load(*, completed: int = 10, overloads: int = 0, busy: int = 10, due: int = 100) -> Workload:
    """A queue with ten busy slots that has more to do."""
    return Workload(completed, overloads, busy, due, slots=100)


def after(adapted: Adapted | None, *ticks: Workload, pressure: Pressure | None = None, bound: int = 100) -> Adapted:
    """What becomes of it, a second each."""
    for number, workload in enumerate(ticks):
        adapted = adapt(adapted, workload, pressure, bound, NOW + number * TICK)
    assert adapted is not None
    return adapted


# What a limit starts from, and what it never leaves


def test_a_queue_begins_with_a_few_calls():
    assert after(None, load(busy=0)).slots == START
    assert after(None, load(busy=0), bound=2).slots == 2


def test_a_busy_queue_goes_on_from_what_runs_well():
    assert after(None, load(busy=40)).slots == 40
    assert after(None, load(busy=40), pressure=Pressure(running=30, waiting=10)).slots == 30
    assert after(None, load(busy=40, overloads=1)).slots == START


@given(st.none() | adapteds(), workloads, pressures, st.integers(-1, 500))
def test_the_limit_is_never_below_one_nor_above_its_bound(adapted, workload, pressure, bound):
    assert 1 <= adapt(adapted, workload, pressure, bound, NOW).slots <= max(1, bound)


@given(adapteds(), workloads, pressures)
def test_what_is_kept_of_it_survives_being_stored(adapted, workload, pressure):
    found = adapt(adapted, workload, pressure, 100, NOW)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Adapted) == found


def test_what_an_earlier_version_stored_is_enough():
    assert msgspec.json.decode(b'{"limit": 7}', type=Adapted).slots == 7


def test_workers_that_are_away_for_a_moment_cost_the_limit_nothing_for_long():
    grown = Adapted(limit=64)
    without = after(grown, load(busy=0), bound=0)
    assert without.slots == 1
    busy = load(busy=64)
    assert after(without, *[busy] * 6, pressure=RELAXED).slots >= 60


# What raises it


@given(adapteds(), workloads, pressures)
def test_a_limit_that_holds_nothing_back_is_not_raised(adapted, workload, pressure):
    idle = msgspec.structs.replace(workload, due=0)
    unused = msgspec.structs.replace(workload, busy=adapted.slots // 2)
    assert adapt(adapted, idle, pressure, 500, NOW).slots <= adapted.slots
    assert adapt(adapted, unused, pressure, 500, NOW).slots <= adapted.slots


@given(adapteds(), st.integers(1, 10_000))
def test_idle_time_does_not_let_it_drift_up(adapted, seconds):
    nothing = load(completed=0, busy=0, due=0)
    found = adapt(adapted, nothing, RELAXED, 500, NOW)
    assert adapt(found, nothing, RELAXED, 500, NOW + seconds * TICK).slots == adapted.slots


def test_a_held_queue_does_not_let_it_drift_up():
    assert after(Adapted(limit=4), *[load(completed=0, busy=0, due=100)] * 100, pressure=RELAXED).slots == 4


def test_before_anything_was_too_much_it_grows_by_a_quarter():
    assert after(Adapted(limit=8), load(busy=8), pressure=RELAXED).slots == 10
    assert after(Adapted(limit=2), load(busy=2), pressure=RELAXED).slots == 3


def test_without_metrics_a_round_of_runs_must_end_before_it_grows_again():
    slow = load(completed=2, busy=10)
    grown = after(Adapted(limit=8, unproven=8), *[slow] * 4)
    assert grown.slots == 10
    assert after(grown, *[slow] * 4).slots == 10
    assert after(grown, *[slow] * 5).slots == 12


def test_with_metrics_it_grows_while_nothing_waits_in_the_server():
    busy = load(completed=0, busy=8)
    assert after(Adapted(limit=8, unproven=8), busy, pressure=RELAXED).slots == 10
    assert after(Adapted(limit=8), busy, pressure=Pressure(running=6, waiting=2)).slots == 8


def test_a_call_that_waits_for_a_moment_in_a_large_server_is_no_queue():
    busy = load(busy=64)
    assert after(Adapted(limit=64), *[busy] * 3, pressure=Pressure(running=61, waiting=3)).slots == 67


def test_below_what_was_too_much_it_goes_half_the_way_at_a_time():
    busy = load(completed=100, busy=9)
    steps = [
        after(Adapted(limit=8, ceiling=16), *[load(busy=100)] * ticks, pressure=RELAXED).slots for ticks in (1, 2, 3)
    ]
    assert steps == [12, 14, 15]
    assert after(Adapted(limit=8, ceiling=9, changed_at=NOW), *[busy] * 5, pressure=RELAXED).slots == 9


def test_what_was_taken_is_felt_out_one_by_one_and_ever_faster():
    resting = Adapted(limit=8, ceiling=8, changed_at=NOW)
    busy = load(completed=100, busy=100)
    soon, later = NOW + PROBE_WAIT - TICK, NOW + PROBE_WAIT
    assert adapt(resting, busy, RELAXED, 100, soon).slots == 8
    probing = adapt(resting, busy, RELAXED, 100, later)
    assert probing.slots == 9
    assert adapt(probing, busy, RELAXED, 100, later + PROBE_WAIT / 2).slots == 10
    ticks = [busy] * 60
    assert after(resting, *ticks, pressure=RELAXED).slots == 100


# What lowers it


@given(adapteds(), workloads, pressures)
def test_an_overload_never_raises_it(adapted, workload, pressure):
    overloaded = msgspec.structs.replace(workload, overloads=workload.overloads + 1)
    assert adapt(adapted, overloaded, pressure, 500, NOW).slots <= adapted.slots


@given(adapteds(), workloads, pressures)
def test_more_overloads_never_leave_more(adapted, workload, pressure):
    more = msgspec.structs.replace(workload, completed=0, overloads=workload.overloads + workload.completed)
    less = adapt(adapted, workload, pressure, 500, NOW)
    assert adapt(adapted, more, pressure, 500, NOW).slots <= less.slots


@given(adapteds(), workloads, st.floats(1, 1_000), st.floats(0, 500), st.floats(0, 500))
def test_a_longer_queue_in_the_server_never_leaves_more(adapted, workload, running, waiting, further):
    shorter = adapt(adapted, workload, Pressure(running, waiting), 500, NOW)
    longer = adapt(adapted, workload, Pressure(running, waiting + further), 500, NOW)
    assert longer.slots <= shorter.slots


@given(adapteds(), workloads, pressures)
def test_it_is_at_most_halved_at_a_time(adapted, workload, pressure):
    assert adapt(adapted, workload, pressure, 500, NOW).slots >= int(adapted.slots * STEEPEST_DECREASE)


def test_a_refused_call_lowers_it_by_a_fifth():
    assert after(Adapted(limit=20), load(overloads=1, busy=20)).slots == 20 * DECREASE


def test_what_was_begun_before_it_was_lowered_does_not_lower_it_again():
    late = load(completed=0, overloads=1, busy=20)
    lowered = after(Adapted(limit=20), late)
    assert after(lowered, *[late] * 20).slots == lowered.slots
    assert after(lowered, *[late] * 21).slots < lowered.slots


def test_many_refusals_in_a_second_lower_it_once_a_second():
    storm = load(overloads=200, busy=20)
    assert [after(Adapted(limit=20), *[storm] * seconds).slots for seconds in (1, 2, 3)] == [16, 12, 9]


def test_a_queue_in_the_server_that_lasts_brings_it_down_to_what_runs():
    busy = load(busy=16)
    queued = Pressure(running=10, waiting=6)
    assert after(Adapted(limit=16), busy, pressure=queued).slots == 16
    assert after(Adapted(limit=16), busy, busy, pressure=queued).slots == 10


def test_calls_that_have_not_sunk_to_the_limit_yet_do_not_lower_it_further():
    busy = load(completed=0, busy=16)
    assert after(Adapted(limit=16), *[busy] * 10, pressure=Pressure(running=10, waiting=6)).slots == 10


def test_a_queue_that_others_make_does_not_lower_a_limit_that_is_not_used():
    few = load(busy=3)
    assert after(Adapted(limit=16), *[few] * 10, pressure=Pressure(running=10, waiting=6)).slots == 16


def test_a_server_shared_with_others_is_left_to_them_in_part():
    ours = load(busy=10)
    assert after(Adapted(limit=10), ours, ours, pressure=Pressure(running=15, waiting=5)).slots == 7


def test_a_server_that_refuses_and_tells_of_its_queue_is_believed_at_once():
    refused = load(overloads=8, busy=20)
    assert after(Adapted(limit=24), refused, pressure=Pressure(running=8, waiting=12)).slots == 12


def test_one_more_that_is_refused_is_tried_half_as_often():
    busy = load(completed=100, busy=100)
    adapted, moment = Adapted(limit=8, ceiling=8, changed_at=NOW), NOW
    tries: list[datetime] = []
    while len(tries) < 7:
        moment += TICK
        adapted = adapt(adapted, busy, None, 100, moment)
        if adapted.slots == 9:
            tries.append(moment)
            moment += TICK
            adapted = adapt(adapted, load(overloads=9, busy=9), None, 100, moment)
    waits = [(later - earlier) / TICK for earlier, later in pairwise(tries)]
    assert waits == pytest.approx([20, 40, 80, 160, 300, 300], abs=5)


# What comes of it, with a server and in virtual time


@pytest.mark.parametrize("tells", [True, False], ids=["metrics", "no metrics"])
@given(
    capacity=st.integers(1, 64),
    waiting_room=st.floats(0, 2),
    service_time=st.floats(0.3, 5),
    seed=st.integers(0, 1_000),
)
def test_it_comes_to_rest_where_the_server_is_fully_used(tells, capacity, waiting_room, service_time, seed):
    server = SimulatedServer(capacity, int(capacity * waiting_room), service_time, tells=tells)
    simulation = Simulation(server, adaptive(bound=256), seed=seed)
    simulation.add(int(200 * capacity / min(service_time, 1)))
    settled, end = 60.0 * max(1, service_time), 160.0 * max(1, service_time)
    outcome = simulation.run(end)
    best = capacity / (service_time + simulation.claim_time)
    assert outcome.rate(settled) >= 0.95 * best
    if tells and waiting_room >= 1:
        rest = outcome.limits[int(settled) :]
        assert sum(rest) / len(rest) <= max(capacity + 1, capacity * 1.2)


@pytest.mark.parametrize(("before", "then"), [(32, 8), (8, 32)])
def test_it_follows_a_server_that_changes(before, then):
    server = SimulatedServer(before, waiting_room=64)
    simulation = Simulation(server, adaptive(bound=128))
    simulation.add(20_000)
    simulation.run(60)
    server.capacity = then
    simulation.run(90)
    assert then <= simulation.run(30).limits[-1] <= then * 1.2 + 1


def test_a_server_that_tells_of_its_queue_refuses_nothing():
    simulation = Simulation(SimulatedServer(capacity=16, waiting_room=8), adaptive(bound=64))
    simulation.add(2_000)
    assert simulation.drain().refused == 0


def test_the_limit_stays_over_a_quiet_night():
    simulation = Simulation(SimulatedServer(capacity=16, waiting_room=16), adaptive(bound=64))
    simulation.add(1_000)
    simulation.drain()
    before = simulation.run(10).limits[-1]
    assert simulation.run(8 * 3600).limits[-1] == before
