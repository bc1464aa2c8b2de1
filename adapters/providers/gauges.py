"""What a model server tells of its load in Prometheus' text format: two gauges are read, the rest is passed over."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from domain.adaptive import Pressure

RUNNING_AND_WAITING = (
    (b"vllm:num_requests_running", b"vllm:num_requests_waiting"),
    (b"llamacpp:requests_processing", b"llamacpp:requests_deferred"),
)


def read_pressure(metrics: bytes) -> Pressure | None:
    """The load that these metrics tell of, summed over engines and models; None where they tell of none."""
    for names in RUNNING_AND_WAITING:
        running, waiting = (_sum(_samples(metrics, name)) for name in names)
        if running is not None and waiting is not None:
            return Pressure(running, waiting)
    return None


def _samples(metrics: bytes, name: bytes) -> Iterable[bytes]:
    """The values under exactly this name. Some exporters write an underscore where vLLM writes a colon."""
    pattern = re.escape(name).replace(b":", b"[:_]")
    return re.findall(rb"^%s(?:\{.*\})?[ \t]+(\S+)" % pattern, metrics, re.MULTILINE)


def _sum(samples: Iterable[bytes]) -> float | None:
    values = [value for sample in samples if (value := _number(sample)) is not None]
    return sum(values) if values else None


def _number(sample: bytes) -> float | None:
    try:
        value = float(sample)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
