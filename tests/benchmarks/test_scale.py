"""The simulated line is the service's rule, agrees with queueing theory, and the page shows what it found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from heapq import heapreplace
from itertools import accumulate
from math import factorial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from msgspec import json

from benchmarks import footprint, scale_simulation
from benchmarks.footprint import Footprint
from benchmarks.scale_simulation import POOLS, Simulated, part, shares, simulate
from benchmarks.simulated_line import Arrivals, Gpus, Lane, Line, Outage, Start, Told, Trouble
from domain.job import Priority
from domain.simulation import Arrival, Rules
from domain.simulation import simulate as by_the_rule

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DAY, FOOTPRINT = DOCS / "scale.md", DOCS / "scale" / "simulation.json", DOCS / "scale" / "footprint.json"

LEVELS = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


def run(
    lanes: list[Lane],
    arrivals: list[tuple[float, int, float]],
    slots: int,
    trouble: Trouble | None = None,
    *,
    look_every: float = 300.0,
    with_starts: bool = True,
) -> Told:
    """On GPUs with one slot each."""
    line = Line(lanes, Gpus(slots, 1), trouble or Trouble(), look_every=look_every, with_starts=with_starts)
    ordered = sorted(arrivals)
    return line.run([Arrivals(*map(list, zip(*ordered, strict=True)))])


def starts(told: Told) -> list[Start]:
    assert told.starts is not None
    return told.starts


@pytest.mark.parametrize("seed", range(20))
def test_jobs_start_when_the_services_own_rule_starts_them(seed: int):
    dice = Random(seed)
    owners, slots = {"a": 3.0, "b": 1.0, "c": 1.0}, dice.choice([1, 2, 5, 16])
    lanes = [Lane(level, owner, weight) for level in range(3) for owner, weight in owners.items()]
    pace = dice.choice([0.5, 0.9, 2.0]) * slots / 3.0
    times = accumulate(dice.expovariate(pace) for _ in range(400))
    jobs = [(at, dice.randrange(len(lanes)), dice.expovariate(1 / 3.0) + 0.01) for at in times]
    jobs = [(at, lane, -takes if dice.random() < 0.1 else takes) for at, lane, takes in jobs]  # one in ten fails
    told = run(lanes, jobs, slots, Trouble(max_attempts=1))
    named = [
        Arrival(at, lanes[lane].owner, takes if takes > 0 else -takes / 2, LEVELS[lanes[lane].level], takes > 0)
        for at, lane, takes in jobs
    ]
    real = by_the_rule(named, Rules(slots=slots, weights=owners))
    assert [each.seq for each in starts(told)] == [each.job for each in real]
    assert [each.at for each in starts(told)] == pytest.approx([each.started for each in real])


def erlang_c(servers: int, load: float) -> float:
    """How likely it is to find all servers busy, for a load in servers."""
    busy = load**servers / factorial(servers) * servers / (servers - load)
    return busy / (sum(load**number / factorial(number) for number in range(servers)) + busy)


def exponential(rates: list[float], mean: float, jobs: int, seed: int) -> list[tuple[float, int, float]]:
    dice = np.random.default_rng(seed)
    at = np.cumsum(dice.exponential(1 / sum(rates), jobs))
    lane = dice.choice(len(rates), jobs, p=np.array(rates) / sum(rates))
    return list(zip(at.tolist(), lane.tolist(), dice.exponential(mean, jobs).tolist(), strict=True))


def offered(jobs: list[tuple[float, int, float]]) -> float:
    """The load that came, in servers: by chance a little more or less than was meant, which waits multiply."""
    return sum(takes for *_, takes in jobs) / jobs[-1][0]


def test_first_in_first_out_waits_for_the_server_that_is_free_first():
    lane, jobs = Lane(1, "a", 1.0), exponential([5.2], 1.0, 5_000, seed=4)
    run([lane], jobs, 8)
    free, expected = [0.0] * 8, []
    for at, _, takes in jobs:
        begin = max(at, free[0])
        heapreplace(free, begin + takes)
        expected.append(begin - at)
    assert list(lane.waits) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 2.6), (8, 5.2)])
def test_waits_are_those_of_queueing_theory(servers: int, load: float):
    waited, waiting = [], []
    for seed in range(3):
        lane, jobs = Lane(1, "a", 1.0), exponential([load], 1.0, 50_000, seed)
        run([lane], jobs, servers, with_starts=False)
        came = offered(jobs)
        waited.append(np.mean(lane.waits) / (erlang_c(servers, came) / (servers - came)))
        waiting.append(np.mean(np.array(lane.waits) > 0) / erlang_c(servers, came))
    assert np.mean(waited) == pytest.approx(1.0, rel=0.06)
    assert np.mean(waiting) == pytest.approx(1.0, rel=0.03)


def test_waits_by_priority_are_those_of_queueing_theory():
    """Cobham's: a class waits as if those less urgent were not there, but for the run that is going on."""
    servers, rates = 4, [1.0, 1.0, 0.8]
    lanes = [Lane(level, "a", 1.0) for level in range(3)]
    jobs = exponential(rates, 1.0, 100_000, seed=3)
    run(lanes, jobs, servers, with_starts=False)
    came = offered(jobs)
    left = erlang_c(servers, came) / servers  # until the next of all busy servers is free, times how likely they are
    urgent = [sum(rates[:level]) / sum(rates) * came / servers for level in range(4)]
    expected = [left / ((1 - urgent[level]) * (1 - urgent[level + 1])) for level in range(3)]
    assert [float(np.mean(lane.waits)) for lane in lanes] == pytest.approx(expected, rel=0.06)


