"""The quality gate: what of a model's transcript was said, and whether that is all that was said.

Speech models write what nobody said, above all where nobody speaks: credits of videos, loops, their own prompt. The
gate cuts that out and fails the run where too little is left or something is missing. A figure that a server does not
give speaks for nothing and against nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure
from domain.loops import Cuts, Prompt, compresses, loops, overlaps
from domain.phantoms import credits, is_note, is_outro  # noqa: A004  # what the domain calls them
from domain.results import Segment
from domain.segments import Cut, Hearing, Line, cut, joined, lines_of, merge, shifted, split
from domain.speech import Sound, SpeechCall, Transcript
from domain.transcript_limits import LIMITS

__all__ = ["Flag", "Found", "Judged", "joined", "judge", "merge", "retry_call", "shifted"]

RETRY_TEMPERATURES = (0.2, 0.4)
"""Of the first retry, and of each after it: a decoder that is in a loop at 0 is in it again."""

MOST_TURNS = 10


class Flag(StrEnum):
    """Why text was cut from a transcript."""

    NOTE = "note"
    """`[music]`: no speech, and no phantom either."""
    CREDIT = "credit"
    OUTRO = "outro"
    PROMPT_ECHO = "prompt_echo"
    LOOP = "loop"
    OVERLAP = "overlap"
    SILENT = "silent"
    """By the model's own figures."""
    UNHEARD = "unheard"
    """A voice detector heard nobody."""
    GIBBERISH = "gibberish"
    """The model was surer of nothing else."""
    REPETITIVE = "repetitive"
    IMPOSSIBLE_RATE = "impossible_rate"


class Found(Struct, frozen=True):
    """What was cut for one reason; for logs and metrics, so without any text."""

    flag: Flag
    cuts: int
    seconds: float
    """Of speech that was under it."""


class Judged(Struct, frozen=True):
    """What was said; with a failure, what is left of it."""

    segments: tuple[Segment, ...]
    """In order; none is empty, ends before it starts, or was made up. None at all without a failure: silence."""
    flags: tuple[Found, ...] = ()
    failure: Failure | None = None


def judge(transcript: Transcript, sound: Sound, prompt: str = "") -> Judged:
    """What of the transcript was said, and whether it is to be taken.

    Args:
        sound: of the very recording (or channel) that was transcribed, with where somebody speaks in it.
        prompt: what the model was given, to know its echo.
    """
    hearing = Hearing(sound)
    given = lines_of(transcript, sound)
    case = _Case(hearing, Prompt(prompt))
    lines = given
    # What is cut or split can show what was hidden: by the second turn, but for texts that are made to take many.
    for _ in range(MOST_TURNS):
        before, lines = lines, split(case.cleaned(lines), hearing)
        if lines == before:
            break
    return Judged(
        segments=tuple(line.segment for line in lines),
        flags=tuple(Found(flag, case.cuts[flag], round(case.lost[flag], 3)) for flag in Flag if case.cuts[flag]),
        failure=_hallucinated(lines, case) or _incomplete(transcript, given, lines, hearing),
    )


def retry_call(call: SpeechCall, attempts: int) -> SpeechCall:
    """What to ask for after so many attempts ended in a hallucination: the same call would end in the same."""
    if attempts < 1:
        return call
    temperature = RETRY_TEMPERATURES[min(attempts, len(RETRY_TEMPERATURES)) - 1]
    return replace(call, temperature=temperature, prompt="", vad=True)


