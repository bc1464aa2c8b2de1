"""Finds where somebody speaks: WebRTC's detector, and what it takes for speech but is none.

The detector alone lets through tones, hum and noise. Speech is neither a few pure tones nor equally loud for
long: frames that are count as quiet. Runs in a decoding process only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# The wrapper of the package looks up its own version when it is imported, which takes longer than all the rest.
import _webrtcvad
import numpy as np
from numpy.typing import NDArray

from adapters.audio.decode import RATE
from domain.speech import Span

FRAME = RATE * 30 // 1000
SECONDS = FRAME / RATE

AGGRESSIVENESS = 1
"""Of 0 to 3. What is above hears less of quiet or noisy speech, and no less noise once the rest has been left out."""
QUIET_DB = -40.0
LOUD_FRAMES = 20
"""A recording that is louder in fewer frames is heard again, amplified: the detector knows usual levels only."""
USUAL_DB = -20.0
FLOOR_DB = -60.0
"""Below full scale; quieter is silence, whatever it is."""
LOWEST_FLOOR_DB = -75.0
"""The same in a quiet recording."""

TONES = 3
TONAL_SHARE = 0.97
"""Of a frame's energy in its strongest tones."""

STEADY_FRAMES = 25
STEADY_DB = 1.3
"""How little the loudness of noise and hum varies; that of speech varies by 5 dB and more."""
HISS_DB = 0.5
RUMBLE_DB = 14.0
"""The same above the rumble, where rumble is by so much the louder: it varies, what is above it does not."""

SPOKEN_SHARE = 0.3
"""Of a span's frames, at least; where tones come and go, only their edges look like speech."""
SHORTEST_SPEECH = 0.15
SHORTEST_SILENCE = 0.4
PADDING = 0.15


class Voice:
    """Hears one channel from beginning to end. Keeps a few bytes for each frame, not the samples."""

    def __init__(self, gain: float = 1.0) -> None:
        self._gain = gain
        self._floor = max(FLOOR_DB - 20 * math.log10(gain), LOWEST_FLOOR_DB)
        self._vad = _webrtcvad.create()
        _webrtcvad.init(self._vad)
        _webrtcvad.set_mode(self._vad, AGGRESSIVENESS)
        self._rest: NDArray[np.int16] = np.zeros(0, np.int16)
        self._spoken = bytearray()
        self._loudness: list[NDArray[np.float32]] = []
        self._brightness: list[NDArray[np.float32]] = []
        self._samples = 0

    def hear(self, samples: NDArray[np.int16]) -> None:
        """Go on with these samples."""
        self._samples += len(samples)
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        if whole:
            self._frames(samples[:whole].reshape(-1, FRAME))

    def missing_gain(self) -> float | None:
        """By how much all of it should be amplified to be heard well; None: it was loud enough, or is silence."""
        if not self._loudness:
            return None
        loudness = np.concatenate(self._loudness)
        # Not the very loudest: a click is soon over.
        loud = min(LOUD_FRAMES, 1 + len(loudness) // 4)
        loudest = float(np.partition(loudness, -loud)[-loud])
        return float(10 ** ((USUAL_DB - loudest) / 20)) if LOWEST_FLOOR_DB < loudest < QUIET_DB else None

    def spans(self) -> tuple[Span, ...]:
        """Where somebody spoke, as far as was heard."""
        if not self._spoken:
            return ()
        spoken = np.frombuffer(bytes(self._spoken), np.uint8).astype(bool)
        loudness, brightness = np.concatenate(self._loudness), np.concatenate(self._brightness)
        spoken &= ~_steady(loudness, STEADY_DB)
        spoken &= ~(_steady(brightness, HISS_DB) & (loudness - brightness > RUMBLE_DB))
        return _smoothed(spoken, self._samples / RATE)

    def _frames(self, frames: NDArray[np.int16]) -> None:
        loudness = loudness_of(frames)
        self._loudness.append(loudness)
        # Rumble hides how steady the rest is.
        self._brightness.append(loudness_of(np.diff(frames.astype(np.float32), axis=1)))
        spoken = loudness > self._floor
        if self._gain != 1.0:
            frames = np.clip(frames * self._gain, -32768, 32767).astype(np.int16)
        for at in np.flatnonzero(spoken):
            spoken[at] = _webrtcvad.process(self._vad, RATE, frames[at].tobytes(), FRAME)
        voiced = np.flatnonzero(spoken)
        if len(voiced):
            spoken[voiced] = ~_tonal(frames[voiced])
        self._spoken += spoken.astype(np.uint8).tobytes()


def loudness_of(frames: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each frame, in dB below full scale; without its constant part, which nobody hears."""
    power = np.var(frames.astype(np.float32), axis=1) / 32768.0**2
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)), np.float32)


_window = np.hanning(FRAME).astype(np.float32)


def _tonal(frames: NDArray[np.int16]) -> NDArray[np.bool_]:
    power = np.abs(np.fft.rfft(frames * _window, axis=1)) ** 2
    power[:, :2] = 0
    whole = power.sum(axis=1) + 1e-9
    strongest = np.zeros(len(frames))
    rows = np.arange(len(frames))[:, None]
    for _ in range(TONES):
        # A windowed tone lies in its strongest bin and the two on either side.
        bins = np.clip(power.argmax(axis=1)[:, None] + np.arange(-2, 3), 0, power.shape[1] - 1)
        strongest += power[rows, bins].sum(axis=1)
        power[rows, bins] = 0
    return np.asarray(strongest / whole > TONAL_SHARE)


def _steady(loudness: NDArray[np.float32], limit: float) -> NDArray[np.bool_]:
    """Frames within a stretch that is equally loud throughout."""
    steady = np.zeros(len(loudness), bool)
    if len(loudness) < STEADY_FRAMES:
        return steady
    sums = np.cumsum(np.insert(loudness.astype(np.float64), 0, 0.0))
    squares = np.cumsum(np.insert(loudness.astype(np.float64) ** 2, 0, 0.0))
    mean = (sums[STEADY_FRAMES:] - sums[:-STEADY_FRAMES]) / STEADY_FRAMES
    spread = (squares[STEADY_FRAMES:] - squares[:-STEADY_FRAMES]) / STEADY_FRAMES - mean**2
    for begin in np.flatnonzero(spread < limit**2):
        steady[begin : begin + STEADY_FRAMES] = True
    return steady


def _smoothed(spoken: NDArray[np.bool_], seconds: float) -> tuple[Span, ...]:
    """The spans of frames with speech: short gaps are closed, short noises left out, the edges widened."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], spoken.astype(np.int8), [0]])))
    runs = [(begin * SECONDS, end * SECONDS) for begin, end in edges.reshape(-1, 2).tolist()]
    closed = _merged(runs, SHORTEST_SILENCE)
    kept = [run for run in closed if _voiced(spoken, *run) >= max(SHORTEST_SPEECH, SPOKEN_SHARE * (run[1] - run[0]))]
    padded = [(max(0.0, begin - PADDING), min(seconds, end + PADDING)) for begin, end in kept]
    return tuple(Span(round(begin, 3), round(end, 3)) for begin, end in _merged(padded, 0.0) if end > begin)


def _voiced(spoken: NDArray[np.bool_], begin: float, end: float) -> float:
    return float(spoken[round(begin / SECONDS) : round(end / SECONDS)].sum()) * SECONDS


def _merged(runs: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in runs:
        if merged and begin - merged[-1][1] <= gap + math.ulp(end):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged
