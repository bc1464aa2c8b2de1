"""Speech without a model, to try the service out and to test callers against: deterministic, and fails on request.

It hears nothing: it tells of every recording how long it is.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from adapters.providers.practice import MODEL, practise
from domain.job import LeasedJob
from domain.speech import Recording, Said, SpeechCall, Transcript

LONGEST_SEGMENT = 10.0
# Silence is as good a recording to practise with: a model that doubts itself there is not believed.
SURE: dict[str, Any] = {"avg_logprob": -0.05, "no_speech_prob": 0.01}
WORDY = 5.0
"""Seconds in which a whole sentence can be said."""


class PracticeSpeechProvider:
    """Answers at once, unless the job asks for a delay."""

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        await practise(job)
        seconds = recording.sound.seconds
        return Transcript(
            segments=tuple(_segments(seconds)), language=call.language or "en", model=MODEL, seconds=seconds
        )


def _segments(seconds: float) -> list[Said]:
    """Equal parts, each of which names the recording's length and its own place."""
    parts = max(1, math.ceil(seconds / LONGEST_SEGMENT))
    bounds = [round(seconds * number / parts, 3) for number in range(parts + 1)]
    return [
        Said(start=start, end=end, text=_text(seconds, number, parts, start), **SURE)
        for number, (start, end) in enumerate(pairwise(bounds), 1)
    ]


def _text(seconds: float, number: int, parts: int, start: float) -> str:
    length = f"{seconds:.1f} s"
    if parts > 1:
        return f"Part {number} of {parts} of {length} of practice, from second {start:.1f} on."
    return f"A practice transcript of a recording of {length}." if seconds >= WORDY else length
