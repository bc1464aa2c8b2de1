"""The gate against labelled transcripts. `pytest -s` on this file, or `python -m tests.data.transcripts`, prints how
well it does."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from domain.speech import Said
from tests.data.transcripts import BAD, GOOD, SILENCE, VERDICTS, Labelled, labelled, report, text, verdict

CASES = labelled()
GOOD_CASES = [case for case in CASES if case.expect == GOOD]


def named(case: Labelled) -> str:
    return case.name


@pytest.mark.parametrize("case", GOOD_CASES, ids=named)
def test_a_good_transcript_is_never_rejected_and_keeps_its_text(case: Labelled) -> None:
    judged = case.judged()
    assert verdict(judged) == GOOD
    assert text(judged) == case.text


@pytest.mark.parametrize("case", [case for case in CASES if case.expect == SILENCE], ids=named)
def test_silence_is_an_honest_empty_success(case: Labelled) -> None:
    judged = case.judged()
    assert judged.failure is None
    assert judged.segments == ()


def test_figures_that_a_server_leaves_out_speak_against_nothing() -> None:
    told = "a word that the detector missed in silence with good figures"
    bare = [
        replace(case, segments=tuple(Said(start=said.start, end=said.end, text=said.text) for said in case.segments))
        for case in GOOD_CASES
        if case.name != told
    ]
    assert [case.name for case in bare if verdict(case.judged()) != GOOD or text(case.judged()) != case.text] == []


@pytest.mark.parametrize("held_out", [False, True], ids=["known", "held out"])
def test_bad_transcripts_are_found(held_out: bool) -> None:
    cases = [case for case in CASES if case.held_out is held_out]
    told = report(cases)
    print(f"\n{told}")
    bad = [case for case in cases if case.expect in BAD]
    found = [case for case in bad if verdict(case.judged()) == case.expect]
    assert len(found) >= 0.95 * len(bad), told


def test_a_failure_tells_nothing_of_the_text() -> None:
    for case in CASES:
        failure = case.judged().failure
        words = {word.strip(".,!?") for said in case.segments for word in said.text.split()}
        assert not failure or not words & set(failure.message.replace(".", " ").split()) - {"the", "of", "is", "that"}


def test_the_set_is_large_and_at_least_half_of_it_is_good() -> None:
    verdicts = Counter(case.expect for case in CASES)
    assert set(verdicts) == set(VERDICTS)
    assert len(CASES) >= 80
    assert verdicts[GOOD] >= len(CASES) / 2
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.held_out for case in CASES) >= len(CASES) / 3 - 1