def test_no_job_starts_while_a_more_urgent_one_waits():
    lanes = [Lane(level, "a", 1.0) for level in range(3)]
    jobs = exponential([1.0, 1.0, 1.0], 1.2, 5_000, seed=1)
    told = run(lanes, jobs, 3)
    waiting: Counter[int] = Counter()
    happened = [(each.at, 1, each.lane) for each in starts(told)] + [(at, 0, lane) for at, lane, _ in jobs]
    for _, started, lane in sorted(happened):
        waiting[lane] += -1 if started else 1
        assert not started or not any(waiting[urgent] for urgent in range(lane))


def test_owners_share_by_weight_while_both_wait():
    lanes = [Lane(1, "a", 3.0), Lane(1, "b", 1.0)]
    dice = Random(2)
    jobs = [(dice.random(), number % 2, dice.lognormvariate(1.0, 1.0)) for number in range(20_000)]
    told = run(lanes, jobs, 20, look_every=60.0)
    shared = {each.owner: each for each in shares(lanes, told.looks)}
    assert shared["a"].entitled == 0.75
    assert shared["a"].given == pytest.approx(0.75, abs=0.01)


def test_what_a_lost_gpu_ran_is_run_again_in_its_old_place():
    lane = Lane(1, "a", 1.0)
    jobs = [(0.001 * number, 0, 10.0) for number in range(6)]
    outage = Outage(5.0, (0,), seconds=3.0, noticed_after=2.0)
    told = run([lane], jobs, 2, Trouble((outage,)))
    # 0 and 1 run; 0 is lost at 5 and given back at 7; the GPU is there again at 8: 0 goes before 2, which waits too.
    assert [(each.seq, round(each.at)) for each in starts(told)][:4] == [(0, 0), (1, 0), (0, 8), (2, 10)]
    assert (told.lost, list(told.rescued_after), told.completed) == (1, [3.0], 6)


def test_a_failed_run_is_tried_again_until_its_attempts_are_used_up():
    lane = Lane(1, "a", 1.0)
    told = run([lane], [(0.0, 0, -4.0)], 1, Trouble(failing=1.0, retry_delay=30.0, max_attempts=3))
    assert [each.at for each in starts(told)] == [0.0, 32.0, 64.0]
    assert (told.completed, told.failed, told.retried) == (0, 1, 2)


@pytest.fixture(scope="module")
def small_day() -> Simulated:
    """A few hundredths of the installation, and of its jobs."""
    return simulate(7, 1.0, 0.03)


def test_every_job_of_a_day_ends_once(monkeypatch: pytest.MonkeyPatch):
    told: list[Told] = []
    until_the_end = Line.run

    def run_and_keep(self: Line, chunks: Iterable[Arrivals]) -> Told:
        told.append(until_the_end(self, chunks))
        return told[-1]

    monkeypatch.setattr(Line, "run", run_and_keep)
    day = simulate(3, 1.0, 0.002)
    assert sum(each.arrived for each in told) == day.jobs > 10_000
    assert all(set(each.ended) == {1} for each in told)
    assert all(each.lost and each.retried for each in told)


def test_the_same_seed_gives_the_same_day():
    day = simulate(7, 0.5, 0.003)
    assert simulate(7, 0.5, 0.003) == day
    assert simulate(8, 0.5, 0.003) != day


def test_a_small_day_is_fair_and_keeps_the_priorities_apart(small_day: Simulated):
    for queue in small_day.queues:
        by_level = {level: [lane for lane in queue.lanes if lane.level == level] for level in ("high", "normal", "low")}
        # Hardly more than until the next of the queue's slots is free.
        assert all(lane.waits.p95 < 60 for lane in by_level["high"])
        assert max(lane.waits.p99 for lane in by_level["high"]) < min(lane.waits.p99 for lane in by_level["low"])
        for share in queue.shares:
            if share.hours > 0.5:
                assert share.given == pytest.approx(share.entitled, abs=0.1), (queue.name, share)


def test_a_part_of_the_installation_has_the_same_load():
    small = [scale_simulation.scaled(pool, 0.05) for pool in POOLS]
    for pool, original in zip(small, POOLS, strict=True):
        jobs = sum(stream.jobs for stream in pool.streams) / sum(stream.jobs for stream in original.streams)
        assert jobs == pytest.approx(pool.gpus.count / original.gpus.count)


def test_the_page_says_what_was_simulated_and_measured():
    text = PAGE.read_text()
    for begin, end, told in (
        (scale_simulation.BEGIN, scale_simulation.END, part("scale", json.decode(DAY.read_bytes(), type=Simulated))),
        (footprint.BEGIN, footprint.END, footprint.part(json.decode(FOOTPRINT.read_bytes(), type=Footprint))),
    ):
        assert text.partition(begin)[2].partition(end)[0].strip() == told
    for picture in re.findall(r"\]\((scale/.*?\.svg)\)", text):
        assert (DOCS / picture).exists()


def test_the_curves_of_a_day_have_24_hours():
    assert {len(curve) for curve in scale_simulation.CURVES.values()} == {24}
