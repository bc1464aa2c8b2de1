"""W3 and W12: 2,000 jobs of one HTTP call of 100 ms each, on 200 slots of one process, and of several.

W3: the share of ideal is the rate from the 200th to the last end of a handler, over the 2,000 calls per second that 200
slots can make. The whole time counts from the start of the worker, which loads meanwhile, to the last end. The handler
is the same in every contestant, and the jobs lie ready before the worker starts. One row goes all the way: our own
worker command and provider, tasks of type `chat_completion`, and a model server that streams its answer after 100 ms;
its calls end when they are answered.

W12: the same with 1, 2 and 4 processes, of 50 slots each: with 200, one process and what it needs of PostgreSQL and
RabbitMQ fill a machine of two cores, and there would be nothing to see. Counted from the moment when every process has
ended 100 runs, so that it is not the start of processes that is measured. Beyond a full processor nothing can scale:
a count of processes is held to its bar only where the processors were busy less than nine tenths of the time. That
includes whatever else the machine did.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from benchmarks import record
from benchmarks.contestant import Contestant, Task, Worker, until, working
from benchmarks.drain import notes
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.ours import Ours
from benchmarks.peers.bare_dramatiq import BareDramatiq
from benchmarks.peers.everyone import peers
from benchmarks.place import Busy, Place, tell
from benchmarks.slow import answering

TITLE = "2,000 calls of 100 ms on 200 slots, one process"
SLOTS, JOBS, WARM_UP = 200, 2_000, 200
CALL = 0.1
PATIENCE = 300.0

SCALING_TITLE = "Calls of 100 ms on 50 slots each of 1, 2 and 4 processes"
PROCESSES, SLOTS_EACH, JOBS_EACH, WARM_UP_EACH = (1, 2, 4), 50, 3_000, 100
FULL = 0.9
"""Of the processors' time."""


class Worked(Struct, frozen=True):
    rate: float
    """Jobs per second, after the warm-up."""
    seconds: float
    """From the start of the workers to the last end."""
    memory: float
    """Megabytes of all workers, at the end."""
    processor: float
    """Milliseconds per job, of all workers; after the warm-up."""
    busy: float
    """How full the machine's processors were meanwhile."""


class ThroughProvider(Ours):
    name = "ours, own provider"
    task_type = "chat_completion"
    profile = "scripted"

    def __init__(self, place: Place, server: str) -> None:
        super().__init__(place)
        self.settings = "`ai-service worker`, chat completions, tickets over RabbitMQ, defaults"
        self._server = server

    def command(self, slots: int) -> list[str]:
        return ["env", f"WORKER_CLAIM_LIMIT={slots}", str(Path(sys.executable).with_name("ai-service")), "worker"]

    def environment(self) -> Mapping[str, str]:
        given = {"AI_PROVIDER": "", "LLM_MODEL": self.profile, "LLM_BASE_URL": f"{self._server}/v1"}
        return {**super().environment(), **given, "PROVIDER_DISCOVERY": "false", "WORKER_HTTP_PORT": "0"}


def run(place: Place, rounds: int) -> Findings:
    completions = place.folder / "calls"
    with answering(CALL, completions) as server:
        contestants: list[Contestant] = [
            Ours(place),
            Ours(place, embedded=True),
            ThroughProvider(place, server),
            *peers(place),
        ]
        task = Task("call", url=f"{server}/slow")
        found: dict[str, list[Worked]] = {each.name: [] for each in contestants}
        for turn in range(rounds):
            for contestant in contestants:
                tell(f"W3 round {turn + 1} of {rounds}: {contestant.name}")
                found[contestant.name].append(worked(place, contestant, task, jobs=JOBS, slots=SLOTS))
    figures = [each for name, values in found.items() for each in _figures(name, values)]
    return Findings(tuple(figures), tuple(_bars(figures, [each.name for each in peers(place)])), notes(contestants))


def _figures(name: str, values: Sequence[Worked]) -> list[Figure]:
    return [
        Figure(name, "share of ideal", "", tuple(each.rate * CALL / SLOTS for each in values)),
        Figure(name, "whole time", "s", tuple(each.seconds for each in values)),
        Figure(name, "memory", "MB", tuple(each.memory for each in values)),
        Figure(name, "processor time", "ms/job", tuple(each.processor for each in values)),
    ]


