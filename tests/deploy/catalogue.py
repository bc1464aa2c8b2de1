"""Which metrics expressions name, and which there are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
"""Its tables have a row for every metric that a process exports: its name, its kind, its labels."""

SCRAPED = {"job", "instance", "component", "namespace", "service", "le"}
"""Labels that Prometheus adds, and that of a histogram's buckets."""

NAME = re.compile(r"\b(aijobs_\w+?)(?:_(?:bucket|sum|count))?(?![\w:])(?:\{([^}]*)\})?")


def named(expression: str) -> dict[str, set[str]]:
    """The metrics in an expression, and the labels that it selects them by."""
    found: dict[str, set[str]] = {}
    for name, matchers in NAME.findall(expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return found


class Metric(NamedTuple):
    kind: str
    labels: set[str]

    def series(self, name: str) -> list[str]:
        """What Prometheus keeps of it."""
        return [f"{name}_bucket", f"{name}_sum", f"{name}_count"] if self.kind == "histogram" else [name]


@cache
def documented() -> dict[str, Metric]:
    """The metrics of the page."""
    rows = re.findall(r"^\| `(aijobs_\w+)` \| (\w+) \|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: Metric(kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def unknown(expression: str) -> list[str]:
    """What an expression names that the page does not."""
    metrics = documented()
    troubles = [name for name in named(expression) if name not in metrics]
    for name, labels in named(expression).items():
        if name in metrics and (strange := labels - metrics[name].labels - SCRAPED):
            troubles.append(f"{name}{sorted(strange)}")
    series = {each for name in named(expression) if name in metrics for each in metrics[name].series(name)}
    return troubles + [each for each in re.findall(r"\baijobs_\w+", expression) if each not in series and not troubles]
