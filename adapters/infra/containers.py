"""What cAdvisor tells of containers."""

from __future__ import annotations

from adapters.infra.samples import Samples
from domain.infra import Container, Readings

CPU = "container_cpu_usage_seconds_total"
WORKING_SET = "container_memory_working_set_bytes"
LIMIT = "container_spec_memory_limit_bytes"
OOM = "container_oom_events_total"
NAMES = (CPU, WORKING_SET, LIMIT, OOM)

NAMED = rb'[{,]\s*name="[^"]'
"""Rows without a name are not containers: systemd's slices, and the machine as a whole."""

SERVICE = ("container_label_com_docker_compose_service", "container_label_io_kubernetes_container_name", "container")
PAUSE = "POD"
"""Kubernetes' own container of each pod, which does nothing."""

MOST = 500


def read_containers(samples: Samples, before: Samples | None, seconds: float | None) -> Readings:
    """The first 500, in the order of their names."""
    earlier = before.by("id", "name") if before else {}
    found = [
        container
        for key, told in samples.by("id", "name").items()
        if (container := _container(told, earlier.get(key), seconds)).service != PAUSE
    ]
    return Readings(containers=tuple(sorted(found, key=lambda each: each.name)[:MOST]))


def _container(told: Samples, before: Samples | None, seconds: float | None) -> Container:
    one, limit = told.all[0], _whole(told.value(LIMIT))
    used = told.increase(before, CPU) if before and seconds else None
    return Container(
        name=one.label("name") or "",
        image=one.label("image"),
        service=one.label(*SERVICE),
        cpu_cores=round(used / seconds, 4) if used is not None and seconds else None,
        memory_working_set_bytes=_whole(told.value(WORKING_SET)),
        memory_limit_bytes=limit or None,
        oom_events=_whole(told.sum(OOM)),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
