"""What speech servers answer, in whatever shape: OpenAI's and WhisperX's JSON, text alone, subtitles.

Pure. Times are put in order and nothing is invented; whether the transcript is any good is judged elsewhere. What is no
transcript at all is an error and never an empty one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from adapters.providers import classify_speech
from adapters.providers.languages import language_code
from adapters.providers.subtitles import are_subtitles, read_subtitles
from domain.errors import ErrorCode, RunFailed
from domain.speech import Said, Transcript, Word

MARKUP = ("<!doctype", "<html", "<head", "<body", "<?xml")


def read_transcript(body: bytes, content_type: str, seconds: float, private: Sequence[str] = ()) -> Transcript:
    """The transcript in an answer of 2xx.

    Args:
        content_type: in lower case; only where there is no JSON it matters.
        seconds: how long the recording is: where text without times ends.
        private: what an error message must not quote.

    Raises:
        RunFailed: `bad_response`, or what the error stands for that came in the transcript's place.
    """
    text = _decoded(body)
    document = _document(text, content_type)
    match document:
        case dict():
            return _of_object(document, body, seconds, private)
        case str():
            return _of_text(document, seconds)
        case _:
            raise _no_transcript()


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _no_transcript() from error


def _document(text: str, content_type: str) -> object:
    """What the answer holds: JSON where it looks like it, else the text as it is."""
    if text.startswith("{") or "json" in content_type:
        return _json(text)
    if "html" in content_type or text[:9].lower().startswith(MARKUP):
        raise RunFailed(ErrorCode.BAD_RESPONSE, "The provider answered with a page instead of a transcript.")
    if not content_type.startswith("text/"):
        return _json(text)
    # A text in quotation marks, or one that begins with [music], need not be JSON.
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, str) else text


def _json(text: str) -> object:
    # The standard library's reader, for it takes the NaN that Whisper's servers write.
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_transcript() from error
    return found


def _of_object(document: Mapping[str, Any], body: bytes, seconds: float, private: Sequence[str]) -> Transcript:
    text, segments = document.get("text"), document.get("segments")
    if document.get("error") or document.get("object") == "error" or ("detail" in document and text is None):
        raise classify_speech.reported(body, private)
    if not isinstance(text, str | None) or not isinstance(segments, list | None) or (text is None and segments is None):
        raise _no_transcript()
    words = tuple(_words(document.get("words")))
    said = _with_words(words, _in_order(_segments(segments or [], seconds)))
    if not said and text:
        said = _in_order([Said(start=0.0, end=seconds, text=text, words=words)])
    return Transcript(
        segments=said,
        language=language_code(document.get("language")),
        model=_name(document.get("model")),
        seconds=_figure(document.get("duration")),
        cut_short=document.get("finish_reason") in ("length", "max_tokens"),
    )


def _of_text(text: str, seconds: float) -> Transcript:
    subtitles = are_subtitles(text)
    said = read_subtitles(text) if subtitles else [Said(start=0.0, end=seconds, text=text)]
    return Transcript(segments=_in_order(said))


def _segments(items: Sequence[Any], seconds: float) -> Iterator[Said]:
    """The segments; one that does not say when it begins or ends lies between its neighbours."""
    if not all(isinstance(item, dict) for item in items):
        raise _no_transcript()
    before = 0.0
    for number, item in enumerate(items):
        words = tuple(_words(item.get("words")))
        after = _figure(items[number + 1].get("start")) if number + 1 < len(items) else seconds
        start = _first(_figure(item.get("start")), *(word.start for word in words), before)
        end = _first(_figure(item.get("end")), *(word.end for word in reversed(words)), after, start)
        before = max(start, end)
        yield Said(
            start=start,
            end=end,
            text=_text(item.get("text"), words),
            speaker=_name(item.get("speaker")) or _speaker(item.get("words")),
            words=words,
            avg_logprob=_figure(item.get("avg_logprob")),
            compression_ratio=_figure(item.get("compression_ratio")),
            no_speech_prob=_figure(item.get("no_speech_prob")),
        )


def _text(text: object, words: Iterable[Word]) -> str:
    if text is None:
        return " ".join(word.text for word in words)
    if not isinstance(text, str):
        raise _no_transcript()
    return text


def _speaker(words: object) -> str | None:
    """Who says most of the words, where each word has a speaker of its own."""
    items = words if isinstance(words, list) else []
    speakers = Counter(name for item in items if isinstance(item, dict) and (name := _name(item.get("speaker"))))
    return speakers.most_common(1)[0][0] if speakers else None


def _words(items: object) -> Iterator[Word]:
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and (text := _name(item.get("word")) or _name(item.get("text"))):
            yield Word(
                text=text,
                start=_figure(item.get("start")),
                end=_figure(item.get("end")),
                probability=_first(_figure(item.get("probability")), _figure(item.get("score"))),
            )


def _in_order(segments: Iterable[Said]) -> tuple[Said, ...]:
    """Those that say anything, by their beginnings; none ends before it begins, or begins before the recording."""
    kept = [replace(said, text=said.text.strip(), start=max(said.start, 0.0)) for said in segments if said.text.strip()]
    kept = [replace(said, end=max(said.end, said.start)) for said in kept]
    return tuple(sorted(kept, key=lambda said: said.start))


def _with_words(words: Sequence[Word], segments: tuple[Said, ...]) -> tuple[Said, ...]:
    """Words that are listed apart from the segments, each given to the one in which it begins."""
    if not words or not segments or any(said.words for said in segments):
        return segments
    parts: list[list[Word]] = [[] for _ in segments]
    at = 0
    for word in words:
        while word.start is not None and at + 1 < len(segments) and word.start >= segments[at + 1].start:
            at += 1
        parts[at].append(word)
    return tuple(replace(said, words=tuple(part)) for said, part in zip(segments, parts, strict=True))


def _figure(value: object) -> float | None:
    """A number, also as a text; neither NaN nor infinity, which say nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _first(*figures: float | None) -> Any:
    return next((figure for figure in figures if figure is not None), None)


def _name(value: object) -> str | None:
    return (value.strip() or None) if isinstance(value, str) else None


def _no_transcript() -> RunFailed:
    return RunFailed(ErrorCode.BAD_RESPONSE, "The provider's answer is not a transcript.")
