"""What a model says again though nobody did: loops, echoes of its prompt, words that two segments share.

Loops are looked for in all of a transcript at once, so that one that goes on over its segments is found too.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise
from operator import eq

from msgspec import Struct

from domain.segments import Cut, Hearing, Line, sentence_breaks, tidied, words_of
from domain.transcript_limits import LIMITS

Cuts = dict[int, list[Cut]]
"""By the line's index: words that are to be cut, in order and apart."""


class _Run(Struct, frozen=True):
    """A phrase that follows itself: words of all lines together."""

    begin: int
    period: int
    copies: int


def loops(lines: Sequence[Line], period: int, hearing: Hearing) -> Cuts:
    """All but the first copy of each phrase of so many words that goes on as nobody speaks."""
    words = [word for line in lines for word in line.words]
    firsts = [0, *accumulate(len(line.words) for line in lines)]
    cuts: Cuts = {}
    for run in _runs(words, period):
        if _is_loop(run, lines, firsts, hearing):
            _cut_words(cuts, firsts, run.begin + run.period, run.begin + run.period * run.copies)
    return cuts


def _runs(words: list[str], period: int) -> Iterator[_Run]:
    same = bytes(map(eq, islice(words, period, None), words))
    least = b"\1" * (period * (LIMITS.suspect_copies - 1))
    at = same.find(least)
    while at >= 0:
        end = same.find(b"\0", at)
        end = len(same) if end < 0 else end
        yield _Run(at, period, 1 + (end - at) // period)
        at = same.find(least, end)


def _is_loop(run: _Run, lines: Sequence[Line], firsts: list[int], hearing: Hearing) -> bool:
    limit = LIMITS.loop_copies[min(run.period, len(LIMITS.loop_copies)) - 1]
    if run.copies >= limit:
        return not _is_played_again(run, lines, firsts, hearing)
    if run.copies * run.period < LIMITS.suspect_words:
        return False
    first, last = (bisect_right(firsts, word) - 1 for word in (run.begin, run.begin + run.period * run.copies - 1))
    if all(line.unsure for line in lines[first : last + 1]):
        return True
    start = lines[first].begins(run.begin - firsts[first], hearing) if first == last else lines[first].start
    end = max(line.end for line in lines[first : last + 1])
    letters = sum(
        len(word)
        for index in range(first, last + 1)
        for word in lines[index].words[
            max(0, run.begin - firsts[index]) : run.begin + run.period * run.copies - firsts[index]
        ]
    )
    room = hearing.within(start - LIMITS.margin, end + LIMITS.margin)
    return bool(hearing.spans) and letters > LIMITS.fastest * room


def _is_played_again(run: _Run, lines: Sequence[Line], firsts: list[int], hearing: Hearing) -> bool:
    """Whether a machine says it: each copy in segments of its own, at a natural rate, with a pause before the next."""
    starts = range(run.begin, run.begin + run.period * run.copies, run.period)
    indexes = [bisect_right(firsts, start) - 1 for start in starts]
    if any(firsts[index] != start for index, start in zip(indexes, starts, strict=True)):
        return False
    return all(
        lines[following].start - lines[following - 1].end >= LIMITS.spaced
        and _is_natural(lines[index:following], hearing)
        for index, following in pairwise(indexes)
    )


def _is_natural(lines: Sequence[Line], hearing: Hearing) -> bool:
    letters = sum(len(line.text) for line in lines)
    start, end = lines[0].start, lines[-1].end
    room = hearing.within(start - LIMITS.margin, end + LIMITS.margin)
    return LIMITS.natural * (end - start) <= letters <= LIMITS.fastest * room


def compresses(text: str) -> float:
    """How repetitive it is, by Whisper's compression ratio, as a part of what its script allows.

    Above 1 it is suspicious. Cyrillic letters are two bytes: the same text has a greater ratio than in Latin letters.
    """
    if len(text) < LIMITS.ratio_length:
        return 0.0
    pieces = -(-len(text) // LIMITS.ratio_window)
    size = -(-len(text) // pieces)
    ratios = [_ratio(text[at : at + size]) / _allowed(text[at : at + size]) for at in range(0, len(text), size)]
    return sum(ratios) / len(ratios)


def _ratio(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _allowed(text: str) -> float:
    width = len(text.encode()) / len(text)
    if width < 1.35:
        return LIMITS.latin_ratio
    return LIMITS.cyrillic_ratio if width < 2.1 else LIMITS.other_ratio


class Prompt:
    """What the model was told before the recording, to find it in what it heard."""

    def __init__(self, prompt: str) -> None:
        text = tidied(prompt)
        self.words, offsets = words_of(text)
        breaks = sentence_breaks(Line(start=0, end=0, text=text, words=self.words, offsets=offsets)) if text else []
        self._sentences = {self.words[a:b] for a, b in pairwise((0, *breaks, len(self.words)))}
        self._sentences.add(self.words)
        self._grams = set(_grams(self.words))

    def echoes(self, line: Line) -> list[Cut]:
        """What it says of the prompt: whole sentences of it, or more words in a row than are said by chance."""
        if not self._grams:
            return []
        cuts: list[Cut] = []
        for a, b in self._shared(line.words):
            if b - a >= LIMITS.echo_words or line.words[a:b] in self._sentences:
                cuts.append((a, b))
        return cuts

    def holds(self, line: Line) -> bool:
        """Whether all that the line says is in the prompt, so that it is an echo if nobody was heard."""
        if len(line.words) < 2 or len(line.words) > len(self.words):
            return False
        return f" {' '.join(line.words)} " in f" {' '.join(self.words)} "

    def _shared(self, words: tuple[str, ...]) -> Iterator[Cut]:
        begin = end = 0
        for at, gram in enumerate(_grams(words)):
            if gram not in self._grams:
                continue
            if at >= end:
                if end:
                    yield begin, end
                begin = at
            end = at + LIMITS.echo_window
        if end:
            yield begin, end


def _grams(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return zip(*(islice(words, skipped, None) for skipped in range(LIMITS.echo_window)), strict=False)


def overlaps(lines: Sequence[Line]) -> Cuts:
    """What a segment repeats of one just before it, where their times overlap: its beginning, or all of it."""
    cuts: Cuts = {}
    recent: list[Line] = []
    for index, line in enumerate(lines):
        shared = max((_shared(before, line) for before in recent), default=0)
        if shared:
            cuts[index] = [(0, shared)]
        if shared < len(line.words):
            recent = [*recent[-3:], line]
    return cuts


def _shared(before: Line, line: Line) -> int:
    """Words at the beginning of a line that the end of an earlier one has already."""
    common = min(before.end, line.end) - line.start
    if before.words == line.words:
        shorter = min(before.seconds, line.seconds)
        return len(line.words) if common > LIMITS.twice * shorter or before.start == line.start else 0
    if common <= 0:
        return 0
    longest = min(len(before.words), len(line.words))
    # Words that the pieces of a recording share are those of their margin, never a minute of them.
    for count in range(min(longest, 60), LIMITS.overlap_words - 1, -1):
        if before.words[-count] == line.words[0] and before.words[-count:] == line.words[:count]:
            return count
    return 0


def _cut_words(cuts: Cuts, firsts: list[int], begin: int, end: int) -> None:
    index = bisect_right(firsts, begin) - 1
    while begin < end:
        until = min(end, firsts[index + 1])
        cuts.setdefault(index, []).append((begin - firsts[index], until - firsts[index]))
        begin, index = until, index + 1
