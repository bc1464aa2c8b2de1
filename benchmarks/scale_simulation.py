"""A day of a large installation, in virtual time: 1,000 GPUs, ten million jobs, and what goes wrong.

`python -m benchmarks.scale_simulation --seed 7 --days 1` takes about a minute, always finds the same for the same seed,
and writes the figures of docs/scale.md. Three queues, each with its own GPUs; every job is decided by the service's own
rule of order (`simulated_line.py`). What PostgreSQL and RabbitMQ need for it is not simulated: milliseconds, where runs
take seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
from msgspec import Struct, json
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.findings import quantile
from benchmarks.place import tell
from benchmarks.simulated_line import LEVELS, Arrivals, Gpus, Lane, Line, Look, Outage, Told, Trouble

DAY, HOUR, MINUTE = 86_400.0, 3_600.0, 60.0
HIGH, NORMAL, LOW = range(3)

PART = "the simulated day"
BEGIN, END = f"<!-- {PART}: written by `python -m benchmarks.scale_simulation` -->", f"<!-- end of {PART} -->"
PICTURES = ("day", "waits", "shares")

LOOKS_EVERY, LOOKS_KEPT = MINUTE, 5
"""Shares are judged by the minute; of the day's course every fifth look is kept."""

WEIGHTS = {"telephony": 4.0, "support": 2.0, "search": 2.0, "analytics": 1.0, "archive": 1.0}

OFFICE, FLAT, EVENING, NIGHT = "office", "flat", "evening", "night"
CURVES = {
    # From each of these hours on, relative to the others.
    OFFICE: [1, 1, 1, 1, 1, 2, 4, 8, 13, 17, 18, 17, 14, 16, 17, 16, 14, 10, 7, 5, 4, 3, 2, 1],
    FLAT: [1] * 24,
    EVENING: [3, 2, 1, 1, 1, 1, 2, 3, 5, 6, 7, 8, 9, 9, 8, 8, 9, 11, 14, 16, 16, 14, 9, 5],
    NIGHT: [9, 10, 10, 9, 7, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 6, 8],
}

CRASHES_EVERY = 30 * DAY
"""Per GPU, on average: driver, hardware or the process beside it."""
CRASH_TAKES, CRASH_NOTICED = 5 * MINUTE, 2.0
RACK, RACK_AT, RACK_TAKES, RACK_NOTICED = 0.1, 14 * HOUR, HOUR, 15.0
"""A tenth of the GPUs is cut off at two in the afternoon, so that only missing signs of life tell of it."""
FAILING = 0.01
"""Of all runs: the provider fails half-way."""


class Stream(Struct, frozen=True):
    """What one owner submits at one level."""

    owner: str
    level: int
    jobs: float
    """A day."""
    curve: str = FLAT
    batches: int = 0
    """A day, at any time: part of its jobs come in these, each within five seconds."""
    in_batches: float = 0.5
    longer: float = 1.0
    """Than the queue's usual run, so many times."""


class Pool(Struct, frozen=True):
    name: str
    gpus: Gpus
    service: float
    """Mean seconds of a run."""
    spread: float
    """Sigma of the logarithm."""
    streams: tuple[Stream, ...]


POOLS = (
    Pool(
        "gpu.llm",
        Gpus(640, 8),
        55.0,
        0.9,
        (
            Stream("telephony", HIGH, 400_000, OFFICE, longer=0.4),
            Stream("support", HIGH, 200_000, EVENING, longer=0.4),
            Stream("telephony", NORMAL, 2_000_000, OFFICE),
            Stream("support", NORMAL, 500_000, EVENING),
            Stream("search", NORMAL, 600_000, FLAT, batches=6, in_batches=0.6),
            Stream("analytics", NORMAL, 700_000, FLAT, batches=8, in_batches=0.7),
            Stream("archive", LOW, 400_000, NIGHT, batches=4, longer=1.5),
        ),
    ),
    Pool(
        "gpu.speech",
        Gpus(240, 4),
        30.0,
        1.1,
        (
            Stream("support", HIGH, 50_000, EVENING, longer=0.3),
            Stream("telephony", NORMAL, 1_000_000, OFFICE),
            Stream("support", NORMAL, 300_000, EVENING),
            Stream("archive", LOW, 350_000, NIGHT, batches=4, longer=2.0),
        ),
    ),
    Pool(
        "gpu.embed",
        Gpus(120, 16),
        25.0,
        0.7,
        (
            Stream("search", HIGH, 600_000, EVENING, longer=0.2),
            Stream("search", NORMAL, 1_300_000, FLAT, batches=6),
            Stream("analytics", NORMAL, 600_000, FLAT, batches=12, in_batches=0.8),
            Stream("archive", LOW, 1_000_000, NIGHT, batches=3),
        ),
    ),
)


