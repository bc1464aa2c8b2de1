# ruff: noqa: RUF001  # Russian letters and foreign punctuation are what this is about
"""Segments of a transcript while it is judged: their words, their times, and how they are cut, split and merged.

A text is only ever cut, never written: what comes out was in what came in. Speakers are never made up.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter

from msgspec import UNSET, Struct
from msgspec.structs import replace

from domain.results import Segment
from domain.speech import Said, Sound, Span, Transcript, Word
from domain.transcript_limits import LIMITS

# Scripts without spaces: each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]+")
_DANGLING = " ,;:-–—(«\"“„'"
_CLOSING = "\"'»”’)]"
_IDEOGRAPHIC_END = re.compile(r"[。！？](?![。！？])")
Cut = tuple[int, int]
"""Words of a segment, from the first to before the second."""

_ABBREVIATIONS = """
г гг д ул пр просп пер пл обл р рн стр корп кв оф эт тел доб т е к п пп ст руб коп тыс млн млрд трлн кг км см мм
им гр др проч напр мин сек час пн вт ср чт пт сб вс янв фев мар апр авг сен сент окт ноя нояб дек н
mr mrs ms dr prof st jr sr no vs etc inc ltd co corp dept est approx ave blvd rd apt ext tel fig vol eg ie am pm
jan feb mar apr jun jul aug sep sept oct nov dec
"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
"""Words whose full stop does not end a sentence."""


class Hearing:
    """Where a voice detector heard somebody; what it heard within some time is found in O(log n)."""

    def __init__(self, sound: Sound) -> None:
        spans: list[Span] = []
        for span in sorted(span for span in sound.speech if math.isfinite(span.start) and math.isfinite(span.end)):
            if span.end <= span.start:
                continue
            if spans and span.start <= spans[-1].end:
                spans[-1] = Span(spans[-1].start, max(spans[-1].end, span.end))
            else:
                spans.append(span)
        self.spans = spans
        self._starts = [span.start for span in spans]
        self._before = [0.0, *accumulate(span.seconds for span in spans)]
        self.seconds = self._before[-1]

    def until(self, moment: float) -> float:
        """Seconds of speech before it."""
        index = bisect_right(self._starts, moment)
        if not index:
            return 0.0
        return self._before[index - 1] + min(self.spans[index - 1].seconds, moment - self._starts[index - 1])

    def within(self, start: float, end: float) -> float:
        """Seconds of speech in this time."""
        return max(0.0, self.until(end) - self.until(start))

    def moment(self, spoken: float, *, begins: bool) -> float:
        """When so many seconds of speech were over: at the end of a pause where something begins then."""
        find = bisect_right if begins else bisect_left
        index = min(max(0, find(self._before, spoken) - 1), len(self.spans) - 1)
        return self.spans[index].start + spoken - self._before[index]


class Line(Struct, frozen=True, kw_only=True):
    """A segment with its words; its text has single spaces, and at least one word."""

    start: float
    end: float
    text: str
    words: tuple[str, ...]
    """As they are compared: lower case, without accents of typing."""
    offsets: tuple[int, ...]
    """Where each begins in the text."""
    times: tuple[Span, ...] = ()
    """Of each word, where the model gave them."""
    speaker: str | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def unsure(self) -> bool:
        return self.avg_logprob is not None and self.avg_logprob < LIMITS.low_confidence

    @property
    def silent(self) -> bool:
        """Whether Whisper's own rule would have left it out."""
        return self.unsure and self.no_speech_prob is not None and self.no_speech_prob > LIMITS.no_speech

    @property
    def surely_silent(self) -> bool:
        return self.silent or (self.no_speech_prob is not None and self.no_speech_prob > LIMITS.surely_no_speech)

    @property
    def surely_spoken(self) -> bool:
        return (
            self.no_speech_prob is not None
            and self.no_speech_prob < LIMITS.surely_speech
            and self.avg_logprob is not None
            and self.avg_logprob > LIMITS.good_confidence
        )

    @property
    def segment(self) -> Segment:
        return Segment(start=self.start, end=self.end, text=self.text, speaker=self.speaker or UNSET)

    def begins(self, index: int, hearing: Hearing) -> float:
        """When its word of this index begins: as the model told, else by its place among the characters spoken."""
        if index <= 0:
            return self.start
        return self.times[index].start if self.times else self._placed(self.offsets[index], hearing, begins=True)

    def ends(self, index: int, hearing: Hearing) -> float:
        """When the word before this index ends."""
        if index >= len(self.words):
            return self.end
        return self.times[index - 1].end if self.times else self._placed(self.offsets[index], hearing, begins=False)

    def _placed(self, offset: int, hearing: Hearing, *, begins: bool) -> float:
        share = offset / len(self.text)
        before, spoken = hearing.until(self.start), hearing.within(self.start, self.end)
        if spoken <= 0:
            return _rounded(self.start + share * self.seconds)
        moment = hearing.moment(before + share * spoken, begins=begins)
        return _rounded(min(max(moment, self.start), self.end))


