"""What the rule of order does, as a picture: writes docs/images/order.svg from simulated days.

Left: owners of unequal weight share a queue, and one that comes late has its share from then on. Right: what a flood of
high jobs leaves to low ones, by the queue's settings. Nothing is measured: the same program always draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from domain.job import Priority
from domain.simulation import Arrival, Rules, Run, gpu_time, simulate

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "order.svg"

MINUTE = 60.0
SLOTS = 4

WEIGHTS = {"telephony": 3.0}
LATE = 20 * MINUTE

SETTINGS = {
    "neither": Rules(slots=SLOTS),
    "reserved_share = 0.1": Rules(slots=SLOTS, reserved_share=0.1),
    'ageing = "10m"': Rules(slots=SLOTS, ageing=10 * MINUTE),
}
FLOOD_ENDS = 60 * MINUTE


def owners_day() -> list[Run]:
    """Telephony and monitoring have plenty to do, of unequal length; search comes twenty minutes later."""
    arrivals = [
        *(Arrival(0.0, "telephony", (4.0, 8.0, 24.0)[number % 3]) for number in range(560)),
        *(Arrival(0.0, "monitoring", 3.0) for _ in range(2000)),
        *(Arrival(LATE, "search", (10.0, 20.0)[number % 2]) for number in range(400)),
    ]
    return simulate(arrivals, Rules(slots=SLOTS, weights=WEIGHTS), until=60 * MINUTE)


def flooded_day(rules: Rules) -> list[Run]:
    """For an hour there are more high jobs than the queue can take; all the while a low one comes every half minute."""
    high = [Arrival(1.0 * number, "telephony", 4.2, Priority.HIGH) for number in range(int(FLOOD_ENDS))]
    low = [Arrival(30.0 * number, "archive", 4.2, Priority.LOW) for number in range(180)]
    return simulate(sorted([*high, *low], key=lambda arrival: arrival.at), rules, until=90 * MINUTE)


def minutes(until: float) -> Iterator[float]:
    return (MINUTE * number for number in range(int(until // MINUTE) + 1))


def draw_shares(axes: Axes, runs: Sequence[Run]) -> None:
    times = list(minutes(60 * MINUTE))
    for owner in ("telephony", "monitoring", "search"):
        given = [gpu_time(runs, 0.0, time).get(owner, 0.0) / MINUTE for time in times]
        axes.plot([time / MINUTE for time in times], given, label=f"{owner}, weight {WEIGHTS.get(owner, 1.0):g}")
    axes.axvline(LATE / MINUTE, color="grey", linewidth=0.8, linestyle=":")
    axes.set(title="Owners share by weight", xlabel="minutes", ylabel="GPU minutes given")
    axes.legend(frameon=False)


def draw_floods(axes: Axes) -> None:
    times = list(minutes(90 * MINUTE))
    for name, rules in SETTINGS.items():
        starts = [run.started for run in flooded_day(rules) if run.owner == "archive"]
        axes.plot(
            [time / MINUTE for time in times], [sum(start <= time for start in starts) for time in times], label=name
        )
    axes.axvline(FLOOD_ENDS / MINUTE, color="grey", linewidth=0.8, linestyle=":")
    axes.set(title="Low jobs under a flood of high ones", xlabel="minutes", ylabel="low jobs started")
    axes.legend(frameon=False)


def draw(path: Path) -> None:
    # No random ids, and text as text: the same picture is the same file.
    with mpl.rc_context({"svg.hashsalt": "order", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_shares(left, owners_day())
        draw_floods(right)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(PICTURE)
    print(PICTURE.name)
