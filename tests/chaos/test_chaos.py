"""A short run of what `make chaos` does for half an hour."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.schedule import CARDS

SEED, MINUTES, JOBS = 5, 1.25, 2_000
FAULTS = len(CARDS)
"""Every kind comes."""

ROOT = Path(__file__).parents[2]
PATIENCE = 900
"""Seconds; a machine that has nothing else to do needs some two minutes."""


@pytest.mark.timeout(PATIENCE + 10)
def test_nothing_is_lost_nor_doubled_nor_left_behind_while_everything_fails(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    asked = {"--seed": SEED, "--minutes": MINUTES, "--jobs": JOBS, "--faults": FAULTS, "--keep": tmp_path}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *(str(word) for pair in asked.items() for word in pair)],
        cwd=ROOT,
        # One that is only named must not be killed.
        env={name: value for name, value in os.environ.items() if name != "TEST_RABBITMQ_URL"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    record_property("report", done.stdout)
    print(done.stdout[-20_000:], done.stderr[-5_000:])
    assert done.returncode == 0
    assert f"{FAULTS} faults" in done.stdout
    assert "**0 violations**" in done.stdout