class Waits(Struct, frozen=True):
    """Seconds from submission to the first start."""

    p50: float
    p95: float
    p99: float
    longest: float


class LaneTold(Struct, frozen=True):
    owner: str
    level: str
    weight: float
    jobs: int
    waits: Waits
    slot_hours: float
    """Of the runs that were started, those included that were lost or failed."""


class Share(Struct, frozen=True):
    """Of the GPU time that its level's runs took that were started while it and others had jobs waiting all the time.

    By their starts: who comes when all slots are taken has its share of those that become free, not of all at once.
    """

    owner: str
    level: str
    hours: float
    """For how long that was so."""
    entitled: float
    given: float


class QueueTold(Struct, frozen=True):
    name: str
    gpus: int
    slots: int
    jobs: int
    completed: int
    failed: int
    retried: int
    lost: int
    lost_hours: float
    """Of slots: what the lost runs had taken."""
    rescued: Waits | None
    """Seconds from the loss of a run to the next start of its job."""
    used: float
    """Busy of the slots that were there, while jobs came."""
    most_waiting: int
    lanes: tuple[LaneTold, ...]
    shares: tuple[Share, ...]
    hourly: Mapping[str, tuple[float, ...]]
    """By level: the 95th percentile of the waits of those that started in each hour."""
    looks: tuple[tuple[float, tuple[int, ...], int, int], ...]
    """Every five minutes: when, waiting by level, busy slots, slots."""


class Simulated(Struct, frozen=True):
    seed: int
    days: float
    share: float
    """Of the GPUs and of the jobs."""
    crashes: int
    queues: tuple[QueueTold, ...]

    @property
    def jobs(self) -> int:
        return sum(queue.jobs for queue in self.queues)


def simulate(seed: int, days: float = 1.0, share: float = 1.0, pools: Sequence[Pool] = POOLS) -> Simulated:
    told = []
    crashes = 0
    for number, pool in enumerate(scaled(each, share) for each in pools):
        began = time.monotonic()
        dice = np.random.default_rng([seed, number])
        outages = tuple(sorted([*_crashes(pool.gpus, days, dice), *_rack(pool.gpus, days)], key=lambda each: each.at))
        crashes += len(outages)
        lanes = [Lane(each.level, each.owner, WEIGHTS[each.owner]) for each in pool.streams]
        line = Line(lanes, pool.gpus, Trouble(outages, FAILING), seed=seed + number, look_every=LOOKS_EVERY)
        told.append(_told(pool, lanes, line.run(arrivals(pool, days, dice)), days))
        tell(f"{pool.name}: {told[-1].jobs:,} jobs in {time.monotonic() - began:.0f} s")
    return Simulated(seed, days, share, crashes, tuple(told))


def scaled(pool: Pool, share: float) -> Pool:
    """The same load on fewer GPUs."""
    count = max(1, round(pool.gpus.count * share))
    real = count / pool.gpus.count
    streams = tuple(
        Stream(each.owner, each.level, each.jobs * real, each.curve, each.batches, each.in_batches, each.longer)
        for each in pool.streams
    )
    return Pool(pool.name, Gpus(count, pool.gpus.slots), pool.service, pool.spread, streams)


def arrivals(pool: Pool, days: float, dice: np.random.Generator, chunk: int = 50_000) -> Iterator[Arrivals]:
    """In pieces: as objects, all at once would fill the memory."""
    times, lanes, services = [], [], []
    for lane, stream in enumerate(pool.streams):
        at = _times(stream, days, dice)
        mean = pool.service * stream.longer
        service = dice.lognormal(log(mean) - pool.spread**2 / 2, pool.spread, len(at))
        times.append(at)
        lanes.append(np.full(len(at), lane, dtype=np.int8))
        services.append(np.where(dice.random(len(at)) < FAILING, -service, service))
    at = np.concatenate(times)
    order = np.argsort(at, kind="stable")
    at, lane_of, service = at[order], np.concatenate(lanes)[order], np.concatenate(services)[order]
    for begin in range(0, len(at), chunk):
        piece = slice(begin, begin + chunk)
        yield Arrivals(at[piece].tolist(), lane_of[piece].tolist(), service[piece].tolist())


