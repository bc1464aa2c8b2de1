"""Writes sound as FLAC: half the size of WAV, nothing is lost, and every speech server takes it.

Runs in a decoding process only.
"""

from __future__ import annotations

from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.error import FFmpegError
from numpy.typing import NDArray

from adapters.audio.decode import RATE

FRAME = 4096
CONTAINER = "flac"


class WritingFailedError(Exception):
    """The file could not be written; the message is the system's own."""


class Flac:
    """One channel at `RATE`, 16 bits.

    Raises:
        WritingFailedError: from every method.
    """

    def __init__(self, path: str) -> None:
        try:
            self._container = av.open(f"file:{path}", "w", format=CONTAINER)
        except OSError as error:
            raise WritingFailedError(error.strerror or type(error).__name__) from None
        self._stream = cast(AudioStream, self._container.add_stream(CONTAINER, rate=RATE))
        self._stream.layout = "mono"
        self._stream.format = "s16"
        self._rest: NDArray[np.int16] = np.zeros(0, np.int16)
        self.samples = 0

    def write(self, samples: NDArray[np.int16]) -> None:
        """Go on with these."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // FRAME * FRAME
        for begin in range(0, whole, FRAME):
            self._encode(samples[begin : begin + FRAME])
        self._rest = samples[whole:]

    def close(self) -> None:
        """The file is whole afterwards."""
        if len(self._rest):
            self._encode(self._rest)
        self._mux(None)
        try:
            self._container.close()
        except (FFmpegError, OSError) as error:
            raise WritingFailedError(error.strerror or type(error).__name__) from None

    def _encode(self, samples: NDArray[np.int16]) -> None:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self.samples
        self.samples += len(samples)
        self._mux(frame)

    def _mux(self, frame: AudioFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (FFmpegError, OSError) as error:
            raise WritingFailedError(error.strerror or type(error).__name__) from None
