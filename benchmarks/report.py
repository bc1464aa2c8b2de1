"""What was measured, for a terminal, as JSON, and as the generated parts of a page.

The JSON file is the memory: a run of some workloads replaces what it says of them and keeps the rest. The page is drawn
from the memory alone, between marks; what stands around them is written by hand and stays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, json
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.findings import Bar, Figure, Findings
from benchmarks.setting import Setting

COMMAND = "`make bench`"
BEGIN, END = "<!-- {}: written by " + COMMAND + " -->", "<!-- end of {} -->"
MACHINE, BARS = "the machine", "the bars"
"""Names of the parts that are about all workloads; the others are named like theirs."""

NOTHING = "Nothing is measured yet."

OVERVIEW = "bars"
"""The picture of all bars."""


class Measured(Struct, frozen=True):
    """What a workload found, and under which circumstances."""

    title: str
    date: str
    rounds: int
    load: float
    """Processes that wanted to run during the minute before it."""
    seconds: float
    """That it took."""
    setting: Setting
    findings: Findings


Memory = Mapping[str, Measured]
"""By workload."""


def recall(file: Path) -> dict[str, Measured]:
    """What is remembered; nothing where there is no such file.

    Raises:
        msgspec.DecodeError: it is not a memory.
    """
    return json.decode(file.read_bytes(), type=dict[str, Measured]) if file.exists() else {}


def remember(file: Path, memory: Memory) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    ordered = dict(sorted(memory.items(), key=lambda item: _place(item[0])))
    file.write_bytes(json.format(json.encode(ordered), indent=2) + b"\n")


def tell(console: Console, name: str, measured: Measured) -> None:
    """To the terminal."""
    findings = measured.findings
    table = Table(title=f"{name}: {measured.title}", title_justify="left", box=box.SIMPLE_HEAD, highlight=False)
    for heading in ("measure", "contestant", "median", "min", "max", "unit"):
        table.add_column(heading, justify="right" if heading in {"median", "min", "max"} else "left")
    for measure, figures in by_measure(findings.figures).items():
        for number, figure in enumerate(figures):
            table.add_row("" if number else measure, figure.contestant, *_spread(figure), figure.unit)
    console.print(table)
    for bar in findings.bars:
        style = "green" if bar.met else "bold red"
        console.print(f"  {verdict(bar):6}  {bar.what}: {value(bar)}, bar {goal(bar)}", style=style, highlight=False)
    for note in findings.notes:
        console.print(f"  {note}", style="dim", highlight=False)


def summary(console: Console, memory: Memory, names: Sequence[str]) -> None:
    """All bars of these workloads in one table."""
    table = Table(title="Bars", title_justify="left", box=box.SIMPLE_HEAD, highlight=False)
    for heading in ("", "bar", "goal", "measured", ""):
        table.add_column(heading)
    for name in names:
        for bar in memory[name].findings.bars:
            table.add_row(name, bar.what, goal(bar), value(bar), verdict(bar), style="" if bar.met else "bold red")
    if table.row_count:
        console.print(table)


def write(page: Path, memory: Memory) -> None:
    """Put the parts between their marks; a part without marks gets a section at the page's end."""
    text = page.read_text() if page.exists() else ""
    for name, part in parts(page.stem, memory, headings(text)).items():
        title = f"{name}: {memory[name].title}" if name in memory else name.capitalize()
        text = put(text, BEGIN.format(name), END.format(name), title, part)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)


def draw(page: Path, memory: Memory) -> None:
    """The page's pictures, into the folder named like it. The same memory always gives the same files."""
    from benchmarks import plots  # noqa: PLC0415  who only measures needs no matplotlib

    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name, measured in memory.items():
        if measured.findings.figures:
            plots.draw_workload(folder / f"{picture(name)}.svg", measured.findings)
    if any(_bars(memory)):
        plots.draw_bars(folder / f"{OVERVIEW}.svg", list(_bars(memory)))


def headings(text: str) -> dict[str, str]:
    """Those of the workloads in a page, by workload: `## W1: As fast as can be`."""
    return {found[1]: found[0] for found in re.findall(r"^## ((W\d+): .*)$", text, flags=re.MULTILINE)}


