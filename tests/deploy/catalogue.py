"""Which metrics expressions name, and which there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
"""Names every metric that a process exports, as `name` or `name{label,...}`."""

SCRAPED = {"job", "instance", "component", "namespace", "service", "le"}
"""Labels that Prometheus adds, and that of a histogram's buckets."""

NAME = re.compile(r"\b(aijobs_\w+?)(?:_(?:bucket|sum|count))?(?![\w:])(?:\{([^}]*)\})?")


def named(expression: str) -> dict[str, set[str]]:
    """The metrics in an expression, and the labels that it selects them by."""
    found: dict[str, set[str]] = {}
    for name, matchers in NAME.findall(expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return found


def documented() -> dict[str, set[str]]:
    """The metrics of the page and their labels."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"`(aijobs_\w+)(?:\{([^}]*)\})?`", PAGE.read_text(encoding="utf-8")):
        found.setdefault(name, set()).update(re.findall(r"(?:^|,)\s*(\w+)", labels))
    return found


def unknown(expression: str) -> list[str]:
    """What an expression names that the page does not."""
    metrics = documented()
    troubles = []
    for name, labels in named(expression).items():
        if name not in metrics:
            troubles.append(name)
        # A page may name a metric without its labels.
        elif metrics[name] and not labels <= metrics[name] | SCRAPED:
            troubles.append(f"{name}{sorted(labels - metrics[name] - SCRAPED)}")
    return troubles
