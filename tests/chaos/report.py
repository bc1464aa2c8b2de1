"""What a run has shown, as text: a part of a document between two marks, or lines for a terminal."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.history import History, Run, Trouble
from tests.chaos.run import Outcome

BEGIN = "<!-- figures of the last long run: written by `make chaos` -->"
END = "<!-- end of the figures -->"
TOLD = 50
"""Violations that a report names, of each kind."""


def rescues(history: History) -> dict[str, list[float]]:
    """Seconds from a fault until the jobs of the worker that it befell were free again, by what befell it.

    One that fell together with an outage of PostgreSQL, with trouble of those who rescue, or with another fault of the
    same worker is told of apart.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for run in history.runs:
        if run.outcome != "crashed":
            continue
        troubles = [t for t in history.troubles_of.get(run.place, []) if t.began <= run.ended and run.began <= t.ended]
        if not troubles:
            continue
        found[_cause(history, run, troubles)].append(run.ended - max(run.began, min(t.began for t in troubles)))
    return dict(found)


def _cause(history: History, run: Run, troubles: Sequence[Trouble]) -> str:
    first = min(trouble.began for trouble in troubles)
    disturbed = any(began <= run.ended and first <= ended for began, ended in history.disturbances)
    return "several faults at once" if disturbed or len(troubles) > 1 else troubles[0].why


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def report(outcome: Outcome) -> str:
    """In Markdown."""
    return "\n".join([*_heading(outcome), *_faults(outcome), *_rescues(outcome), *_checks(outcome)])


def _heading(outcome: Outcome) -> list[str]:
    history, plan = outcome.history, outcome.plan
    statuses = Counter(job.status for job in history.jobs)
    outcomes = Counter(run.outcome for run in history.runs)
    return [
        (
            f"Seed {plan.seed}: {len(outcome.faults)} faults in {plan.seconds / 60:g} minutes, {len(history.jobs):,} "
            f"jobs, {len(history.runs):,} runs, {len(history.calls):,} calls at the provider, "
            f"**{len(outcome.violations)} violations**."
        ),
        "",
        f"* Jobs: {_listed(statuses)}.",
        f"* Runs: {_listed(outcomes)}.",
        f"* Workers outside: {_listed(outcome.outside)}.",
        f"* Steered by hand (answers): {_listed(outcome.steered)}.",
        f"* Answers to callers (0: none came): {_listed(outcome.answers)}.",
        (
            f"* Streams of events followed: {len(history.followed)}, taken up again "
            f"{sum(followed.resumed for followed in history.followed)} times."
        ),
        *(f"* Left out: {told}." for told in sorted(set(outcome.left_out))),
        "",
    ]


def _faults(outcome: Outcome) -> list[str]:
    counted = Counter(fault.name for fault, _ in outcome.faults)
    return [
        "| fault | times |",
        "| --- | --- |",
        *(f"| {name} | {times} |" for name, times in sorted(counted.items())),
        "",
    ]


def _rescues(outcome: Outcome) -> list[str]:
    found = rescues(outcome.history)
    return [
        "Seconds from a fault until the jobs of the worker that it befell were free again:",
        "",
        "| fault | jobs | p50 | p99 | longest |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {why} | {len(times)} | {' | '.join(f'{percentile(times, share):.1f}' for share in (0.5, 0.99, 1))} |"
            for why, times in sorted(found.items())
        ),
        "",
    ]


def _checks(outcome: Outcome) -> list[str]:
    lines = ["| what holds | looked at | violations |", "| --- | --- | --- |"]
    lines += [f"| {each.what} | {each.count:,} | {len(each.violations)} |" for each in outcome.checked]
    excused = [(each, why, times) for each in outcome.checked for why, times in sorted(each.excused.items())]
    if excused:
        lines += ["", "Seen, and explained:", ""]
        lines += [f"* {each.what}: {times} times {why}" for each, why, times in excused]
    for each in outcome.checked:
        if each.violations:
            lines += ["", f"**Violated: {each.what}**", ""]
            lines += [f"* {violation}" for violation in each.violations[:TOLD]]
    return lines


def _listed(counted: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{times:,} {name}" for name, times in sorted(counted.items(), key=str)) or "none"


def write(file: Path, text: str) -> None:
    """Put the report between its marks in the document; what stands around it stays."""
    part = f"{BEGIN}\n\n{text}\n\n{END}"
    before = file.read_text() if file.exists() else ""
    if BEGIN in before and END in before:
        after = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: part, before, flags=re.DOTALL)
    else:
        after = f"{before.rstrip()}\n\n{part}\n".lstrip()
    file.write_text(after)