def lines_of(transcript: Transcript, sound: Sound) -> list[Line]:
    """The segments that have words, tidied and in order. Figures that are no measurements are left out.

    Times that are no numbers, negative, or after the end of the recording are put right; so are single segments
    without any.
    """
    measured = _measures(transcript.segments, "avg_logprob"), _measures(transcript.segments, "no_speech_prob")
    last = sound.seconds if math.isfinite(sound.seconds) and sound.seconds > 0 else math.inf
    lines: list[Line] = []
    for said in transcript.segments:
        text = tidied(said.text)
        words, offsets = words_of(text)
        if not words:
            continue
        start = _rounded(_time(said.start, 0.0))
        end = max(start, min(_rounded(_time(said.end, start)), _rounded(last)))
        lines.append(
            Line(
                start=start,
                end=end,
                text=text,
                words=words,
                offsets=offsets,
                times=_word_times(said.words, words, start, end),
                speaker=tidied(said.speaker) or None if said.speaker else None,
                avg_logprob=_figure(said.avg_logprob, -math.inf, 0.0) if measured[0] else None,
                no_speech_prob=_figure(said.no_speech_prob, 0.0, 1.0) if measured[1] else None,
            )
        )
    if len(lines) == 1 and lines[0].seconds == 0 and last < math.inf and lines[0].start == 0:
        lines = [replace(lines[0], end=_rounded(last))]
    return sorted(lines, key=attrgetter("start", "end"))


