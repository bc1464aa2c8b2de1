"""The long run: `python -m tests.chaos --minutes 30 --seed 7 --report docs/reliability.md`.

Ends with 0 where all held, with 1 where something was violated. What processes said is kept then, and where is told.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tests.chaos.report import report, write
from tests.chaos.run import Plan, Progress, run
from tests.chaos.schedule import schedule
from tests.servers.rabbitmq import RabbitMQNotFoundError, find_rabbitmq

JOBS_A_MINUTE = 1800
FAULTS_A_MINUTE = 7
TOLD_EVERY = 10.0
"""Seconds between two lines where nobody looks on."""


def main() -> int:
    options = _options()
    sys.setswitchinterval(0.0005)  # its threads do little each, and wait for one another
    plan = Plan(
        seed=options.seed,
        seconds=options.minutes * 60,
        jobs=options.jobs or round(options.minutes * JOBS_A_MINUTE),
        faults=options.faults or round(options.minutes * FAULTS_A_MINUTE),
    )
    print(f"seed {plan.seed}: {plan.faults} faults in {options.minutes:g} minutes, {plan.jobs} jobs", flush=True)
    if options.show:
        print("\n".join(str(fault) for fault in schedule(plan.seed, plan.seconds, plan.faults)))
        return 0
    try:
        broker = find_rabbitmq(say=lambda line: print(line, flush=True))
    except RabbitMQNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if not broker.controllable:
        print("This run kills RabbitMQ: unset TEST_RABBITMQ_URL, so that it starts one of its own.", file=sys.stderr)
        return 2
    folder = Path(options.keep or tempfile.mkdtemp(prefix="ai-service-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # PostgreSQL may have to run as another user
    broker.start()
    try:
        with _shown(plan) as show:
            outcome = run(plan, folder, broker, show)
    finally:
        broker.stop()
    text = report(outcome)
    print(text)
    for note in (*outcome.notes, *(told for each in outcome.checked for told in each.examples)):
        print(f"note: {note}")
    if options.report:
        write(Path(options.report), text)
    if not outcome.violations and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"what the processes said: {folder}")
    return 1 if outcome.violations else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Troubles a whole installation of real processes while it works, then checks that nothing was "
        "lost, doubled or left behind.",
        epilog="The same seed with the same minutes and faults brings the same faults at the same times.",
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long it is troubled (default: 30)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of all chance (default: any)"
    )
    parser.add_argument("--faults", type=int, help=f"how many (default: {FAULTS_A_MINUTE} a minute)")
    parser.add_argument("--jobs", type=int, help=f"how many (default: {JOBS_A_MINUTE} a minute)")
    parser.add_argument("--report", metavar="FILE", help="a document that gets the figures, between two marks")
    parser.add_argument("--keep", metavar="FOLDER", help="where to keep all that is written, the processes' logs too")
    parser.add_argument("--show", action="store_true", help="only show what would go wrong when")
    return parser.parse_args()


@contextmanager
def _shown(plan: Plan) -> Iterator[Callable[[Progress], None]]:
    console = Console()
    if not console.is_terminal:
        yield _Lines(plan)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda progress: live.update(_table(plan, progress))


def _table(plan: Plan, progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("phase", progress.phase)
    table.add_row("time", f"{progress.gone:.0f} of {plan.seconds:.0f} s")
    table.add_row("jobs", f"{progress.submitted:,} of {plan.jobs:,}, {progress.unfinished:,} unfinished")
    table.add_row("faults", f"{progress.faults} of {plan.faults}")
    table.add_row("last", progress.last_fault)
    return table


class _Lines:
    """A line now and then, and one per change of phase."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._told_at = 0.0
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase == self._phase and now - self._told_at < TOLD_EVERY:
            return
        self._told_at, self._phase = now, progress.phase
        print(
            f"{progress.phase}: {progress.gone:.0f} s, {progress.submitted} jobs ({progress.unfinished} unfinished), "
            f"{progress.faults} faults; {progress.last_fault}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
