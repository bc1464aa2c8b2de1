# ruff: noqa: RUF001  # Russian letters are what this is about
from __future__ import annotations

import math
import time
from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.speech import Said, Sound, Span, Transcript, Word
from domain.transcript import joined, judge, merge, shifted

PHRASES = (
    "Субтитры сделал DimaTorzok",
    "Редактор субтитров А.Синецкая Корректор А.Егорова",
    "Sottotitoli creati dalla comunità Amara.org",
    "字幕由Amara.org社区提供",
    "Продолжение следует...",
    "Thanks for watching!",
    "[музыка]",
    "Да. ",
    "да да да да да да да да да да да да да",
    "ну вот так ну вот так ну вот так ну вот так ну вот так ну вот так",
    "Разговор оператора с клиентом о кредите.",
    "Мы приедем завтра. В 12.5 часов, к д. 5. Хорошо?",
    "Hello, this is Dr. Smith. Call me back, please! I'm in.",
    "。。谢谢。好的。",
    "…",
    "\x00\ud800",
)
PROMPT = "Разговор оператора с клиентом о кредите. Имена: Ольга."

few = settings(max_examples=60)

pieces = (
    st.sampled_from(PHRASES)
    | st.text(max_size=12)
    | st.sampled_from(["а", "я", "ты", "he", "and", ".", ",", "!", "?", "—", "«", "»"])
)
repeated = st.tuples(pieces, st.integers(1, 30)).map(lambda pair: (pair[0] + " ") * pair[1])
texts = st.lists(pieces, max_size=6).map(" ".join) | repeated
moments = st.floats(-5, 400) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
figures = st.none() | st.floats(-3, 1) | st.sampled_from([0.0, math.nan])
words = st.lists(
    st.builds(Word, text=pieces, start=st.none() | moments, end=st.none() | moments, probability=figures), max_size=4
).map(tuple)


@st.composite
def timed(draw: st.DrawFn) -> tuple[Word, ...]:
    """Words in order, as an aligner gives them."""
    found = draw(st.lists(pieces, max_size=8))
    at = draw(st.floats(0, 100))
    given_words = []
    for text in found:
        pause = draw(st.floats(0, 3))
        given_words.append(Word(text=text, start=at + pause, end=at + pause + 0.3))
        at += pause + 0.3
    return tuple(given_words)


@st.composite
def saids(draw: st.DrawFn, *, measured: bool = True) -> Said:
    told = draw(timed())
    aligned = bool(told) and draw(st.booleans())
    start = draw(st.floats(0, 300)) if draw(st.booleans()) else draw(moments)
    end = start + draw(st.floats(0, 90)) if draw(st.booleans()) else draw(moments)
    return Said(
        start=start,
        end=end,
        text=" ".join(word.text for word in told) if aligned else draw(texts),
        speaker=draw(st.none() | st.sampled_from(["SPEAKER_00", "SPEAKER_01", ""])),
        words=told if aligned else draw(words),
        avg_logprob=draw(figures) if measured else None,
        compression_ratio=draw(figures) if measured else None,
        no_speech_prob=draw(figures) if measured else None,
    )


spans = st.builds(Span, moments, moments)
sounds = st.builds(
    Sound,
    seconds=st.floats(0, 400) | st.sampled_from([math.nan, math.inf]),
    channels=st.just(1),
    format=st.just("wav"),
    codec=st.just("pcm_s16le"),
    sample_rate=st.just(8_000),
    speech=st.lists(spans, max_size=6).map(tuple),
)
prompts = st.sampled_from(["", PROMPT, "Алло.", "а а а а а"]) | texts


def transcripts(*, measured: bool = True) -> st.SearchStrategy[Transcript]:
    lines = st.lists(saids(measured=measured), max_size=8) | st.builds(
        lambda said, copies: [said] * copies, saids(measured=measured), st.integers(1, 20)
    )
    return st.builds(Transcript, segments=lines.map(tuple), language=st.none() | st.just("ru"), cut_short=st.booleans())


@few
@given(transcripts(), sounds, prompts)
def test_whatever_comes_in_segments_come_out_in_order_and_finite(given: Transcript, sound: Sound, prompt: str) -> None:
    judged = judge(given, sound, prompt)
    for segment in judged.segments:
        assert 0 <= segment.start <= segment.end < math.inf
        assert segment.text
        assert segment.text == segment.text.strip()
    assert all(before.start <= after.start for before, after in pairwise(judged.segments))
    assert msgspec.json.encode(judged)


@few
@given(transcripts(), sounds, prompts)
def test_no_text_is_made_up(given: Transcript, sound: Sound, prompt: str) -> None:
    judged = judge(given, sound, prompt)
    left = "".join(segment.text for segment in judged.segments)
    assert len(left) <= sum(len(said.text) for said in given.segments)
    assert set(left) <= {letter for said in given.segments for letter in said.text} | {" "}
    speakers = {said.speaker for said in given.segments} | {msgspec.UNSET}
    assert {segment.speaker for segment in judged.segments} <= speakers