def words_of(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words of a text as they are compared, and where they begin."""
    found = list(_WORD.finditer(text))
    return tuple(_compared(match[0]) for match in found), tuple(match.start() for match in found)


def tidied(text: str) -> str:
    """The text with single spaces, and without what no database stores."""
    return " ".join(_UNPRINTABLE.sub("", text).split())


def cut(line: Line, cuts: Sequence[Cut], hearing: Hearing) -> tuple[Line | None, float]:
    """The line without these words (in order, apart), and how much speech was below them; None: no word is left."""
    lost = sum(hearing.within(line.begins(a, hearing), line.ends(b, hearing)) for a, b in cuts)
    kept = list(_between(cuts, len(line.words)))
    if not kept:
        return None, lost
    bounds = (*line.offsets, len(line.text))
    parts = [line.text[bounds[a] if a else 0 : bounds[b]].strip() for a, b in kept]
    if kept[-1][1] < len(line.words):
        parts[-1] = parts[-1].rstrip(_DANGLING)
    text = " ".join(parts)
    words, offsets = words_of(text)
    return (
        replace(
            line,
            start=line.begins(kept[0][0], hearing),
            end=max(line.begins(kept[0][0], hearing), line.ends(kept[-1][1], hearing)),
            text=text,
            words=words,
            offsets=offsets,
            times=tuple(time for a, b in kept for time in line.times[a:b]) if line.times else (),
        ),
        lost,
    )


def _between(cuts: Sequence[Cut], count: int) -> Iterable[Cut]:
    edges = [0, *(edge for a_b in cuts for edge in a_b), count]
    return ((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b)


def split(lines: Sequence[Line], hearing: Hearing) -> list[Line]:
    """A segment that is too long, or the only one, as one segment for each sentence."""
    return [
        piece
        for line in lines
        for piece in (_pieces(line, hearing) if len(lines) == 1 or line.seconds > LIMITS.longest_segment else [line])
    ]


def _pieces(line: Line, hearing: Hearing) -> list[Line]:
    breaks = sorted({*sentence_breaks(line), *_pauses(line)})
    if not breaks:
        return [line]
    bounds = (*line.offsets, len(line.text))
    pieces = []
    for a, b in pairwise((0, *breaks, len(line.words))):
        text = line.text[bounds[a] if a else 0 : bounds[b]].strip()
        words, offsets = words_of(text)
        start = line.begins(a, hearing)
        end = max(start, line.ends(b, hearing))
        times = line.times[a:b]
        pieces.append(replace(line, start=start, end=end, text=text, words=words, offsets=offsets, times=times))
    return pieces


def sentence_breaks(line: Line) -> list[int]:
    """The words that begin a sentence, but for the first."""
    text = line.text
    places = [match.end() for match in _IDEOGRAPHIC_END.finditer(text)]
    begin = 0
    while (space := text.find(" ", begin)) >= 0:
        if _ends_sentence(text[begin:space], text[space + 1 : space + 9]):
            places.append(space + 1)
        begin = space + 1
    found = {bisect_left(line.offsets, place) for place in places}
    return sorted(found - {0, len(line.words)})


def _ends_sentence(chunk: str, following: str) -> bool:
    bare = chunk.rstrip(_CLOSING)
    if not bare or bare[-1] not in ".!?…":
        return False
    if bare[-1] in "!?":
        return True
    if following.lstrip('«"“„([-–— ')[:1].islower():
        return False
    if bare[-1] == "…" or bare.endswith(".."):
        return True
    word = bare[:-1].lstrip('«"“„([')
    if len(word) == 1 and word.isalpha() and word.isupper() and word != "I":
        return False
    return word.replace(".", "").lower() not in ABBREVIATIONS


def _pauses(line: Line) -> list[int]:
    times = line.times
    return [i for i in range(1, len(times)) if times[i].start - times[i - 1].end >= LIMITS.pause]


def merge(tracks: Sequence[tuple[str, Sequence[Segment]]]) -> tuple[Segment, ...]:
    """One transcript of several channels, each of which was judged on its own: by time, a channel is a speaker."""
    segments = [replace(segment, speaker=name) for name, track in tracks for segment in track]
    return tuple(sorted(segments, key=attrgetter("start", "end")))


def shifted(transcript: Transcript, seconds: float) -> Transcript:
    """The transcript of a piece, with the times of the recording that it was cut from at `seconds`."""
    if not seconds:
        return transcript
    return replace(
        transcript,
        segments=tuple(
            replace(
                said,
                start=said.start + seconds,
                end=said.end + seconds,
                words=tuple(
                    replace(word, start=_plus(word.start, seconds), end=_plus(word.end, seconds)) for word in said.words
                ),
            )
            for said in transcript.segments
        ),
        seconds=_plus(transcript.seconds, seconds),
    )


def joined(transcripts: Sequence[Transcript]) -> Transcript:
    """The transcripts of pieces, shifted to their places, as one; its language is the one that was spoken longest."""
    spoken: Counter[str] = Counter()
    for transcript in transcripts:
        if transcript.language:
            times = (max(0.0, said.end - said.start) for said in transcript.segments if tidied(said.text))
            # A piece without speech has a language too, at random.
            spoken[transcript.language] += round(1_000 * sum(time for time in times if math.isfinite(time)))
    told = [transcript.seconds for transcript in transcripts if transcript.seconds is not None]
    return Transcript(
        segments=tuple(said for transcript in transcripts for said in transcript.segments),
        language=spoken.most_common(1)[0][0] if spoken else None,
        model=next((transcript.model for transcript in transcripts if transcript.model), None),
        seconds=max(told) if told else None,
        cut_short=any(transcript.cut_short for transcript in transcripts),
    )


def _measures(segments: Sequence[Said], name: str) -> bool:
    """Whether this figure was measured: some servers give one constant for all of a recording."""
    values = {getattr(said, name) for said in segments}
    if values <= {0.0, None}:
        return False
    return len(values) > 1 or sum(max(0.0, said.end - said.start) for said in segments) <= LIMITS.constant_after


def _figure(value: float | None, least: float, most: float) -> float | None:
    # Zero is what a server fills in: no text is certain, no sound is surely speech.
    return value if value is not None and math.isfinite(value) and least <= value <= most and value else None


def _time(value: float, otherwise: float) -> float:
    return max(0.0, value) if math.isfinite(value) else otherwise


def _rounded(seconds: float) -> float:
    return round(seconds, 3)


def _plus(value: float | None, seconds: float) -> float | None:
    return None if value is None else value + seconds


def _compared(word: str) -> str:
    if word.isascii():
        return word.lower()
    # The dotted capital of Turkish is two characters in lower case.
    return unicodedata.normalize("NFKC", word).lower().replace("\u0307", "").replace("ё", "е")


def _word_times(timed: Sequence[Word], words: tuple[str, ...], start: float, end: float) -> tuple[Span, ...]:
    """Each word's time; none at all where the model's words are not those of the text, or none has a time."""
    if not any(word.start is not None for word in timed):
        return ()
    owned = [(part, word) for word in timed for part in words_of(tidied(word.text))[0]]
    if tuple(part for part, _ in owned) != words:
        return ()
    starts: list[float] = []
    at = start
    for _, word in owned:
        given = word.start if word.start is not None else word.end
        at = max(at, min(_rounded(_time(at if given is None else given, at)), end))
        starts.append(at)
    ends: list[float] = []
    for (_, word), begun, following in zip(owned, starts, (*starts[1:], end), strict=True):
        given = _rounded(_time(word.end, following)) if word.end is not None else following
        ends.append(max(begun, min(given, following)))
    return tuple(Span(begun, ended) for begun, ended in zip(starts, ends, strict=True))
