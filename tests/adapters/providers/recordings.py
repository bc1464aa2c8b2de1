"""Recordings that are valid by default: sounds made on the spot, in files."""

from __future__ import annotations

import io
import math
import struct
import wave
from pathlib import Path

from domain.speech import Recording, Sound, Span

RATE = 8_000


def wav(seconds: float = 1.0, *, pitch: float = 440.0, loudness: float = 0.3) -> bytes:
    """A tone, or (with no loudness) silence."""
    samples = (loudness * math.sin(2 * math.pi * pitch * at / RATE) for at in range(round(seconds * RATE)))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", round(sample * 32_767)) for sample in samples))
    return out.getvalue()


def a_recording(
    folder: Path, data: bytes | None = None, *, seconds: float = 1.0, name: str = "recording", format_: str = "wav"
) -> Recording:
    """A recording of this length, whatever the file holds."""
    path = folder / name
    path.write_bytes(wav(seconds) if data is None else data)
    sound = Sound(
        seconds=seconds,
        channels=1,
        format=format_,
        codec="pcm_s16le",
        sample_rate=RATE,
        speech=(Span(0.0, seconds),),
    )
    return Recording(path=path, bytes=path.stat().st_size, sound=sound)
