"""What a page of metrics says, by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import openmetrics
from prometheus_client import parser as plain
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as open_parser

from adapters.telemetry.bounded import Bounded
from adapters.telemetry.metrics import Labels, Metrics
from tests.factories import PROFILE, QUEUE

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics(**changes: object) -> Metrics:
    labels = Labels(
        queue=Bounded({QUEUE, "gpu.speech"}.__contains__),
        task_type=Bounded({"llm_chat", "transcribe"}.__contains__),
        profile=Bounded({PROFILE}.__contains__),
        owner=Bounded({"beeline"}.__contains__, 100),
    )
    return Metrics(labels, version="1.2.3", **changes)  # type: ignore[arg-type]  # whatever a test gives it


def families(content_type: str, text: str) -> list[Metric]:
    """What the page holds, read in the form that it says it has."""
    if content_type.startswith(openmetrics.exposition.CONTENT_TYPE_LATEST.partition(";")[0]):
        return list(open_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # it has no types
    return list(plain.text_string_to_metric_families(text))


def figures(found: Iterable[Metric]) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value for family in found for sample in family.samples
    }


def read(counted: Metrics, accept: str = "") -> Figures:
    content_type, body = counted.page(accept)
    return figures(families(content_type, body.decode()))


def of(page: Figures, name: str, **labels: str) -> float:
    """One figure; 0 where there is none, as Prometheus adds it up."""
    return page.get((name, frozenset(labels.items())), 0.0)
