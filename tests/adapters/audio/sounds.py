"""Recordings for the tests: real speech, tones and silence, in the formats that callers send."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from numpy.typing import NDArray

RATE = 16_000
SPEECH = Path(__file__).parents[2] / "data" / "speech"

Samples = NDArray[np.int16]

# Name, coder, sample rate, channels, and what the decoder is to call container and codec.
FORMATS = (
    ("speech.wav", "pcm_s16le", 44_100, 2, "wav", "pcm_s16le"),
    ("phone-mu-law.wav", "pcm_mulaw", 8_000, 1, "wav", "pcm_mulaw"),
    ("phone-a-law.wav", "pcm_alaw", 8_000, 2, "wav", "pcm_alaw"),
    ("speech.mp3", "libmp3lame", 44_100, 2, "mp3", "mp3"),
    ("speech.flac", "flac", 48_000, 2, "flac", "flac"),
    ("speech.ogg", "libopus", 48_000, 1, "ogg", "opus"),
    ("speech.webm", "libopus", 48_000, 2, "webm", "opus"),
    ("speech.m4a", "aac", 44_100, 2, "mp4", "aac"),
    ("speech.aac", "aac", 16_000, 1, "aac", "aac"),
    ("speech.amr", "libopencore_amrnb", 8_000, 1, "amr", "amr_nb"),
    ("speech.aiff", "pcm_s16be", 22_050, 1, "aiff", "pcm_s16be"),
)


def speech(name: str = "sense-and-sensibility") -> Samples:
    """A human voice, at `RATE`."""
    with av.open(str(SPEECH / f"{name}.flac")) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.int16)


def noise(seconds: float, amplitude: float = 3_000, seed: int = 1) -> Samples:
    return (np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * amplitude).astype(np.int16)


def tone(seconds: float, hertz: float = 425) -> Samples:
    return (np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE) * 6_000).astype(np.int16)


def talk(pauses: float, times: int) -> Samples:
    """The same sentence over and over, with pauses between."""
    return np.concatenate([speech(), silence(pauses)] * times)


def write(path: Path, *channels: Samples, coder: str = "pcm_s16le", rate: int = RATE) -> Path:
    """A recording with these channels, which are at `RATE`."""
    with av.open(str(path), "w") as file:
        stream = cast(AudioStream, file.add_stream(coder, rate=rate))
        stream.layout = "mono" if len(channels) == 1 else "stereo"
        for frame in _frames(np.stack(channels), stream.layout.name, rate):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def _frames(samples: Samples, layout: str, rate: int) -> list[AudioFrame]:
    turn = AudioResampler(format="s16p", layout=layout, rate=rate)
    frames: list[AudioFrame] = []
    for begin in range(0, samples.shape[1], RATE):
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, begin : begin + RATE]), "s16p", layout)
        frame.sample_rate = RATE
        frames += turn.resample(frame)
    frames += turn.resample(None)
    position = 0
    for frame in frames:
        frame.pts = position
        position += frame.samples
    return frames


def write_video(path: Path) -> Path:
    """Moving pictures without sound."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(10):
            file.mux(stream.encode(VideoFrame(64, 64, "yuv420p")))
        file.mux(stream.encode(None))
    return path


def samples_of(path: Path) -> Samples:
    """What a file of one channel at `RATE` holds."""
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
