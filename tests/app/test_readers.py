from __future__ import annotations

from app.readers import MOST_KEPT, Reader, Text
from domain.texts import TextPiece
from tests.factories import new_id

JOB = new_id()


def reader(*pieces: tuple[int, int, str], number: int = 0, offset: int = 0) -> Reader:
    reading = Reader(lambda: None, number, offset)
    for run, at, text in pieces:
        reading.hear(TextPiece(JOB, run, at, text))
    return reading


def test_pieces_that_overlap_are_read_once() -> None:
    assert reader((2, 0, "Hello "), (2, 3, "lo you"), (2, 0, "Hello you.")).take() == Text(2, 0, "Hello you.")


def test_what_comes_after_a_gap_waits_until_all_is_told() -> None:
    reading = reader((2, 0, "Hello "), (2, 9, "."))
    was_missing = reading.missing
    assert reading.take() == Text(2, 0, "Hello ")
    reading.hear(TextPiece(JOB, 2, 0, "Hello you."))
    assert (was_missing, reading.missing) == (True, False)
    assert reading.take() == Text(2, 6, "you.")


def test_another_run_begins_anew_and_a_former_one_is_not_heard_any_more() -> None:
    assert reader((2, 0, "Hello "), (4, 0, "Good"), (2, 6, "you")).take() == Text(4, 0, "Good")


def test_the_rest_is_what_was_not_taken_or_all_of_another_text() -> None:
    taken = reader((2, 0, "Hello "))
    taken.take()
    assert taken.rest(2, "Hello you.") == Text(2, 6, "you.")
    assert taken.rest(2, "Hello you.") is None
    assert taken.rest(2, "Good bye.") == Text(2, 0, "Good bye.")
    assert reader(number=2, offset=6).rest(2, "Hello you.") == Text(2, 6, "you.")


def test_of_a_text_that_nobody_takes_a_bounded_part_is_kept() -> None:
    reading = reader((2, 0, "x" * MOST_KEPT), (2, MOST_KEPT, "y"))
    assert reading.missing
    taken = reading.take()
    assert taken is not None
    assert taken.end == MOST_KEPT
