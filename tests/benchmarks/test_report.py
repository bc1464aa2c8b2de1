from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from benchmarks import report
from benchmarks.__main__ import WORKLOADS, parse
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.plots import lines, ours
from benchmarks.report import BEGIN, END, Measured
from benchmarks.setting import Setting

DOCS = Path(__file__).parents[2] / "docs"
PAGE, FIGURES = DOCS / "performance.md", DOCS / "performance" / "figures.json"

SETTING = Setting(
    processor="Abacus",
    cores=2,
    memory=24.0,
    system="Linux 6",
    python="3.11.2",
    revision="abc1234",
    servers={"PostgreSQL": "18.6, fsync on"},
    packages={"dramatiq": "2.2.1"},
)


def measured(rate: float = 7_000.0, *, title: str = "Drain") -> Measured:
    figures = (
        Figure("ours", "drained", "jobs/s", (rate, rate - 500, rate + 250)),
        Figure("bare Dramatiq", "drained", "jobs/s", (2_900.0, 2_800.0, 2_700.0)),
    )
    bar = Bar("ours / bare Dramatiq", rate / 2_800, 2.0, measure="drained", against="bare Dramatiq")
    return Measured(title, "2026-01-02 03:04 UTC", 3, 0.4, 61.0, SETTING, Findings(figures, (bar,), ("ours: plain",)))


MEMORY = {"W1": measured(), "W10": measured(title="Idle"), "W2": measured(3_000.0, title="Start")}


def part(text: str, name: str) -> str:
    return text.partition(BEGIN.format(name))[2].partition(END.format(name))[0].strip()


def test_what_is_remembered_is_what_was_measured_and_stands_in_order(tmp_path: Path):
    file = tmp_path / "new" / "figures.json"
    assert report.recall(file) == {}
    report.remember(file, MEMORY)
    assert report.recall(file) == MEMORY
    assert list(report.recall(file)) == ["W1", "W2", "W10"]


def test_a_workload_is_told_with_medians_least_most_bars_and_notes(tmp_path: Path):
    page = tmp_path / "page.md"
    report.write(page, MEMORY)
    told = part(page.read_text(), "W1")
    assert "| drained | ours | 7,000 | 6,500 | 7,250 | jobs/s |" in told
    assert "| ours / bare Dramatiq | at least 2x | 2.5x | met |" in told
    assert "* ours: plain" in told
    assert "Measured 2026-01-02 03:04 UTC: 3 rounds in 61 s; load of the machine before it 0.4." in told


def test_a_missed_bar_says_so_on_the_page_and_in_the_terminal(tmp_path: Path):
    page = tmp_path / "page.md"
    report.write(page, MEMORY)
    console = Console(file=io.StringIO(), width=120)
    report.tell(console, "W2", MEMORY["W2"])
    report.summary(console, MEMORY, ["W2"])
    assert part(page.read_text(), "the bars").startswith("2 of 3 bars are met.")
    assert "| ours / bare Dramatiq | at least 2x | 1.07x | **MISSED** |" in part(page.read_text(), "W2")
    assert console.file.getvalue().count("MISSED") == 2  # type: ignore[attr-defined]


def test_a_bar_that_is_a_most_is_met_by_less():
    assert report.verdict(Bar("waits", 7.9, 8.0, "s", at_most=True)) == "met"
    assert report.verdict(Bar("waits", 8.1, 8.0, "s", at_most=True)) == "MISSED"
    assert report.goal(Bar("waits", 8.1, 8.0, "s", at_most=True)) == "at most 8 s"