class _Case:
    """A transcript under judgement: what was cut from it so far."""

    def __init__(self, hearing: Hearing, prompt: Prompt) -> None:
        self.hearing = hearing
        self.prompt = prompt
        self.cuts: Counter[Flag] = Counter()
        self.lost: defaultdict[Flag, float] = defaultdict(float)

    def cleaned(self, lines: list[Line]) -> list[Line]:
        """The lines without what nobody said, in order."""
        lines = self._without_lines(lines, {i: Flag.NOTE for i, line in enumerate(lines) if is_note(line)})
        lines = self._without(lines, Flag.CREDIT, _each(lines, credits))
        lines = self._without(lines, Flag.PROMPT_ECHO, _each(lines, self.prompt.echoes))
        for period in range(1, LIMITS.longest_period + 1):
            lines = self._without(lines, Flag.LOOP, loops(lines, period, self.hearing))
        lines = self._without(lines, Flag.OVERLAP, overlaps(lines))
        lines = self._without_lines(lines, self._unspeakable(lines))
        lines = self._without_lines(lines, {i: flag for i, line in enumerate(lines) for flag in self._doubts(line)})
        lines = self._without_lines(lines, self._unheard(lines))
        return sorted(lines, key=lambda line: (line.start, line.end))

    def _without(self, lines: list[Line], flag: Flag, cuts: Cuts) -> list[Line]:
        if not cuts:
            return lines
        kept: list[Line] = []
        for index, line in enumerate(lines):
            if index not in cuts:
                kept.append(line)
                continue
            rest, lost = cut(line, cuts[index], self.hearing)
            self.cuts[flag] += len(cuts[index])
            self.lost[flag] += lost
            if rest:
                kept.append(rest)
        return kept

    def _without_lines(self, lines: list[Line], flags: dict[int, Flag]) -> list[Line]:
        for flag in dict.fromkeys(flags.values()):
            whole = {i: [(0, len(lines[i].words))] for i, found in flags.items() if found is flag}
            self._without([lines[i] for i in whole], flag, dict(enumerate(whole.values())))
        return [line for index, line in enumerate(lines) if index not in flags]

    def _unspeakable(self, lines: Sequence[Line]) -> dict[int, Flag]:
        """Lines with more text than a mouth can speak until the next one begins."""
        if not any(line.seconds > 0 for line in lines):
            return {}
        last = self.hearing.spans[-1].end if self.hearing.spans else 0.0
        if _too_fast(lines, last):
            return dict.fromkeys(range(len(lines)), Flag.IMPOSSIBLE_RATE)
        nexts = (*(line.start for line in lines[1:]), last)
        return {
            i: Flag.IMPOSSIBLE_RATE
            for i, (line, until) in enumerate(zip(lines, nexts, strict=True))
            if _too_fast([line], until)
        }

    def _doubts(self, line: Line) -> Iterator[Flag]:
        """Why the whole line is to go; the last reason counts."""
        heard = self._heard(line)
        letters = len(line.text)
        repetitive = compresses(line.text)
        if repetitive > 1 and (line.unsure or not heard):
            yield Flag.REPETITIVE
        if repetitive > LIMITS.surely_repetitive and letters >= LIMITS.surely_repetitive_length:
            yield Flag.REPETITIVE
        if line.silent:
            yield Flag.SILENT
        if self._is_gibberish(line):
            yield Flag.GIBBERISH
        if line.seconds > LIMITS.slowest_after and letters < LIMITS.slowest * line.seconds and not heard:
            yield Flag.IMPOSSIBLE_RATE
        against = line.surely_silent or line.unsure or not heard
        if is_outro(line) and (against or self._is_stretched(line)):
            yield Flag.OUTRO
        if against and self.prompt.holds(line):
            yield Flag.PROMPT_ECHO

    def _heard(self, line: Line) -> bool:
        room = self.hearing.within(line.start - LIMITS.margin, line.end + LIMITS.margin)
        return room > 0 and room * LIMITS.fastest >= len(line.text)

    def _is_stretched(self, line: Line) -> bool:
        speech = self.hearing.within(line.start, line.end)
        return speech > LIMITS.slowest_after and len(line.text) < LIMITS.stretched * speech

    def _is_gibberish(self, line: Line) -> bool:
        if line.avg_logprob is None or line.avg_logprob >= LIMITS.no_confidence:
            return False
        return sum(map(len, line.words)) >= LIMITS.no_confidence_letters

    def _unheard(self, lines: Sequence[Line]) -> dict[int, Flag]:
        """In a recording in which nobody was heard: all, unless it is a talk that the voice detector missed.

        Where hardly anything was heard, what the model itself takes for no speech.
        """
        if self.hearing.seconds >= LIMITS.hardly_any:
            return {}
        if len({word for line in lines for word in line.words}) >= LIMITS.unheard_words:
            return {}
        nobody = self.hearing.seconds < LIMITS.click
        return {
            i: Flag.UNHEARD
            for i, line in enumerate(lines)
            if (nobody and not line.surely_spoken) or (line.no_speech_prob or 0.0) > LIMITS.no_speech
        }


