"""Measure the service beside its peers: `python -m benchmarks W1 W3 --rounds 3`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import drain, idle, waiting
from benchmarks.findings import Findings
from benchmarks.place import Place, load, place, tell

WORKLOADS: dict[str, tuple[str, Callable[[Place, int], Findings]]] = {
    "W1": (drain.TITLE, drain.run),
    "W9": (waiting.TITLE, waiting.run),
    "W10": (idle.TITLE, idle.run),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"which of {', '.join(WORKLOADS)}; else all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    arguments = parser.parse_args()
    for name in arguments.workloads or WORKLOADS:
        title, run = WORKLOADS[name]
        with place() as here:
            tell(f"{name}: {title} (load of the machine {load():.1f})")
            report(name, title, run(here, arguments.rounds))


def report(name: str, title: str, findings: Findings) -> None:
    print(f"\n{name}: {title}")
    for figure in findings.figures:
        spread = f"{figure.median:10.4g} ({min(figure.values):.4g} to {max(figure.values):.4g})"
        print(f"  {figure.contestant:24} {figure.measure:16} {spread} {figure.unit}")
    for bar in findings.bars:
        sign = "<=" if bar.at_most else ">="
        print(f"  {'met   ' if bar.met else 'MISSED'} {bar.what}: {bar.value:.3g} {bar.unit}, goal {sign} {bar.goal:g}")


if __name__ == "__main__":
    main()
