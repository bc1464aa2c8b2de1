from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.infra.samples import LONGEST_LINE, read_samples

PAGE = b'# TYPE a gauge\na{x="1"} 4\na{x="2"} 5 1772366400000\nab 6\nb 7\n'


def test_only_what_is_wanted_is_read():
    samples = read_samples(PAGE, ["a"])
    assert samples
    assert [(sample.name, sample.labels, sample.value) for sample in samples.all] == [
        ("a", {"x": "1"}, 4),
        ("a", {"x": "2"}, 5),
    ]


def test_a_page_without_any_of_it_is_of_somebody_else():
    assert read_samples(PAGE, ["c"], beside=["a"]) is None


def test_a_line_of_any_length_costs_nothing():
    samples = read_samples(b'a{x="' + b"y" * LONGEST_LINE + b'"} 1\na 2', ["a"])
    assert samples
    assert samples.value("a") == 2


@given(st.binary())
def test_nothing_that_is_sent_does_harm(garbage: bytes):
    read_samples(garbage, ["a"])
    samples = read_samples(PAGE + b"a" + garbage + b"\nb 8", ["b"])
    assert samples
    assert 7 in [sample.value for sample in samples.of("b")]


@given(st.text(alphabet='a{}=",\\# \t\x00\u2028xé1e'))
def test_no_line_that_begins_well_does_harm(rest: str):
    read_samples(b"a{" + rest.encode() + b"\n", ["a"])
