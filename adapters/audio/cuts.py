"""Where a long recording is cut: in the longest silence near the end of what fits, else where it is quietest."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from domain.speech import Span

LOOK_BACK = 300.0
"""Seconds at most: what may be cut lies in memory until it is."""


class Reach(Struct, frozen=True):
    """The next cut lies between `earliest` and `latest`, best at `silence`."""

    earliest: float
    latest: float
    silence: float | None
    """None: somebody speaks all the time, so it has to be where it is quietest."""


def next_cut(begins: float, seconds: float, longest: float, speech: Sequence[Span]) -> Reach | None:
    """Where the piece that begins here ends; None: at the end of the recording.

    Args:
        seconds: of the whole recording.
        speech: in order and apart from one another.
    """
    if seconds - begins <= longest:
        return None
    # A last piece of a blink would be heard as anything at all.
    latest = min(begins + longest, seconds - min(1.0, longest / 4))
    earliest = max(begins + longest * 2 / 3, latest - LOOK_BACK)
    earliest = min(earliest, latest)
    return Reach(earliest, latest, _middle(_longest_silence(earliest, latest, speech)))


def _longest_silence(earliest: float, latest: float, speech: Sequence[Span]) -> Span | None:
    best: Span | None = None
    begins = earliest
    for span in [*speech, Span(latest, latest)]:
        gap = Span(begins, min(span.start, latest))
        # The later of equals: the fewer pieces the better.
        if gap.seconds > 0 and (best is None or gap.seconds >= best.seconds):
            best = gap
        begins = max(begins, span.end)
        if begins >= latest:
            break
    return best


def _middle(silence: Span | None) -> float | None:
    return None if silence is None else (silence.start + silence.end) / 2


def within(speech: Sequence[Span], begins: float, ends: float) -> tuple[Span, ...]:
    """The speech of a piece, in the piece's own time."""
    return tuple(
        Span(round(max(span.start, begins) - begins, 3), round(min(span.end, ends) - begins, 3))
        for span in speech
        if min(span.end, ends) - max(span.start, begins) > 0.001
    )