def _times(stream: Stream, days: float, dice: np.random.Generator) -> NDArray[np.float64]:
    in_batches = stream.in_batches if stream.batches else 0.0
    singles = dice.poisson(stream.jobs * days * (1 - in_batches))
    # The more that come by an hour of the day, the steeper the curve rises there.
    risen = np.concatenate([[0.0], np.cumsum(np.tile(CURVES[stream.curve], int(-(-days // 1))))])
    hours = np.arange(len(risen)) * HOUR
    end = np.interp(days * DAY, hours, risen)
    times = [np.interp(dice.random(singles) * end, risen, hours)]
    for begin in dice.random(round(stream.batches * days)) * days * DAY:
        size = dice.poisson(stream.jobs * in_batches / stream.batches)
        times.append(begin + dice.random(size) * 5.0)
    return np.concatenate(times)


def _crashes(gpus: Gpus, days: float, dice: np.random.Generator) -> Iterator[Outage]:
    for _ in range(dice.poisson(gpus.count * days * DAY / CRASHES_EVERY)):
        at, gpu = float(dice.random() * days * DAY), int(dice.integers(gpus.count))
        yield Outage(at, (gpu,), CRASH_TAKES, CRASH_NOTICED)


def _rack(gpus: Gpus, days: float) -> Iterator[Outage]:
    if days * DAY > RACK_AT:
        yield Outage(RACK_AT, tuple(range(max(1, round(gpus.count * RACK)))), RACK_TAKES, RACK_NOTICED)


def _told(pool: Pool, lanes: Sequence[Lane], told: Told, days: float) -> QueueTold:
    looks = [look for look in told.looks if look.at <= days * DAY]
    return QueueTold(
        name=pool.name,
        gpus=pool.gpus.count,
        slots=pool.gpus.count * pool.gpus.slots,
        jobs=told.arrived,
        completed=told.completed,
        failed=told.failed,
        retried=told.retried,
        lost=told.lost,
        lost_hours=round(told.lost_seconds / HOUR, 3),
        rescued=_waits(told.rescued_after) if told.rescued_after else None,
        used=round(sum(look.busy for look in looks) / sum(look.slots for look in looks), 4),
        most_waiting=max(sum(look.waiting) for look in looks),
        lanes=tuple(
            LaneTold(
                lane.owner,
                LEVELS[lane.level],
                lane.weight,
                len(lane.waits),
                _waits(lane.waits),
                round(lane.started / HOUR, 1),
            )
            for lane in lanes
        ),
        shares=tuple(shares(lanes, told.looks)),
        hourly={name: _hourly(lanes, level, days) for level, name in enumerate(LEVELS)},
        looks=tuple((look.at, look.waiting, look.busy, look.slots) for look in looks[LOOKS_KEPT - 1 :: LOOKS_KEPT]),
    )


def _waits(values: Sequence[float]) -> Waits:
    p50, p95, p99 = (round(float(each), 3) for each in np.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf"))
    return Waits(p50, p95, p99, round(float(max(values)), 3))


def _hourly(lanes: Sequence[Lane], level: int, days: float) -> tuple[float, ...]:
    found = []
    for hour in range(int(days * 24)):
        # An hour in which all had ended already has no end here.
        waits = [
            wait
            for lane in lanes
            if lane.level == level
            for begin, end in pairwise(lane.hours[hour : hour + 2])
            for wait in lane.waits[begin:end]
        ]
        found.append(round(quantile(waits, 0.95), 3) if waits else 0.0)
    return tuple(found)


def shares(lanes: Sequence[Lane], looks: Sequence[Look]) -> Iterator[Share]:
    """What lanes were given and were entitled to between looks at which two or more of a level were backlogged."""
    entitled, given, total = ([0.0] * len(lanes) for _ in range(3))
    seconds = [0.0] * len(lanes)
    for before, look in pairwise(looks):
        for level in range(len(LEVELS)):
            among = [number for number, lane in enumerate(lanes) if lane.level == level and look.backlogged[number]]
            if len(among) < 2:
                continue
            got = {number: look.started[number] - before.started[number] for number in among}
            weights = sum(lanes[number].weight for number in among)
            for number in among:
                given[number] += got[number]
                entitled[number] += sum(got.values()) * lanes[number].weight / weights
                total[number] += sum(got.values())
                seconds[number] += look.at - before.at
    for number, lane in enumerate(lanes):
        if total[number]:
            yield Share(
                lane.owner,
                LEVELS[lane.level],
                round(seconds[number] / HOUR, 2),
                round(entitled[number] / total[number], 4),
                round(given[number] / total[number], 4),
            )


def part(folder: str, told: Simulated) -> str:
    """The figures in Markdown."""
    return "\n".join([*_heading(told), *_queues(told), *_lanes(told), *_shares(told), *_pictures(folder)])


def _heading(told: Simulated) -> list[str]:
    gpus, slots = (sum(getattr(queue, name) for queue in told.queues) for name in ("gpus", "slots"))
    failed = sum(queue.failed for queue in told.queues)
    return [
        (
            f"Seed {told.seed}, {told.days:g} day: {told.jobs:,} jobs on {gpus:,} GPUs with {slots:,} slots, "
            f"{told.crashes} crashes and outages. Every job ended once: "
            f"{sum(queue.completed for queue in told.queues):,} completed, {failed:,} failed for good."
        ),
        "",
    ]


def _queues(told: Simulated) -> list[str]:
    lines = [
        (
            "| queue | GPUs x slots | jobs | slots busy | most waiting | runs tried again | runs lost with a GPU | "
            "slot hours lost | s from loss to next start, p50, longest |"
        ),
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for queue in told.queues:
        rescued = f"{queue.rescued.p50:.1f}, {queue.rescued.longest:.1f}" if queue.rescued else "-"
        lines.append(
            f"| {queue.name} | {queue.gpus} x {queue.slots // queue.gpus} | {queue.jobs:,} | {queue.used:.0%} | "
            f"{queue.most_waiting:,} | {queue.retried:,} | {queue.lost:,} | {queue.lost_hours:.1f} | {rescued} |"
        )
    return [*lines, ""]


def _lanes(told: Simulated) -> list[str]:
    lines = [
        "Seconds from submission to the first start:",
        "",
        "| queue | priority | owner (weight) | jobs | p50 | p95 | p99 | longest |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for queue in told.queues:
        for lane in queue.lanes:
            waits = " | ".join(_seconds(each) for each in (lane.waits.p50, lane.waits.p95, lane.waits.p99))
            lines.append(
                f"| {queue.name} | {lane.level} | {lane.owner} ({lane.weight:g}) | {lane.jobs:,} | {waits} | "
                f"{_seconds(lane.waits.longest)} |"
            )
    return [*lines, ""]


def _shares(told: Simulated) -> list[str]:
    lines = [
        (
            "GPU time of the runs that owners started, and what their weights entitle them to, in the minutes in which "
            "they and others of the same queue and priority had jobs waiting all the time:"
        ),
        "",
        "| queue | priority | owner | minutes of that | entitled to | given |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        (
            f"| {queue.name} | {each.level} | {each.owner} | {60 * each.hours:.0f} | {each.entitled:.1%} | "
            f"{each.given:.1%} |"
        )
        for queue in told.queues
        for each in queue.shares
    ]
    return [*lines, ""]


def _pictures(folder: str) -> list[str]:
    day, waits, shares = (f"{folder}/{name}.svg" for name in PICTURES)
    return [
        f"![Slots that are there and that are busy, and waiting jobs, over the day]({day})",
        "",
        f"![The 95th percentile of waits by priority, hour by hour]({waits})",
        "",
        f"![What owners were given beside what they are entitled to]({shares})",
    ]


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.005 else "0"


def write(page: Path, told: Simulated) -> None:
    text = page.read_text() if page.exists() else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report.put(text, BEGIN, END, PART.capitalize(), part(page.stem, told)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=1.0, help="of the GPUs and of the jobs (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="gets the figures")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a document that gets them, between marks")
    parser.add_argument("--redraw", action="store_true", help="simulate nothing: draw the page from the JSON file")
    options = parser.parse_args()
    if options.redraw:
        told = json.decode(options.json.read_bytes(), type=Simulated)
    else:
        began = time.monotonic()
        told = simulate(options.seed, options.days, options.share)
        tell(f"{told.jobs:,} jobs in {time.monotonic() - began:.0f} s")
    if options.json and not options.redraw:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(json.encode(told) + b"\n")
    if options.page:
        from benchmarks import scale_plots  # noqa: PLC0415  who only simulates needs no matplotlib

        write(options.page, told)
        scale_plots.draw(options.page.with_suffix(""), told)
    else:
        print(part("scale", told))


if __name__ == "__main__":
    main()
