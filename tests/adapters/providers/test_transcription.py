from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.providers.transcription import read_transcript
from domain.errors import ErrorCode, Failure, RunFailed
from domain.speech import Said, Transcript

SECONDS = 12.5
SEGMENT = {"start": 0.5, "end": 2.0, "text": " Hello there."}


def read(document: object, content_type: str = "application/json") -> Transcript:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_transcript(body, content_type, SECONDS, ("a private prompt of the caller",))


def failure(document: object, content_type: str = "application/json") -> Failure:
    with pytest.raises(RunFailed) as failed:
        read(document, content_type)
    return failed.value.failure


def texts(transcript: Transcript) -> list[str]:
    return [said.text for said in transcript.segments]


def times(transcript: Transcript) -> list[tuple[float, float]]:
    return [(said.start, said.end) for said in transcript.segments]


def test_a_segment_keeps_its_figures() -> None:
    figures: dict[str, Any] = {"avg_logprob": -0.2, "compression_ratio": 1.4, "no_speech_prob": 0.01}
    [said] = read({"segments": [{**SEGMENT, **figures, "speaker": "A", "tokens": [1], "id": "seg_0"}]}).segments
    assert said == Said(start=0.5, end=2.0, text="Hello there.", speaker="A", **figures)


def test_a_duration_that_is_a_text_is_read_and_figures_that_are_null_are_none() -> None:
    segment = {**SEGMENT, "no_speech_prob": None, "compression_ratio": None, "words": None}
    transcript = read({"duration": "30.0", "language": "ru", "text": "Hello there.", "segments": [segment]})
    assert (transcript.seconds, transcript.language) == (30.0, "ru")
    assert (transcript.segments[0].no_speech_prob, transcript.segments[0].compression_ratio) == (None, None)


def test_words_without_times_are_kept() -> None:
    words = [{"word": "room"}, {"word": "72", "score": None}, {"word": "please", "start": 1.5, "end": 2, "score": 0.9}]
    [said] = read({"segments": [{"start": 1, "end": 2, "text": "room 72 please", "words": words}]}).segments
    assert [(word.text, word.start, word.end, word.probability) for word in said.words] == [
        ("room", None, None, None),
        ("72", None, None, None),
        ("please", 1.5, 2.0, 0.9),
    ]


def test_a_text_alone_lasts_as_long_as_the_recording() -> None:
    assert read({"text": " All of it. "}).segments == (Said(start=0.0, end=SECONDS, text="All of it."),)
    assert read({"text": "All of it.", "segments": []}) == read({"text": "All of it.", "segments": None})


@pytest.mark.parametrize("document", [{"text": ""}, {"text": "", "segments": []}, {"segments": []}, {"text": " \n"}])
def test_no_speech_is_a_transcript_without_segments(document: object) -> None:
    assert read(document).segments == ()


def test_not_a_number_says_nothing_and_spoils_nothing() -> None:
    body = b'{"segments": [{"start": 0, "end": 1, "text": "Hm", "avg_logprob": NaN, "no_speech_prob": -Infinity}]}'
    [said] = read(body).segments
    assert (said.avg_logprob, said.no_speech_prob) == (None, None)


def test_segments_come_in_order_and_none_ends_before_it_begins() -> None:
    segments = [{"start": 5, "end": 4, "text": "b"}, {"start": -1, "end": 2, "text": "a"}, {**SEGMENT, "text": "  "}]
    transcript = read({"segments": segments})
    assert (texts(transcript), times(transcript)) == (["a", "b"], [(0.0, 2.0), (5.0, 5.0)])


def test_a_segment_without_times_lies_between_its_neighbours() -> None:
    segments = [{"start": 0, "end": 3, "text": "a"}, {"text": "b"}, {"start": 7, "end": None, "text": "c"}]
    assert times(read({"segments": segments})) == [(0.0, 3.0), (3.0, 7.0), (7.0, SECONDS)]


def test_a_segment_takes_what_it_does_not_say_from_its_words() -> None:
    words = [
        {"word": "Well,", "start": 1.0, "end": 1.4, "speaker": "SPEAKER_01"},
        {"word": "yes", "start": 1.5, "end": 1.9, "speaker": "SPEAKER_01"},
        {"word": "no", "speaker": "SPEAKER_00"},
    ]
    assert times(transcript := read({"segments": [{"words": words}]})) == [(1.0, 1.9)]
    assert (transcript.segments[0].text, transcript.segments[0].speaker) == ("Well, yes no", "SPEAKER_01")


def test_words_that_are_listed_apart_go_to_the_segments_in_which_they_begin() -> None:
    words = [{"word": word, "start": start, "end": start + 0.4} for word, start in [("a", 0), ("b", 1), ("c", 2)]]
    segments = [{"start": 0, "end": 1.8, "text": "a b"}, {"start": 1.9, "end": 3, "text": "c"}]
    first, second = read({"text": "a b c", "words": [*words, {"word": "d"}], "segments": segments}).segments
    assert [word.text for word in first.words] == ["a", "b"]
    assert [word.text for word in second.words] == ["c", "d"]


