"""The few samples that are wanted of a page in Prometheus' text format, which may be long, and written by anybody.

Only the lines of the wanted metrics are parsed, each for itself: a page of cAdvisor has ten thousand others, and one
line that cannot be read must not cost those that can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from contextlib import suppress

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

UNKNOWN = 9.2e18
"""dcgm-exporter writes 9223372036854775794 for what a GPU cannot tell."""

LONGEST_LINE = 16 << 10
LONGEST_TEXT = 200
"""Of a label's value, as it is shown."""

Series = tuple[str, frozenset[tuple[str, str]]]


class Sample(Struct, frozen=True):
    name: str
    labels: dict[str, str]
    value: float

    @property
    def series(self) -> Series:
        """What makes it the same as one of another look."""
        return self.name, frozenset(self.labels.items())

    def label(self, *names: str) -> str | None:
        """The first of these labels that says anything."""
        return next((value[:LONGEST_TEXT] for name in names if (value := self.labels.get(name))), None)


class Samples:
    """What one look found, without the values that say that nothing is known."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    @property
    def all(self) -> list[Sample]:
        return [sample for samples in self._by_name.values() for sample in samples]

    def of(self, *names: str) -> list[Sample]:
        """Those of the first of these names that has any."""
        return next((self._by_name[name] for name in names if name in self._by_name), [])

    def value(self, *names: str) -> float | None:
        """That of the first of these names that has any; where there are several, the first."""
        return next((sample.value for sample in self.of(*names)), None)

    def sum(self, *names: str) -> float | None:
        """The same, summed up."""
        found = self.of(*names)
        return sum(sample.value for sample in found) if found else None

    def by(self, *labels: str) -> dict[tuple[str, ...], Samples]:
        """Apart by the values of these labels, in the order in which they come; "" where there is no such label."""
        groups: dict[tuple[str, ...], list[Sample]] = {}
        for sample in self.all:
            groups.setdefault(tuple(sample.labels.get(label, "") for label in labels), []).append(sample)
        return {values: Samples(group) for values, group in groups.items()}

    def increase(self, before: Samples, *names: str) -> float | None:
        """By how much counters grew, summed up.

        Returns:
            None where one of them went back (what counts began anew), or none was there before.
        """
        earlier = {sample.series: sample.value for sample in before.of(*names)}
        grown = [sample.value - earlier[sample.series] for sample in self.of(*names) if sample.series in earlier]
        return sum(grown) if grown and min(grown) >= 0 else None


def read_samples(
    page: bytes, names: Collection[str], *, having: bytes = b"", beside: Collection[str] = ()
) -> Samples | None:
    """The samples of these metrics.

    Args:
        having: what else a line must match, told apart before it is parsed, which costs more.
        beside: metrics that are wanted too, but that anybody's page may have.

    Returns:
        None where the page has no line of the first: it is of somebody else.
    """
    lines = _lines(page, names)
    if not lines:
        return None
    kept = [line for line in lines if len(line) <= LONGEST_LINE and re.search(having, line)]
    return Samples(sample for line in (*kept, *_lines(page, beside)) for sample in _parsed(line))


def _lines(page: bytes, names: Collection[str]) -> list[bytes]:
    # Some exporters write an underscore where vLLM writes a colon.
    wanted = "|".join(re.escape(name).replace(":", "[:_]") for name in names).encode()
    return re.findall(rb"^(?:%s)[{ \t].*" % wanted, page, re.MULTILINE) if names else []


def _parsed(line: bytes) -> Iterable[Sample]:
    with suppress(ValueError, IndexError, KeyError):
        for family in text_string_to_metric_families(line.decode("utf-8", "replace")):
            for sample in family.samples:
                if math.isfinite(sample.value) and sample.value < UNKNOWN:
                    name = sample.name.replace("vllm_", "vllm:", 1) if sample.name.startswith("vllm_") else sample.name
                    yield Sample(name, sample.labels, float(sample.value))
