"""The pictures of the simulated day: slots and waiting jobs over time, waits by hour, shares by owner."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import GREY, OURS, THEIRS, save, style
from benchmarks.scale_simulation import HOUR, QueueTold, Simulated
from benchmarks.simulated_line import LEVELS

COLOURS = dict(zip(LEVELS, (OURS, THEIRS, GREY), strict=True))


def draw(folder: Path, told: Simulated) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        save(_day(told), folder / "day.svg")
        save(_waits(told), folder / "waits.svg")
        save(_shares(told), folder / "shares.svg")


def _day(told: Simulated) -> Figure:
    picture = Figure(figsize=(8.0, 1.75 * len(told.queues)), layout="constrained")
    for (left, right), queue in zip(
        picture.subplots(len(told.queues), 2, squeeze=False, sharex=True), told.queues, strict=True
    ):
        _draw_slots(left, queue)
        _draw_waiting(right, queue)
        _tidy(left, right)
    picture.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    left.set_xlabel("hour of the day")
    right.set_xlabel("hour of the day")
    return picture


def _draw_slots(axes: Axes, queue: QueueTold) -> None:
    hours = [at / HOUR for at, *_ in queue.looks]
    axes.fill_between(hours, [busy for *_, busy, _ in queue.looks], color=OURS, alpha=0.75, linewidth=0)
    axes.plot(hours, [slots for *_, slots in queue.looks], color=GREY, linewidth=1.0)
    axes.set_ylim(0, 1.15 * queue.slots)
    axes.set_title(f"{queue.name}: slots that are there (line) and busy", loc="left")


def _draw_waiting(axes: Axes, queue: QueueTold) -> None:
    hours = [at / HOUR for at, *_ in queue.looks]
    for level, name in enumerate(LEVELS):
        waiting = [look[1][level] / 1_000 for look in queue.looks]
        axes.plot(hours, waiting, color=COLOURS[name], linewidth=1.2, label=name)
    axes.set_title(f"{queue.name}: thousands of jobs waiting", loc="left")
    axes.set_ylim(bottom=0)


def _waits(told: Simulated) -> Figure:
    picture = Figure(figsize=(8.0, 2.4), layout="constrained")
    fields = picture.subplots(1, len(told.queues), squeeze=False, sharey=True)[0]
    for axes, queue in zip(fields, told.queues, strict=True):
        for name in LEVELS:
            waits = queue.hourly[name]
            axes.plot([*waits, waits[-1]], color=COLOURS[name], linewidth=1.4, drawstyle="steps-post", label=name)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(0, 50_000)
        axes.set_yticks([0, 1, 10, 100, 1_000, 10_000], ["0", "1", "10", "100", "1,000", "10,000"])
        axes.set_yticks([], minor=True)
        axes.set_xlim(0, len(queue.hourly[LEVELS[0]]))
        axes.set_title(queue.name, loc="left")
        axes.set_xlabel("hour of the day")
        _tidy(axes)
    fields[0].set_ylabel("wait p95, s")
    lines = axes.get_legend_handles_labels()
    picture.legend(*lines, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    return picture


def _shares(told: Simulated) -> Figure:
    rows = [
        (f"{queue.name}, {each.level}: {each.owner} ({60 * each.hours:.0f} min)", each)
        for queue in told.queues
        for each in queue.shares
    ]
    picture = Figure(figsize=(8.0, 0.32 * len(rows) + 0.9), layout="constrained")
    axes = picture.subplots()
    axes.barh(range(len(rows)), [100 * each.given for _, each in rows], height=0.55, color=OURS, label="given")
    entitled = [100 * each.entitled for _, each in rows]
    axes.plot(
        entitled, range(len(rows)), color=GREY, marker="|", markersize=15, mew=2, linestyle="", label="entitled to"
    )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the GPU time that was given while they waited")
    picture.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    _tidy(axes)
    return picture


def _tidy(*fields: Axes) -> None:
    for axes in fields:
        axes.spines[["top", "right"]].set_visible(False)