def _bars(figures: Sequence[Figure], others: Sequence[str]) -> list[Bar]:
    share = {figure.contestant: figure.median for figure in figures if figure.measure == "share of ideal"}
    memory = {figure.contestant: figure.median for figure in figures if figure.measure == "memory"}
    best = max(others, key=lambda name: share[name])
    return [
        Bar("ours / ideal", share["ours"], 0.88),
        Bar(f"ours / best peer ({best})", share["ours"] / share[best], 1.0),
        Bar("ours, own provider / ideal", share[ThroughProvider.name], 0.7),
        Bar("memory of ours", memory["ours"], 100.0, unit="MB", at_most=True),
    ]


def run_scaling(place: Place, rounds: int) -> Findings:
    contestants: list[Contestant] = [Ours(place), BareDramatiq(place)]
    found: dict[tuple[str, int], list[Worked]] = {}
    with answering(CALL) as server:
        task = Task("call", url=f"{server}/slow")
        for turn in range(rounds):
            for processes in PROCESSES:
                for contestant in contestants:
                    tell(f"W12 round {turn + 1} of {rounds}: {contestant.name}, {processes} processes")
                    measured = worked(
                        place,
                        contestant,
                        task,
                        jobs=JOBS_EACH * processes,
                        slots=SLOTS_EACH,
                        processes=processes,
                        warm_up=WARM_UP_EACH,
                    )
                    found.setdefault((contestant.name, processes), []).append(measured)
    figures = [
        figure
        for (name, processes), values in found.items()
        for figure in (
            Figure(
                f"{name}, {processes}",
                "share of ideal",
                "",
                tuple(each.rate * CALL / SLOTS_EACH / processes for each in values),
            ),
            Figure(f"{name}, {processes}", "processors busy", "", tuple(each.busy for each in values)),
        )
    ]
    return Findings(tuple(figures), tuple(_scaling_bars(figures)), notes(contestants))


def _scaling_bars(figures: Sequence[Figure]) -> list[Bar]:
    median = {(figure.contestant, figure.measure): figure.median for figure in figures}
    one = median["ours, 1", "share of ideal"]
    return [
        Bar(f"ours, {processes} processes / {processes}x one process", median[name, "share of ideal"] / one, 0.9)
        for processes in PROCESSES[1:]
        for name in [f"ours, {processes}"]
        if median[name, "processors busy"] < FULL
    ]


def worked(
    place: Place,
    contestant: Contestant,
    task: Task,
    *,
    jobs: int,
    slots: int,
    processes: int = 1,
    warm_up: int = WARM_UP,
) -> Worked:
    """
    Args:
        slots: of each process.
        warm_up: runs that each process ends before it counts.
    """
    file = place.folder / "calls"
    if file.exists():
        file.write_bytes(b"")  # the server may have it open
    contestant.empty()
    contestant.fill(jobs)
    began = time.time()
    with ExitStack() as stack:
        workers = [stack.enter_context(working(contestant, task, slots, file)) for _ in range(processes)]
        since = _all_at_work(file, workers, warm_up)
        busy, spent, ended = Busy(), _processor_time(workers), record.count(file)
        until(file, jobs, within=PATIENCE, worker=workers[0])
        busy_share, spent, ended = busy.share, _processor_time(workers) - spent, record.count(file) - ended
        memory = sum(worker.memory for worker in workers)
    stored = contestant.stored()
    if stored not in {None, jobs}:
        raise SystemExit(f"{contestant.name} stored {stored} results of {jobs} jobs.")
    ends = [each.ended for each in record.entries(file)]
    late = [end for end in ends if end > since]
    return Worked(
        rate=len(late) / (ends[-1] - since),
        seconds=ends[-1] - began,
        memory=memory,
        processor=spent * 1000 / max(1, ended),
        busy=busy_share,
    )


def _all_at_work(file: Path, workers: Sequence[Worker], warm_up: int) -> float:
    """Wait until each worker has ended so many runs.

    Returns:
        When the last of them had.
    """
    until(file, warm_up * len(workers), within=PATIENCE, worker=workers[0])
    while True:
        ends = record.entries(file)
        if len(workers) == 1:  # whatever it has started
            return ends[warm_up - 1].ended
        runs = Counter(each.process for each in ends)
        if sum(count >= warm_up for count in runs.values()) == len(workers):
            return max([each.ended for each in ends if each.process == process][warm_up - 1] for process in runs)
        time.sleep(0.02)


def _processor_time(workers: Sequence[Worker]) -> float:
    return sum(worker.processor_time for worker in workers)
