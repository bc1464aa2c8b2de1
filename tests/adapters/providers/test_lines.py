from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.providers.lines import LONGEST_LINE, LineReader, LineTooLong
from adapters.providers.sse import EventReader


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"")), st.lists(st.integers(0, 1000), max_size=20))
def test_lines_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    reader = LineReader()
    lines = [line for piece in pieces(data, cuts) for line in reader.feed(piece)]
    assert [*lines, reader.rest] == data.split(b"\n")


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    data = b": ping\r\n\r\nevent: a\r\ndata: 1\r\ndata: 2\r\n\r\ndata:3\n\nretry: 5\n\ndata: cut"
    reader = EventReader()
    events = [event for piece in pieces(data, cuts) for event in reader.feed(piece)]
    assert [(event.name, event.data) for event in events] == [(b"a", b"1\n2"), (b"", b"3")]
    assert list(reader.end()) == []


def test_a_line_may_be_as_long_as_that_and_no_longer() -> None:
    reader = LineReader()
    list(reader.feed(b"x" * LONGEST_LINE))
    assert [len(line) for line in reader.feed(b"\n")] == [LONGEST_LINE]
    with pytest.raises(LineTooLong):
        list(reader.feed(b"x" * (LONGEST_LINE + 1)))
