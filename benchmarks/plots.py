"""The pictures of what was measured: ours in one colour, others in another, bars as lines.

Readable on a light and on a dark page: nothing is filled behind them, and text is of a grey that stands out from both.
The same figures always give the same file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from math import isclose
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.findings import Bar, Figure, Findings
from benchmarks.report import by_measure, goal, number, value

OURS, THEIRS, GREY = "#e8590c", "#5c8bb8", "#767676"
MET, MISSED = "#2b9a4b", "#e03131"
DIRECT = "direct"
"""The contestant that is a call without any service."""
FARTHEST = 20.0
"""Times a goal: what is farther from it stands at the edge."""


def style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "svg.hashsalt": "performance",  # no random ids
            "svg.fonttype": "none",
            "font.size": 9,
            "text.color": GREY,
            "axes.labelcolor": GREY,
            "axes.edgecolor": GREY,
            "axes.titlesize": 9,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "savefig.transparent": True,
        }
    )


def draw_workload(path: Path, findings: Findings) -> None:
    """One field per measure, one line per contestant: the median, and from the least to the most."""
    measures = by_measure(findings.figures)
    heights = [len(figures) * 0.26 + 0.75 for figures in measures.values()]
    with style():
        picture = Picture(figsize=(8.0, sum(heights)), layout="constrained")
        fields = picture.subplots(len(measures), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, (measure, figures) in zip(fields, measures.items(), strict=True):
            _draw_measure(axes, measure, figures, ours(findings), lines(measure, figures, findings.bars))
        save(picture, path)


def ours(findings: Findings) -> frozenset[str]:
    """The contestants that are this service: where none is called so, all but the direct call."""
    names = {figure.contestant for figure in findings.figures}
    return frozenset({name for name in names if name.startswith("ours")} or names - {DIRECT})


class Mark(NamedTuple):
    """A bar among the figures of a measure."""

    at: float
    bar: Bar
    against: str


def lines(measure: str, figures: Sequence[Figure], bars: Sequence[Bar]) -> list[Mark]:
    """Where bars stand among the figures of a measure: those that say so, and those whose value is found there."""
    found = []
    for bar in bars:
        if bar.measure and bar.measure != measure:
            continue
        against = _against(bar, figures)
        if against:
            found.append(Mark(bar.goal * against.median, bar, against.contestant))
        elif not bar.against and (bar.measure or any(_is_of(bar, figure) for figure in figures)):
            found.append(Mark(bar.goal, bar, ""))
    return found


def _against(bar: Bar, figures: Sequence[Figure]) -> Figure | None:
    """Whose median the bar is a multiple of, if of any here."""
    named = [each for each in figures if each.contestant == bar.against]
    if bar.against or bar.unit != "x":
        return next(iter(named), None)
    divisors = [each for each in figures if each.median and bar.what.endswith(f"/ {each.contestant}")]
    quotients = (each for each in divisors if any(isclose(one.median / each.median, bar.value) for one in figures))
    return next(quotients, None)


def _is_of(bar: Bar, figure: Figure) -> bool:
    return bar.unit in {figure.unit, "x" if not figure.unit else figure.unit} and isclose(figure.median, bar.value)


def _draw_measure(
    axes: Axes, measure: str, figures: Sequence[Figure], ours: Collection[str], marks: Sequence[Mark]
) -> None:
    rows = range(len(figures))
    medians = [figure.median for figure in figures]
    colours = [OURS if figure.contestant in ours else THEIRS for figure in figures]
    axes.barh(rows, medians, color=colours, height=0.62)
    spread = (
        [figure.median - min(figure.values) for figure in figures],
        [max(figure.values) - figure.median for figure in figures],
    )
    axes.errorbar(medians, rows, xerr=spread, fmt="none", ecolor=GREY, elinewidth=1.0, capsize=2.5)
    most = max([*(max(figure.values) for figure in figures), 0.0])
    for row, figure in enumerate(figures):
        axes.annotate(
            number(figure.median),
            (max(figure.values), row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    for at, bar, against in marks:
        most = max(most, at)
        colour = MET if bar.met else MISSED
        axes.axvline(at, color=colour, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"{goal(bar)} {against}".strip(),
            (at, 1.0),
            (2, 1),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=7,
            color=colour,
        )
    axes.set_yticks(rows, [figure.contestant for figure in figures])
    axes.set_xlim(0.0, most * 1.13 or 1.0)
    axes.invert_yaxis()
    axes.set_title(f"{measure} ({figures[0].unit})", loc="left", pad=12 if marks else 5)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(path: Path, bars: Sequence[tuple[str, Bar]]) -> None:
    """All bars in one field: right of the line is met, left of it missed, on a scale on which twice is twice."""
    with style():
        picture = Picture(figsize=(8.0, 0.24 * len(bars) + 0.9), layout="constrained")
        axes = picture.subplots()
        axes.axvline(1.0, color=GREY, linewidth=1.0)
        for row, (_, bar) in enumerate(bars):
            at = _share(bar)
            colour = MET if bar.met else MISSED
            axes.plot([1.0, at], [row, row], color=colour, linewidth=1.6)
            axes.plot([at], [row], color=colour, marker="o" if bar.met else "X", markersize=6)
            # On the line's other side, where nothing is drawn.
            side = (-6, "right") if at >= 1 else (6, "left")
            axes.annotate(
                value(bar), (1.0, row), (side[0], 0), textcoords="offset points", ha=side[1], va="center", fontsize=7
            )  # fmt: skip
        axes.set_yticks(range(len(bars)), [f"{name}  {bar.what}, {goal(bar)}" for name, bar in bars], fontsize=7)
        shares = [_share(bar) for _, bar in bars]
        least, most = min([*shares, 0.65]) / 1.3, max([*shares, 1.5]) * 1.3
        axes.set_xscale("log")
        axes.set_xlim(least, most)
        ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if least <= tick <= most]
        axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlabel("missed  ←  how many times better than its bar  →  met")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        save(picture, path)


def _share(bar: Bar) -> float:
    """How many times better than its goal, as far as it is drawn."""
    better, worse = (bar.goal, bar.value) if bar.at_most else (bar.value, bar.goal)
    if better == worse:
        return 1.0
    return FARTHEST if worse <= 0 else min(max(better / worse, 1 / FARTHEST), FARTHEST)


def save(picture: Picture, path: Path) -> None:
    picture.savefig(path, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
