"""Measure the service beside its peers: `python -m benchmarks W1 W3 --rounds 3`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from rich.console import Console

from benchmarks import batches, browsing, calls, crash, depth, drain, idle, latency, posting, report, urgent, waiting
from benchmarks.findings import Findings
from benchmarks.place import Place, place, tell
from benchmarks.report import Measured
from benchmarks.setting import busy, now, setting

WORKLOADS: dict[str, tuple[str, Callable[[Place, int], Findings]]] = {
    "W1": (drain.TITLE, drain.run),
    "W2": (latency.TITLE, latency.run),
    "W3": (calls.TITLE, calls.run),
    "W4": (crash.TITLE, crash.run),
    "W5": (urgent.TITLE, urgent.run),
    "W6": (depth.TITLE, depth.run),
    "W7": (posting.TITLE, posting.run),
    "W8": (batches.TITLE, batches.run),
    "W9": (waiting.TITLE, waiting.run),
    "W10": (idle.TITLE, idle.run),
    "W11": (browsing.TITLE, browsing.run),
    "W12": (calls.SCALING_TITLE, calls.run_scaling),
}


def main() -> None:
    options = parse()
    memory = report.recall(options.json) if options.json else {}
    # What the servers tell of themselves is not asked for here; a file has no width.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    failed = [] if options.redraw else measure_all(console, options, memory)
    if options.page:
        report.write(options.page, memory)
        report.draw(options.page, memory)
        tell(f"Written: {options.page}")
    if failed:
        raise SystemExit(f"Not measured, see above: {', '.join(failed)}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"which of {', '.join(WORKLOADS)}; else all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the figures; those of other workloads stay")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a document that gets the figures, between marks")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: draw the page from the JSON file")
    options = parser.parse_args(arguments)
    options.workloads = list(dict.fromkeys(name.upper() for name in options.workloads)) or list(WORKLOADS)
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if options.redraw and not (options.json and options.page):
        parser.error("--redraw needs --json and --page")
    return options


def measure_all(console: Console, options: argparse.Namespace, memory: dict[str, Measured]) -> list[str]:
    """Into the memory, which is kept after each workload; which ones could not be measured."""
    names: list[str] = options.workloads
    failed = []
    for number, name in enumerate(names):
        left = ", ".join(names[number + 1 :]) or "none"
        tell(f"{name}: {WORKLOADS[name][0]} ({number + 1} of {len(names)}, then: {left}; load {busy():.1f})")
        try:
            memory[name] = measure(name, options.rounds)
        # One that breaks down must not take the figures of the others with it.
        except (Exception, SystemExit) as error:
            failed.append(name)
            tell(str(error) if isinstance(error, SystemExit) else traceback.format_exc())
            continue
        report.tell(console, name, memory[name])
        if options.json:
            report.remember(options.json, memory)
    report.summary(console, memory, [name for name in names if name not in failed])
    return failed


def measure(name: str, rounds: int) -> Measured:
    title, run = WORKLOADS[name]
    before, date, began = busy(), now(), time.monotonic()
    with place() as here:
        measured_on = setting(here)
        findings = run(here, rounds)
    took = round(time.monotonic() - began, 1)
    return Measured(title, date, rounds, before, took, measured_on, findings)


if __name__ == "__main__":
    main()
