from __future__ import annotations

from pathlib import Path

from tests.chaos.history import History, Run, Trouble
from tests.chaos.report import BEGIN, END, percentile, rescues, write

TROUBLE = Trouble("w1", 10.0, 30.0, "kill worker")


def crashed(worker: str = "w1/0", began: float = 5.0, ended: float = 12.0) -> Run:
    return Run("a", 3, worker, began, ended, "crashed", "pending")


def test_a_rescue_takes_from_the_fault_to_the_end_of_the_run() -> None:
    assert rescues(History(runs=[crashed()], troubles=[TROUBLE])) == {"kill worker": [2.0]}


def test_a_rescue_of_what_was_claimed_after_the_fault_takes_from_then() -> None:
    assert rescues(History(runs=[crashed(began=11.0)], troubles=[TROUBLE])) == {"kill worker": [1.0]}


def test_a_rescue_that_something_else_may_have_delayed_is_told_of_apart() -> None:
    together = History(runs=[crashed()], troubles=[TROUBLE, Trouble("w1", 1.0, 6.0, "stop worker")])
    disturbed = History(runs=[crashed()], troubles=[TROUBLE], disturbances=[(11.0, 40.0)])
    assert list(rescues(together)) == list(rescues(disturbed)) == ["several faults at once"]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1)] == [50.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0


def test_figures_are_written_between_their_marks_and_the_prose_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\nBefore.\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter.\n")
    write(page, "new \\1")
    assert page.read_text() == f"# Title\n\nBefore.\n\n{BEGIN}\n\nnew \\1\n\n{END}\n\nAfter.\n"


def test_a_page_without_marks_gets_them_at_its_end(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write(page, "figures")
    write(page, "later figures")
    assert page.read_text() == f"{BEGIN}\n\nlater figures\n\n{END}\n"
