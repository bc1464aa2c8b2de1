"""The manifests in docs/operations.md give each process the time that it may take to stop."""

from __future__ import annotations

import re
from pathlib import Path

from app.durations import duration

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
STORING = 15
"""Seconds beyond SHUTDOWN_GRACE that the page promises."""


def test_each_example_for_kubernetes_gives_the_pod_the_time_that_its_stop_may_take() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("### Under Kubernetes")[2].partition("\n## ")[0]
    manifests = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert len(manifests) == 2
    for manifest in manifests:
        given = re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)
        grace = re.search(r"SHUTDOWN_GRACE, value: (\w+)", manifest)
        waits = re.search(r'\[sleep, "(\d+)"\]', manifest)
        assert given
        assert grace
        needed = duration(grace[1]).total_seconds() + STORING + (int(waits[1]) if waits else 0)
        assert int(given[1]) == needed