def parts(folder: str, memory: Memory, headings: Mapping[str, str]) -> dict[str, str]:
    """The generated parts of the page, in Markdown, by name."""
    ordered = dict(sorted(memory.items(), key=lambda item: _place(item[0])))
    anchors = {name: _anchor(headings.get(name, f"{name}: {each.title}")) for name, each in memory.items()}
    return {
        MACHINE: _machine(ordered),
        BARS: _all_bars(folder, ordered, anchors),
        **{name: _workload(folder, name, measured) for name, measured in ordered.items()},
    }


def picture(name: str) -> str:
    return name.lower()


def by_measure(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    found: defaultdict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        found[figure.measure].append(figure)
    return dict(found)


def verdict(bar: Bar) -> str:
    return "met" if bar.met else "MISSED"


def value(bar: Bar) -> str:
    return _with_unit(bar.value, bar.unit)


def goal(bar: Bar) -> str:
    return f"{'at most' if bar.at_most else 'at least'} {_with_unit(bar.goal, bar.unit)}"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.1e}"


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)}{'' if unit in {'x', '%', ''} else ' '}{unit}"


def _machine(memory: Memory) -> str:
    measured_on: list[tuple[Setting, list[str]]] = []
    for name, measured in memory.items():
        known = next((names for setting, names in measured_on if setting == measured.setting), None)
        if known is None:
            measured_on.append((measured.setting, [name]))
        else:
            known.append(name)
    tables = []
    for setting, names in measured_on:
        heading = [] if len(measured_on) == 1 else [f"{', '.join(names)}:", ""]
        rows = [f"| {what} | {told} |" for what, told in setting.lines]
        tables.append("\n".join([*heading, "| | |", "| --- | --- |", *rows]))
    return "\n\n".join(tables) or NOTHING


def _all_bars(folder: str, memory: Memory, anchors: Mapping[str, str]) -> str:
    bars = list(_bars(memory))
    if not bars:
        return NOTHING
    met = sum(bar.met for _, bar in bars)
    rows = [
        f"| [{name}](#{anchors[name]}) | {bar.what} | {goal(bar)} | {value(bar)} | {_marked(bar)} |"
        for name, bar in bars
    ]
    return "\n".join(
        [
            f"{met} of {len(bars)} bars are met.",
            "",
            "| | what | bar | measured | |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"![Each bar, and how far what was measured is from it]({folder}/{OVERVIEW}.svg)",
        ]
    )


def _workload(folder: str, name: str, measured: Measured) -> str:
    findings = measured.findings
    lines = ["| measure | contestant | median | min | max | unit |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for measure, figures in by_measure(findings.figures).items():
        lines += [f"| {measure} | {each.contestant} | {' | '.join(_spread(each))} | {each.unit} |" for each in figures]
    if findings.bars:
        lines += ["", "| what | bar | measured | |", "| --- | --- | --- | --- |"]
        lines += [f"| {bar.what} | {goal(bar)} | {value(bar)} | {_marked(bar)} |" for bar in findings.bars]
    if findings.figures:
        lines += ["", f"![{measured.title}]({folder}/{picture(name)}.svg)"]
    if findings.notes:
        lines += ["", *(f"* {note}" for note in findings.notes)]
    plural = "" if measured.rounds == 1 else "s"
    lines += [
        "",
        (
            f"Measured {measured.date}: {measured.rounds} round{plural} in {measured.seconds:.0f} s; "
            f"load of the machine before it {measured.load:.1f}."
        ),
    ]
    return "\n".join(lines)


def _bars(memory: Memory) -> Iterable[tuple[str, Bar]]:
    return ((name, bar) for name, measured in memory.items() for bar in measured.findings.bars)


def _marked(bar: Bar) -> str:
    return verdict(bar) if bar.met else f"**{verdict(bar)}**"


def _spread(figure: Figure) -> tuple[str, str, str]:
    return number(figure.median), number(min(figure.values)), number(max(figure.values))


def _anchor(heading: str) -> str:
    """Where a reader of the page finds the section, by the rule that GitHub applies to headings."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _place(name: str) -> tuple[int, str]:
    """W2 before W10."""
    digits = re.sub(r"\D", "", name)
    return (int(digits) if digits else 0, name)


def put(text: str, begin: str, end: str, title: str, part: str) -> str:
    """The text with this part between its marks; without marks there, with a section of this title at its end."""
    marked = f"{begin}\n\n{part}\n\n{end}"
    if begin in text and end in text:
        return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: marked, text, count=1, flags=re.DOTALL)
    return f"{text.rstrip()}\n\n## {title}\n\n{marked}\n".lstrip()
