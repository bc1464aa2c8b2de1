"""The page of metrics is that of the catalogue, and its queries ask for metrics that there are."""

from __future__ import annotations

import re

from adapters.telemetry.catalogue import CATALOGUE, Kind, Where
from tests.docs.metrics import PAGE, TABLES, page

TEXT = PAGE.read_text(encoding="utf-8")
PARTS = ("_bucket", "_sum", "_count")


def test_its_tables_are_current():
    assert page() == TEXT, "write it anew: make reference"


def test_every_metric_is_in_one_of_its_tables():
    assert sorted(where for table in TABLES.values() for where in table) == sorted(Where)
    assert [metric.name for metric in CATALOGUE if TEXT.count(f"| `{metric.name}` |") != 1] == []


def test_whatever_it_names_there_is():
    known = {metric.name: metric for metric in CATALOGUE}
    parts = {f"{name}{part}" for name, metric in known.items() if metric.kind is Kind.HISTOGRAM for part in PARTS}
    assert set(re.findall(r"\baijobs_\w+", TEXT)) <= {*known, *parts}