def _each(lines: Sequence[Line], find: Callable[[Line], list[Cut]]) -> Cuts:
    return {index: cuts for index, line in enumerate(lines) if (cuts := find(line))}


def _hallucinated(lines: Sequence[Line], case: _Case) -> Failure | None:
    lost = sum(case.lost.values()) - case.lost[Flag.NOTE]
    kept = sum(case.hearing.within(line.start, line.end) for line in lines)
    if case.hearing.seconds < LIMITS.speech or not case.cuts:
        return None
    if not lines:
        return _failure("Nothing is left of the transcript but there is speech", ErrorCode.TRANSCRIPT_HALLUCINATION)
    if lost >= LIMITS.speech and lost > LIMITS.lost * (lost + kept):
        reason = max(case.lost, key=lambda flag: case.lost[flag])
        part = f"{lost / (lost + kept):.0%} of the speech is under text that nobody said"
        return _failure(f"{part} (most of it: {reason})", ErrorCode.TRANSCRIPT_HALLUCINATION)
    return None


def _incomplete(
    transcript: Transcript, given: Sequence[Line], lines: Sequence[Line], hearing: Hearing
) -> Failure | None:
    spoken = hearing.seconds >= LIMITS.speech
    if transcript.cut_short and (lines or spoken):
        return _failure("The server stopped before the end of the recording", ErrorCode.TRANSCRIPT_INCOMPLETE)
    if not given and spoken:
        return _failure("The transcript is empty but there is speech", ErrorCode.TRANSCRIPT_INCOMPLETE)
    # Without any times nothing tells where the text belongs.
    if not spoken or not any(line.seconds > 0 for line in given):
        return None
    missing = sum(_gaps(given, hearing)) + sum(_hollow(line, hearing) for line in lines)
    if missing >= LIMITS.gaps_speech and missing > LIMITS.gaps * hearing.seconds:
        part = f"{missing / hearing.seconds:.0%} of the speech has no text"
        return _failure(part, ErrorCode.TRANSCRIPT_INCOMPLETE)
    if _ends_early(given, hearing):
        return _failure("The transcript ends well before the speech does", ErrorCode.TRANSCRIPT_INCOMPLETE)
    return None


def _ends_early(lines: Sequence[Line], hearing: Hearing) -> bool:
    last = max(line.end for line in lines)
    after = hearing.seconds - hearing.until(last + LIMITS.gap_margin)
    enough = max(LIMITS.gaps_speech, LIMITS.early_end_speech * hearing.seconds)
    return last < LIMITS.early_end * hearing.spans[-1].end and after >= enough


def _gaps(lines: Sequence[Line], hearing: Hearing) -> Iterator[float]:
    """Seconds of speech in each time without a segment, but for those that only times that are out make."""
    end, margin = 0.0, LIMITS.gap_margin
    for start, until in (*((line.start, line.end) for line in lines), (math.inf, math.inf)):
        if hearing.within(end + margin if end else 0.0, start - margin) >= LIMITS.gap:
            yield hearing.within(end, start)
        end = max(end, until)


def _too_fast(lines: Sequence[Line], until: float) -> bool:
    """Whether nobody can have spoken all of it by then; some servers end a segment where it starts."""
    taken = max(until, *(line.end for line in lines)) - lines[0].start
    return sum(_spoken(line.text) for line in lines) > LIMITS.fastest * (taken + LIMITS.fastest_slack)


def _spoken(text: str) -> int:
    """Characters that it has when it is spoken: a digit is a word."""
    return len(text) + LIMITS.digit * sum(map(str.isdigit, text))


def _hollow(line: Line, hearing: Hearing) -> float:
    """Seconds of speech below a segment of hardly any text."""
    speech = hearing.within(line.start, line.end)
    hollow = speech - len(line.text) / LIMITS.slowest
    return speech if speech >= LIMITS.empty_speech and hollow > 0 else 0.0


def _failure(message: str, code: ErrorCode) -> Failure:
    return Failure(code, f"{message}.")
