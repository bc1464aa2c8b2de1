"""The tables of docs/metrics.md, made of the catalogue; what stands around them is written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from adapters.telemetry.catalogue import CATALOGUE, Kind, Metric, Where

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

TABLES = {
    "whole": {Where.LEADER},
    "jobs": {Where.RUNS, Where.TICKETS},
    "workers": {Where.WORKERS},
    "rest": {Where.EACH, Where.API, Where.SCHEDULERS},
}
"""By the processes that export them."""

MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def page() -> str:
    """The page as it should be."""
    return MARKED.sub(lambda place: place[1] + table(place[2]) + place[3], PAGE.read_text(encoding="utf-8"))


def table(name: str) -> str:
    head = "| metric | type | labels | unit | exported by | what it says |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(_rows(metric for metric in CATALOGUE if metric.where in TABLES[name]))


def _rows(metrics: Iterable[Metric]) -> Iterable[str]:
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        says = metric.says + (f" Buckets: {_buckets(metric)}." if metric.kind is Kind.HISTOGRAM else "")
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.where} | {says} |\n"


def _buckets(metric: Metric) -> str:
    return ", ".join(f"{bound:g}" for bound in metric.buckets)