def test_a_run_of_some_workloads_keeps_the_others_and_the_prose(tmp_path: Path):
    page = tmp_path / "page.md"
    begin, end = BEGIN.format("W1"), END.format("W1")
    page.write_text(f"# Title\n\n## W1: Fast\n\nBefore.\n\n{begin}\n\nold\n\n{end}\n\nAfter \\1.\n")
    report.write(page, MEMORY)
    first = page.read_text()
    report.write(page, MEMORY | {"W2": measured(9_999.0)})
    second = page.read_text()
    assert part(second, "W1") == part(first, "W1") != "old"
    assert part(second, "W10") == part(first, "W10")
    assert "9,999" in part(second, "W2") != part(first, "W2")
    assert second.startswith(f"# Title\n\n## W1: Fast\n\nBefore.\n\n{begin}")
    assert f"{end}\n\nAfter \\1.\n" in second


def test_the_bars_lead_to_the_sections_by_their_headings(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"## W1: Fast, at 2x\n\n{BEGIN.format('W1')}\n{END.format('W1')}\n")
    report.write(page, MEMORY)
    assert "| [W1](#w1-fast-at-2x) |" in page.read_text()
    assert "| [W10](#w10-idle) |" in page.read_text()


def test_workloads_measured_elsewhere_name_their_machine():
    elsewhere = replace(measured(), setting=replace(SETTING, processor="Slide rule"))
    told = report.parts("page", MEMORY | {"W2": elsewhere}, {})["the machine"]
    assert re.findall(r"^(.*):$|processor \| (.*), 2 cores", told, flags=re.MULTILINE) == [
        ("W1, W10", ""),
        ("", "Abacus"),
        ("W2", ""),
        ("", "Slide rule"),
    ]


def test_the_same_figures_draw_the_same_pictures(tmp_path: Path):
    for name in ("a", "b"):
        report.draw(tmp_path / name / "page.md", MEMORY)
    pictures = {file.name: file.read_bytes() for file in (tmp_path / "a" / "page").iterdir()}
    assert pictures == {file.name: file.read_bytes() for file in (tmp_path / "b" / "page").iterdir()}
    assert sorted(pictures) == ["bars.svg", "w1.svg", "w10.svg", "w2.svg"]
    assert b"at least 2x bare Dramatiq" in pictures["w1.svg"]


def test_a_bar_stands_where_its_value_is_found():
    figures = measured().findings.figures
    assert lines("drained", figures, [Bar("ours / bare Dramatiq", 7_000 / 2_800, 2.0)])[0][0] == 5_600.0
    assert lines("drained", figures, [Bar("ours", 6_750.0, 5_000.0, "jobs/s")]) == []
    assert lines("drained", figures, [Bar("ours", 7_000.0, 5_000.0, "jobs/s")])[0][0] == 5_000.0
    assert lines("drained", figures, [Bar("ours / COPY", 2.5, 2.0)]) == []
    assert lines("memory", figures, [Bar("ours / bare Dramatiq", 2.5, 2.0, measure="drained")]) == []


def test_what_is_not_named_so_is_ours_where_nothing_is():
    assert ours(measured().findings) == {"ours"}
    ways = Findings(tuple(Figure(name, "added", "ms", (1.0,)) for name in ("direct", "POST /chat")), ())
    assert ours(ways) == {"POST /chat"}


def test_workloads_are_named_as_anybody_would():
    assert parse(["w1"]).workloads == ["W1"]
    assert parse([]).workloads == list(WORKLOADS)
    with pytest.raises(SystemExit):
        parse(["W99"])


def test_the_page_says_what_the_figures_say(tmp_path: Path):
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text())
    memory = report.recall(FIGURES)
    report.write(copy, memory)
    assert copy.read_text() == PAGE.read_text(), "run `python -m benchmarks --redraw` with --json and --page"
    for picture in re.findall(r"\]\((performance/.*?\.svg)\)", PAGE.read_text()):
        assert (DOCS / picture).exists()


def test_whatever_misses_its_bar_is_explained_on_the_page():
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    for name, each in report.recall(FIGURES).items():
        if all(bar.met for bar in each.findings.bars):
            continue
        section = next(text for text in sections if text.startswith(f"{name}: "))
        assert "### What is missing" in section, f"{name} misses a bar: say why, and what would be needed"
