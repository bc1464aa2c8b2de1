"""Transcripts as servers give them, each with what a careful listener would say of it, and what the gate says.

`python -m tests.data.transcripts` prints precision and recall. Half of them are held out: they were labelled without
the gate and first judged when its rules stood. Bad ones that were missed then count as known since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from domain.speech import Said, Sound, Span, Transcript
from domain.transcript import Judged, judge

LABELLED = Path(__file__).with_name("labelled.jsonl")
GOOD, SILENCE = "good", "silence"
BAD = ("transcript_hallucination", "transcript_incomplete")
VERDICTS = (GOOD, SILENCE, *BAD)


class Heard(Struct, frozen=True):
    """How long the recording is, and where a voice detector heard somebody."""

    seconds: float
    speech: tuple[tuple[float, float], ...]


class Labelled(Struct, frozen=True, kw_only=True):
    """A transcript with its label."""

    name: str
    expect: str
    held_out: bool
    server: str
    language: str
    sound: Heard
    segments: tuple[Said, ...]
    prompt: str = ""
    cut_short: bool = False
    remains: str | None = None
    """The text of a good one where it is not all that was given."""

    def judged(self) -> Judged:
        transcript = Transcript(segments=self.segments, language=self.language, cut_short=self.cut_short)
        sound = Sound(
            seconds=self.sound.seconds,
            channels=1,
            format="wav",
            codec="pcm_s16le",
            sample_rate=8_000,
            speech=tuple(Span(*span) for span in self.sound.speech),
        )
        return judge(transcript, sound, self.prompt)

    @property
    def text(self) -> str:
        """What is to be left of a good one."""
        given = " ".join(said.text for said in self.segments) if self.remains is None else self.remains
        return " ".join(given.split())


def labelled() -> list[Labelled]:
    decoder = msgspec.json.Decoder(Labelled)
    return [decoder.decode(line) for line in LABELLED.read_bytes().splitlines()]


def verdict(judged: Judged) -> str:
    if judged.failure:
        return judged.failure.code.value
    return GOOD if judged.segments else SILENCE


def text(judged: Judged) -> str:
    return " ".join(segment.text for segment in judged.segments)


def report(cases: Iterable[Labelled]) -> str:
    """Precision and recall of each verdict, and what was judged otherwise than by the listener."""
    told = [(case, verdict(judged), judged) for case in cases for judged in [case.judged()]]
    lines = [f"{'verdict':26} {'of':>4} {'precision':>10} {'recall':>8}"]
    lines += [_row(wanted, [(case.expect == wanted, said == wanted) for case, said, _ in told]) for wanted in VERDICTS]
    lines.append(_row("bad (either)", [(case.expect in BAD, said in BAD) for case, said, _ in told]))
    for case, said, judged in told:
        flags = ", ".join(f"{found.flag} x{found.cuts} {found.seconds:.1f} s" for found in judged.flags)
        why = f"[{flags}] {judged.failure.message if judged.failure else ''}"
        if case.expect != said:
            lines.append(f"  {case.name}: {case.expect}, judged {said} {why}")
        elif said == GOOD and text(judged) != case.text:
            lines.append(f"  {case.name}: not all of its text is left {why}")
    return "\n".join(lines)


def _row(name: str, told: Sequence[tuple[bool, bool]]) -> str:
    right = sum(wanted and said for wanted, said in told)
    wanted, said = (sum(column) for column in zip(*told, strict=True))
    return f"{name:26} {wanted:4} {ratio(right, said):10.3f} {ratio(right, wanted):8.3f}"


def ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
