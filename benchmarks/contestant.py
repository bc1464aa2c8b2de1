"""What every contestant can do, so that a workload is written once for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks import record
from benchmarks.handlers import HANDLER, SECONDS, URL
from tests.e2e.zygote import Forked

STOPPED_WITHIN = 20.0


@dataclass(frozen=True)
class Task:
    """What the jobs do."""

    handler: str
    """`nothing`, `wait` or `call`."""
    seconds: float = 0.0
    """How long a `wait` takes."""
    url: str = ""
    """What a `call` gets."""

    @property
    def environment(self) -> dict[str, str]:
        return {HANDLER: self.handler, SECONDS: str(self.seconds), URL: self.url}


class Sent(NamedTuple):
    """When a job was submitted by itself, in seconds since 1970."""

    asked: float
    answered: float
    """From here on the caller may forget it."""


class Send(Protocol):
    def __call__(self, number: int, *, urgent: bool = False) -> Sent:
        """Submit one job as a caller would, and return once that is answered.

        Args:
            urgent: it goes before every other; only where the contestant was made with priorities.
        """
        ...


class Contestant(Protocol):
    """Made with the place as its only argument; brings its own database, queues and settings."""

    name: str
    """As in a table: `bare Dramatiq`."""
    settings: str
    """Version, and the settings that matter, in a line."""
    keeps: str
    """What it keeps safe, in a few words: `jobs and results in PostgreSQL`."""

    def empty(self) -> None:
        """Leave nothing of the rounds before."""
        ...

    def fill(self, jobs: int) -> None:
        """Submit jobs numbered from 0, each with an input of about 200 bytes; they wait until a worker is started."""
        ...

    def submitter(self) -> AbstractContextManager[Send]:
        """Submits jobs one by one, over connections that are open already."""
        ...

    def command(self, slots: int) -> list[str]:
        """Starts one worker process with so many slots, which ends upon SIGTERM."""
        ...

    def environment(self) -> Mapping[str, str]:
        """Of its worker processes, beside the task's."""
        ...

    def stored(self) -> int | None:
        """How many jobs it has stored as done, with results where it keeps them; None where it keeps nothing."""
        ...


@dataclass(eq=False)
class Worker:
    """A contestant's worker process."""

    popen: subprocess.Popen[bytes] | Forked

    @property
    def memory(self) -> float:
        """Megabytes in memory, with the processes that it started."""
        return _memory(self.popen.pid)

    @property
    def processor_time(self) -> float:
        """Seconds that it has computed, with the processes that it started."""
        return processor_time(self.popen.pid)

    def kill(self) -> None:
        """SIGKILL, and the same to what it started: as if the machine had lost them."""
        for pid in reversed(_family(self.popen.pid)):
            os.kill(pid, signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def working(contestant: Contestant, task: Task, slots: int, file: Path) -> Iterator[Worker]:
    """A worker process of this contestant, which writes its runs into the file."""
    environment = {**os.environ, **contestant.environment(), **task.environment, record.VARIABLE: str(file)}
    log = file.with_suffix(".log").open("ab")
    popen = subprocess.Popen(contestant.command(slots), env=environment, stdout=log, stderr=log)
    worker = Worker(popen)
    try:
        yield worker
    finally:
        if popen.poll() is None:
            worker.stop()
        log.close()


def until(file: Path, runs: int, *, within: float, worker: Worker | None = None) -> None:
    """Wait until so many runs have ended.

    Raises:
        SystemExit: it took too long, or the worker ended; tells the last lines that it said.
    """
    deadline = time.monotonic() + within
    while (ended := record.count(file)) < runs:
        if time.monotonic() > deadline or (worker and worker.popen.poll() is not None):
            log = file.with_suffix(".log")
            said = log.read_text(errors="replace")[-2_000:] if log.exists() else ""
            raise SystemExit(f"{ended} of {runs} runs ended within {within:g} s. The worker said:\n{said}")
        time.sleep(0.02)


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _family(pid: int) -> list[int]:
    return [pid, *(each for child in _children(pid) for each in _family(child))]


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def processor_time(pid: int) -> float:
    """Seconds that a process has computed, with those that it started."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # ended since its parent was asked, which will count it
    fields = stat.rpartition(")")[2].split()[11:15]  # its own, those of ended children
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK") + sum(map(processor_time, _children(pid)))


def _memory(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0) / 1024
    return own + sum(map(_memory, _children(pid)))
