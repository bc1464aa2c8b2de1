"""The harness of the benchmarks: what runs leave behind, and what is said where a contestant cannot go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import pytest

from benchmarks import record
from benchmarks.contestant import Send, Task, until, working
from benchmarks.peers.everyone import INSTALLED_FOR_BENCHMARKS, peer
from benchmarks.place import Place


class Scripted:
    """A contestant whose worker is a line of Python."""

    name = "scripted"
    settings = keeps = ""

    def __init__(self, script: str) -> None:
        self._script = script

    def empty(self) -> None: ...

    def fill(self, jobs: int) -> None: ...

    def submitter(self) -> AbstractContextManager[Send]:
        raise NotImplementedError

    def command(self, slots: int) -> list[str]:
        return [sys.executable, "-c", self._script, str(slots)]

    def environment(self) -> Mapping[str, str]:
        return {}

    def stored(self) -> int | None:
        return None


RUNS_TWO = """
import asyncio, signal
from benchmarks.handlers import handler
async def run():
    handle = handler()
    await handle(7)
    await handle(8)
asyncio.run(run())
signal.pause()
"""


def test_runs_of_a_worker_are_read_in_the_order_of_their_ends(tmp_path: Path):
    began = time.time()
    with working(Scripted(RUNS_TWO), Task("nothing"), 1, tmp_path / "runs") as worker:
        until(tmp_path / "runs", 2, within=60, worker=worker)
        assert worker.memory > 1
        assert worker.processor_time > 0
    entries = record.entries(tmp_path / "runs")
    assert [entry.number for entry in entries] == [7, 8]
    assert all(began <= entry.began <= entry.ended <= time.time() for entry in entries)


def test_what_a_worker_said_is_told_when_it_ends_early(tmp_path: Path):
    dies = Scripted("raise SystemExit('no such queue')")
    with (
        working(dies, Task("nothing"), 1, tmp_path / "runs") as worker,
        pytest.raises(SystemExit, match=r"0 of 2 runs ended.*\n.*no such queue"),
    ):
        until(tmp_path / "runs", 2, within=60, worker=worker)


def test_nothing_needs_a_peer_before_it_takes_part():
    peers = {*INSTALLED_FOR_BENCHMARKS.values(), "psycopg"}
    script = f"import benchmarks.__main__, sys; raise SystemExit({peers!r} & set(sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", INSTALLED_FOR_BENCHMARKS)
def test_a_peer_that_is_not_installed_says_what_installs_it(name: str, monkeypatch: pytest.MonkeyPatch):
    library = INSTALLED_FOR_BENCHMARKS[name]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{library}", raising=False)
    with pytest.raises(SystemExit, match=rf"{name} is not installed \({library} is missing\).*make bench"):
        peer(name, cast("Place", None))