@few
@given(transcripts(measured=False), sounds, prompts)
def test_what_was_judged_is_not_judged_otherwise_again(given: Transcript, sound: Sound, prompt: str) -> None:
    once = judge(given, sound, prompt).segments
    again = judge(_as_transcript(once), sound, prompt)
    assert again.segments == once
    assert not again.flags


@few
@given(transcripts(), sounds, prompts)
def test_without_the_models_figures_only_what_they_spoke_for_goes(given: Transcript, sound: Sound, prompt: str) -> None:
    once = judge(given, sound, prompt).segments
    # A single segment without a time of its own is taken for one over the whole recording.
    assume(not (len(once) == 1 and once[0].end == 0))
    again = judge(_as_transcript(once), sound, prompt).segments
    assert again in (once, ())


def _as_transcript(segments: tuple[object, ...]) -> Transcript:
    return msgspec.convert(msgspec.to_builtins({"segments": segments}), Transcript)


@few
@given(st.lists(st.tuples(st.floats(0, 1_000), transcripts()), max_size=4), sounds)
def test_pieces_join_to_one_transcript(pieces: list[tuple[float, Transcript]], sound: Sound) -> None:
    whole = joined([shifted(piece, at) for at, piece in pieces])
    assert len(whole.segments) == sum(len(piece.segments) for _, piece in pieces)
    assert whole.cut_short == any(piece.cut_short for _, piece in pieces)
    judge(whole, sound)


@few
@given(transcripts(), transcripts(), sounds)
def test_channels_merge_by_time(left: Transcript, right: Transcript, sound: Sound) -> None:
    tracks = [("left", judge(left, sound).segments), ("right", judge(right, sound).segments)]
    merged = merge(tracks)
    assert len(merged) == sum(len(track) for _, track in tracks)
    assert {segment.speaker for segment in merged} <= {"left", "right"}
    assert all(before.start <= after.start for before, after in pairwise(merged))


HOSTILE = {
    "one word": "да " * 350_000,
    "dots": "." * 1_000_000,
    "a word": "а" * 1_000_000,
    "nested loops": "".join(("а б " * 9 + "в ") * 9 + "г " for _ in range(1_300)),
    "credits": "Субтитры сделал DimaTorzok " * 38_000,
    "almost credits": "субтитры субтитры с " * 50_000,
    "almost Amara": ("amara " + "subtitles a b c d e f g ") * 33_000,
    "credits within credits": "корректор А. " * 20_000 + "Егорова " * 20_000,
    "initials": "редактор субтитров а. " * 45_000,
    "sentences": "".join(f"Слово {number}. " for number in range(70_000)),
    "questions": "? " * 500_000,
    "quotes": "» " * 500_000,
    "pairs that differ": "".join(f"да нет {number % 977} " for number in range(90_000)),
    "the prompt": PROMPT * 15_000,
    "ideographs": "谢" * 300_000,
    "ideographic stops": "。" * 300_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_segment_of_a_megabyte_is_judged_in_seconds(name: str) -> None:
    sound = Sound(
        seconds=18_000, channels=1, format="wav", codec="pcm", sample_rate=8_000, speech=(Span(0.0, 17_000.0),)
    )
    said = Said(start=0, end=18_000, text=HOSTILE[name])
    began = time.process_time()
    judge(Transcript(segments=(said,)), sound, PROMPT)
    assert time.process_time() - began < 30


def test_five_hours_of_segments_are_judged_in_seconds() -> None:
    said = tuple(Said(start=at * 0.9, end=at * 0.9 + 0.8, text=f" Да, {at}.", avg_logprob=-0.3) for at in range(20_000))
    speech = tuple(Span(at * 0.9, at * 0.9 + 0.8) for at in range(20_000))
    sound = Sound(seconds=18_000, channels=1, format="wav", codec="pcm", sample_rate=8_000, speech=speech)
    began = time.process_time()
    judged = judge(Transcript(segments=said), sound, PROMPT)
    assert len(judged.segments) == 20_000
    assert judged.failure is None
    assert time.process_time() - began < 30


def test_segments_that_all_overlap_are_judged_in_seconds() -> None:
    said = tuple(Said(start=0, end=18_000, text="да нет " * 9 + f"{at} и ещё раз да нет") for at in range(8_000))
    sound = Sound(seconds=18_000, channels=1, format="wav", codec="pcm", sample_rate=8_000, speech=(Span(0, 17_000),))
    began = time.process_time()
    judge(Transcript(segments=said), sound, PROMPT)
    assert time.process_time() - began < 30