def test_words_of_a_text_without_segments_are_kept() -> None:
    [said] = read({"text": "a b", "words": [{"word": "a", "start": 0, "end": 1}, {"word": "b"}]}).segments
    assert [word.text for word in said.words] == ["a", "b"]


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("russian", "ru"),
        ("English", "en"),
        ("haitian creole", "ht"),
        ("ru", "ru"),
        ("PT-br", "pt-br"),
        ("yue", "yue"),
        ("", None),
        ("unknown language", None),
        (None, None),
        (3, None),
    ],
)
def test_a_language_is_given_by_its_code(named: object, code: str | None) -> None:
    assert read({"text": "x", "language": named}).language == code


def test_another_models_name_is_kept() -> None:
    assert read({"text": "x", "model": "whisper-tiny"}).model == "whisper-tiny"


def test_an_answer_that_was_cut_short_says_so() -> None:
    assert read({"text": "x", "finish_reason": "length"}).cut_short
    assert not read({"text": "x", "finish_reason": "stop"}).cut_short


def test_json_may_say_that_it_is_plain_text() -> None:
    assert read({"text": "", "segments": [SEGMENT]}, "text/plain; charset=utf-8").segments[0].text == "Hello there."


@pytest.mark.parametrize("body", [b"Hello there.\n", b"[music] Hello", b'"Hello," he said', b"<unk> hello", b"7"])
def test_plain_text_is_one_segment(body: bytes) -> None:
    assert read(body, "text/plain").segments == (Said(start=0.0, end=SECONDS, text=body.decode().strip()),)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_json_string_is_a_text(content_type: str) -> None:
    assert texts(read("Hello there.", content_type)) == ["Hello there."]


def test_empty_plain_text_is_silence() -> None:
    assert read(b"\n", "text/plain").segments == ()


SRT = """\ufeff1\r
00:00:00,500 --> 00:00:02,000\r
[SPEAKER_01]: Hello\r
there.\r
\r
2\r
01:00:02,250 --> 01:00:03,5\r
<i>Yes</i> &amp; no.\r
"""
VTT = """WEBVTT - a title

NOTE nothing

00:00.500 --> 00:02.000 align:start
<v Anna>Hello <00:01.000>there.</v>

cue-7
01:00:02.250 --> 01:00:03.500
Yes &amp; no.
"""


@pytest.mark.parametrize(("body", "speaker"), [(SRT, "SPEAKER_01"), (VTT, "Anna")])
def test_subtitles_are_segments(body: str, speaker: str) -> None:
    first, second = read(body.encode(), "text/plain").segments
    assert first == Said(start=0.5, end=2.0, text="Hello there.", speaker=speaker)
    assert second == Said(start=3602.25, end=3603.5, text="Yes & no.")


def test_subtitles_of_nothing_are_silence() -> None:
    assert read(b"WEBVTT\n\n", "text/vtt").segments == ()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><p>Bad gateway", "text/html"),
        (b"<html>no", "application/octet-stream"),
        (b"<html>no", "text/plain"),
        (b"<p>no", "text/html; charset=utf-8"),
        (b"", "application/json"),
        (b"", ""),
        (b"{}", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"3", "application/json"),
        (b'{"text": "cut', "text/plain"),
        (b'{"text": null}', "application/json"),
        (b'{"text": 3}', "application/json"),
        (b'{"text": "x", "segments": {}}', "application/json"),
        (b'{"text": "x", "segments": ["x"]}', "application/json"),
        (b'{"segments": [{"text": 3}]}', "application/json"),
        (b"plain text", "application/json"),
        (b"plain text", "application/octet-stream"),
        (b"\xff\xfe\x00", "text/plain"),
        (b'{"a":' * 100_000, "application/json"),
        (b'{"text": "x", "duration": ' + b"9" * 10_000 + b"}", "application/json"),
    ],
)
def test_what_is_no_transcript_is_a_bad_response(body: bytes, content_type: str) -> None:
    assert failure(body, content_type).code is ErrorCode.BAD_RESPONSE


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (
            {"error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}},
            "provider_unavailable",
        ),
        ({"error": "model_not_found"}, "model_unavailable"),
        ({"error": {"message": "Maximum file size exceeded", "code": 400}}, "bad_input"),
        ({"object": "error", "message": "busy", "code": 429}, "rate_limited"),
        ({"detail": "Failed to decode audio."}, "bad_audio"),
    ],
)
def test_an_error_in_the_transcripts_place_is_that_error(document: dict[str, Any], code: str) -> None:
    assert failure(document).code == code


def test_an_error_does_not_quote_the_prompt() -> None:
    assert "private" not in failure({"error": {"message": "bad: a private prompt of the caller", "code": 400}}).message


@pytest.mark.parametrize("value", ["12", True, [], {}, "soon", "nan", 10**400])
def test_odd_figures_hurt_nothing(value: Any) -> None:
    [said] = read({"segments": [{**SEGMENT, "avg_logprob": value, "words": [value, {"word": value}]}]}).segments
    assert said.avg_logprob == (12.0 if value == "12" else None)
