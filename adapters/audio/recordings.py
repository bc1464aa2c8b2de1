"""The port `Recordings`, by FFmpeg's decoders. Every look at a file happens in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from adapters.audio.children import Children
from adapters.audio.orders import Answer, Bounds, Cut, Examine, Examined, Order, Parted, Split
from domain.errors import ErrorCode, RunFailed
from domain.speech import Recording, Sound

# FLAC is never larger than the samples themselves by more than its frames' heads and its own.
MOST_BYTES_PER_SECOND = 32_000 * 1.01
HEADERS = 16 * 1024

SHORTEST_PIECE = 1.0

ONE_LOOK = Bounds()


class DecodedRecordings:
    """Whatever comes back, or fails, or is cancelled: no process is left, and no file outside the folder."""

    def __init__(self, at_once: int | None = None, bounds: Bounds = ONE_LOOK) -> None:
        """
        Args:
            at_once: decoding processes; None: one for each processor.
        """
        self._children = Children(at_once or os.cpu_count() or 1, bounds)
        self._bounds = bounds

    async def examine(self, path: Path) -> Recording:
        """See the port. Decodes all of it: its headers may lie."""
        answer = await self._ask(Examine(str(path)))
        if not isinstance(answer, Examined):
            raise _nonsense()
        return Recording(path=path, bytes=_size(path), sound=answer.sound)

    async def split(self, recording: Recording, folder: Path) -> list[Recording]:
        """See the port. FLAC at 16 kHz; a channel that is silent comes back without speech."""
        count = recording.sound.channels
        if count < 2:
            return [recording]
        paths = [folder / f"{recording.path.stem}-channel{channel}.flac" for channel in range(count)]
        sounds = await self._parts(Split(str(recording.path), tuple(map(str, paths))))
        if len(sounds) != count:
            raise _nonsense()
        return [
            Recording(path=path, bytes=_size(path), sound=sound, begins=recording.begins, channel=channel)
            for channel, (path, sound) in enumerate(zip(paths, sounds, strict=True))
        ]

    async def cut(self, recording: Recording, folder: Path, *, longest: float, most_bytes: int) -> list[Recording]:
        """See the port. FLAC at 16 kHz, one channel; also pieces without speech. What fits comes back as it is.

        Raises:
            ValueError: not even a second of sound fits.
        """
        if recording.sound.seconds <= longest and recording.bytes <= most_bytes:
            return [recording]
        most_seconds = min(longest, (most_bytes - HEADERS) / MOST_BYTES_PER_SECOND)
        if most_seconds < SHORTEST_PIECE:
            raise ValueError(f"not even a second fits into {longest} s and {most_bytes} bytes")
        prefix = str(folder / f"{recording.path.stem}-piece")
        sound = recording.sound
        sounds = await self._parts(Cut(str(recording.path), prefix, most_seconds, sound.seconds, sound.speech))
        pieces = []
        begins = recording.begins
        for number, piece in enumerate(sounds):
            path = Path(f"{prefix}{number:04d}.flac")
            pieces.append(
                Recording(
                    path=path,
                    bytes=_size(path),
                    sound=piece,
                    begins=begins,
                    channel=recording.channel,
                )
            )
            begins += piece.seconds
        return pieces

    async def _parts(self, task: Split | Cut) -> tuple[Sound, ...]:
        answer = await self._ask(task)
        if not isinstance(answer, Parted) or not answer.sounds:
            raise _nonsense()
        return answer.sounds

    async def _ask(self, task: Examine | Split | Cut) -> Answer:
        return await self._children.ask(Order(task, self._bounds))


def _nonsense() -> RunFailed:
    return RunFailed(ErrorCode.BAD_AUDIO, "The recording made its decoder answer nonsense.")


def _size(path: Path) -> int:
    return path.stat().st_size
