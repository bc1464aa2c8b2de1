"""Reads a file of unknown origin as sound, a second at a time. Runs in a decoding process only.

FFmpeg is kept from everything but the one open file: no other protocol, no playlist, no picture decoder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from numpy.typing import NDArray

from adapters.audio.sniff import HEAD, kind_of

RATE = 16_000
"""Samples per second of everything that is looked at or written: what speech models hear."""

MOST_CHANNELS = 16

# None of these opens another file or address; hls, concat, sdp, image2 and their like do.
FORMATS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,f4v,flac,flv,gsm,latm,loas,m4a,matroska,mov,mp2,mp3,"
    "mp4,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,qcp,rm,sox,tta,voc,w64,wav,webm,wv"
)

# Sound only: a picture's decoder never runs, not even while FFmpeg finds out what the file holds.
CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,adpcm_g722,adpcm_g726,adpcm_g726le,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,"
    "adpcm_swf,adpcm_yamaha,alac,amrnb,amrwb,ape,cook,dca,eac3,flac,g722,g723_1,g726,g726le,g729,gsm,gsm_ms,"
    "libopencore_amrnb,libopencore_amrwb,libopus,mp1,mp1float,mp2,mp2float,mp3,mp3float,mpc7,mpc8,nellymoser,opus,"
    "pcm_alaw,pcm_bluray,pcm_dvd,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16be_planar,"
    "pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,pcm_s32le_planar,pcm_s64be,"
    "pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,pcm_u8,qcelp,ra_144,"
    "ra_288,sipr,speex,truespeech,tta,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice"
)

Block = NDArray[np.int16]
"""Samples, one row for each channel."""


class NoRecordingError(Exception):
    """The file cannot be heard; the message says why, without any of its content."""


class NotThereError(Exception):
    """The file cannot be opened at all; the message is the system's own."""


class Heard:
    """The sound of an open file.

    Raises:
        NoRecordingError: also while it is read.
        NotThereError: there is no such file.
    """

    def __init__(self, path: str, longest: float) -> None:
        """
        Args:
            longest: seconds.
        """
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115  # FFmpeg reads it until this process ends
        except OSError as error:
            raise NotThereError(error.strerror) from None
        kind = kind_of(self._file.read(HEAD))
        if kind:
            raise NoRecordingError(f"The recording is {kind}.")
        self._file.seek(0)
        self._longest = round(longest * RATE)
        self._container = self._opened()
        self._stream = self._audio()
        self.format = _plain(self._container.format.name)
        self.codec = self._stream.codec_context.codec.canonical_name
        self.channels = 0
        self.sample_rate = 0
        self.samples = 0
        """Of each channel, at `RATE`: how many were read so far."""
        self._good = 0
        self._broken = 0
        self._used = 0

    @property
    def seconds(self) -> float:
        """Read so far."""
        return self.samples / RATE

    def blocks(self) -> Iterator[Block]:
        """All of it in order, about a second at a time; there is always at least one sample."""
        waiting: list[Block] = []
        length = 0
        for block in self._resampled():
            if not block.shape[1]:
                continue
            waiting.append(block)
            length += block.shape[1]
            if length >= RATE:
                yield self._counted(np.concatenate(waiting, axis=1))
                waiting, length = [], 0
        if waiting:
            yield self._counted(np.concatenate(waiting, axis=1))
        self._judge()

    def _opened(self) -> InputContainer:
        options = {
            "fd": str(self._file.fileno()),
            "protocol_whitelist": "fd",
            "format_whitelist": FORMATS,
            "codec_whitelist": CODECS,
        }
        try:
            return av.open("fd:", options=options)
        except (FFmpegError, ValueError, UnicodeError):
            raise NoRecordingError("The recording is of no known audio format, or broken at its beginning.") from None

    def _audio(self) -> AudioStream:
        streams = self._container.streams
        named = _plain(self._container.format.name)
        if not streams.audio:
            found = "a video without sound" if streams.video else "a file without sound"
            raise NoRecordingError(f"The recording is {found} ({named}).")
        stream = next((one for one in streams.audio if one.codec_context is not None), None)
        if stream is None:
            raise NoRecordingError(f"The recording's sound ({named}) is coded in a way that is not known here.")
        stream.codec_context.thread_count = 1
        return stream

    def _resampled(self) -> Iterator[Block]:
        resampler: AudioResampler | None = None
        shape: tuple[str, int, str] | None = None
        for frame in self._frames():
            if frame.sample_rate <= 0 or not frame.layout.nb_channels:
                raise NoRecordingError("The recording's sound has no sample rate or no channels.")
            if not self.channels:
                self._take(frame)
            here = (frame.format.name, frame.sample_rate, frame.layout.name)
            if here != shape:
                if resampler is not None:
                    yield from self._turned(resampler, None)
                resampler, shape = AudioResampler(format="s16p", layout=frame.layout, rate=RATE), here
            assert resampler is not None  # noqa: S101  # for the type checker
            frame.pts = None
            yield from self._turned(resampler, frame)
        if resampler is not None:
            yield from self._turned(resampler, None)

    def _take(self, frame: AudioFrame) -> None:
        self.channels, self.sample_rate = frame.layout.nb_channels, frame.sample_rate
        if self.channels > MOST_CHANNELS:
            raise NoRecordingError(f"The recording has {self.channels} channels: {MOST_CHANNELS} at most.")

    def _turned(self, resampler: AudioResampler, frame: AudioFrame | None) -> Iterator[Block]:
        try:
            turned = resampler.resample(frame)
        except (FFmpegError, ValueError):
            self._broken += 1
            return
        for one in turned:
            block = np.asarray(one.to_ndarray(), np.int16)
            # A recording may change its channels on the way: the first count holds.
            if len(block) != self.channels:
                block = np.resize(block, (self.channels, block.shape[1]))
            yield block

    def _frames(self) -> Iterator[AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (FFmpegError, ValueError):
                # The container ends in the middle: what was heard so far counts.
                self._broken += 1
                return
            # Decoding may take it away from the packet.
            size = packet.size
            try:
                frames = packet.decode()
            except (FFmpegError, ValueError):
                self._broken += 1
                continue
            if frames:
                self._good += 1
                self._used += size
            for frame in frames:
                if isinstance(frame, AudioFrame) and frame.samples:
                    yield frame

    def _counted(self, block: Block) -> Block:
        self.samples += block.shape[1]
        if self.samples > self._longest:
            raise NoRecordingError(f"The recording is too long: {self._longest / RATE / 3600:.3g} hours at most.")
        return block

    def _judge(self) -> None:
        if not self.samples:
            raise NoRecordingError(f"The recording ({self.format}, {self.codec}) holds no sound that can be decoded.")
        if self._mostly_skipped():
            raise NoRecordingError(f"Most of the recording ({self.format}, {self.codec}) is broken or missing.")
        if self._broken > self._good:
            raise NoRecordingError(
                f"Most of the recording ({self.format}, {self.codec}) is broken: "
                f"{self._broken} of {self._broken + self._good} packets cannot be decoded."
            )

    def _mostly_skipped(self) -> bool:
        """Whether FFmpeg found little in the file to decode, and much less than its header promises.

        Either alone proves nothing: files carry pictures, headers lie, and phones leave out what is silent.
        """
        promised = (self._container.duration or 0) / 1_000_000
        size = os.fstat(self._file.fileno()).st_size
        return self._used < size / 4 and self.seconds < promised / 3


NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "webm"}


def _plain(format_name: str) -> str:
    return NAMES.get(format_name, format_name.partition(",")[0])
