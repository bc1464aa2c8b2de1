"""What is done with one file. Runs in a decoding process only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from adapters.audio.cuts import Reach, next_cut, within
from adapters.audio.decode import RATE, Block, Heard
from adapters.audio.orders import Answer, Bounds, Cut, Examine, Examined, Order, Parted, Split
from adapters.audio.voice import FRAME, Voice, loudness_of
from adapters.audio.write import CONTAINER, Flac
from domain.speech import Sound, Span

MOST_GAIN = 30.0


def perform(order: Order) -> Answer:
    """Do it.

    Raises:
        NoRecordingError: the file cannot be heard.
        WritingFailedError: what was made of it cannot be kept.
    """
    match order.task:
        case Examine(path):
            return Examined(examine(path, order.bounds))
        case Split():
            return Parted(split(order.task, order.bounds))
        case Cut():
            return Parted(cut(order.task, order.bounds))


def examine(path: str, bounds: Bounds) -> Sound:
    """Hear all of it."""
    heard, (voice,) = _listen(path, bounds, 1, [1.0])
    gain = voice.missing_gain()
    if gain is not None:
        heard, (voice,) = _listen(path, bounds, 1, [gain])
    return Sound(
        seconds=heard.seconds,
        channels=heard.channels,
        format=heard.format,
        codec=heard.codec,
        sample_rate=heard.sample_rate,
        speech=voice.spans(),
    )


def split(task: Split, bounds: Bounds) -> tuple[Sound, ...]:
    """Each channel, also one that is silent throughout."""
    count = len(task.targets)
    files = [Flac(target) for target in task.targets]
    heard, voices = _listen(task.path, bounds, count, [1.0] * count, files)
    for file in files:
        file.close()
    gains = [voice.missing_gain() for voice in voices]
    if any(gains):
        _, voices = _listen(task.path, bounds, count, [gain or 1.0 for gain in gains])
    return tuple(_written(heard.seconds, voice.spans()) for voice in voices)


def _listen(
    path: str, bounds: Bounds, count: int, gains: list[float], files: list[Flac] | None = None
) -> tuple[Heard, list[Voice]]:
    """Hear all of a file: its mix where one channel is wanted, else each by itself."""
    heard = Heard(path, bounds.longest.total_seconds())
    voices = [Voice(min(gain, MOST_GAIN)) for gain in gains]
    for block in heard.blocks():
        channels = mixed(block)[np.newaxis] if count == 1 else np.resize(block, (count, block.shape[1]))
        for voice, channel in zip(voices, channels, strict=True):
            voice.hear(channel)
        for file, channel in zip(files or (), channels, strict=False):
            file.write(channel)
    return heard, voices


def mixed(block: Block) -> NDArray[np.int16]:
    """All channels in one."""
    if len(block) == 1:
        return np.asarray(block[0])
    return np.asarray(np.rint(block.mean(axis=0, dtype=np.float32)), np.int16)


def _written(seconds: float, speech: tuple[Span, ...]) -> Sound:
    return Sound(seconds=seconds, channels=1, format=CONTAINER, codec=CONTAINER, sample_rate=RATE, speech=speech)


def cut(task: Cut, bounds: Bounds) -> tuple[Sound, ...]:
    """Write the pieces one after another; together they are the recording, sample for sample."""
    heard = Heard(task.path, bounds.longest.total_seconds())
    samples = (mixed(block) for block in heard.blocks())
    sounds: list[Sound] = []
    begins = 0
    for piece in _pieces(samples, task):
        file = Flac(f"{task.prefix}{len(sounds):04d}.{CONTAINER}")
        length = 0
        for part in piece:
            file.write(part)
            length += len(part)
        file.close()
        start, end = begins / RATE, (begins + length) / RATE
        sounds.append(_written(length / RATE, within(task.speech, start, end)))
        begins += length
    return tuple(sounds)


Samples = NDArray[np.int16]


class _Tape:
    """Samples that come in blocks, taken in any lengths."""

    def __init__(self, blocks: Iterator[Samples]) -> None:
        self._blocks = blocks
        self._rest: Samples = np.zeros(0, np.int16)
        self.taken = 0

    def take(self, length: int) -> Iterator[Samples]:
        """So many, or all that are left."""
        while length > 0:
            if not len(self._rest):
                block = next(self._blocks, None)
                if block is None:
                    return
                self._rest = block
            part, self._rest = self._rest[:length], self._rest[length:]
            length -= len(part)
            self.taken += len(part)
            yield part

    def give_back(self, samples: Samples) -> None:
        """They come first at the next `take`."""
        self._rest = np.concatenate([samples, self._rest])
        self.taken -= len(samples)

    @property
    def over(self) -> bool:
        while not len(self._rest):
            block = next(self._blocks, None)
            if block is None:
                return True
            self._rest = block
        return False


def _pieces(blocks: Iterator[Samples], task: Cut) -> Iterator[Iterator[Samples]]:
    tape = _Tape(blocks)
    while not tape.over:
        reach = next_cut(tape.taken / RATE, task.seconds, task.longest, task.speech)
        if reach is None:
            # Rounded down: what is left over by a sample begins another piece rather than break the limit.
            yield tape.take(int(task.longest * RATE))
        else:
            yield _up_to(tape, reach)


def _up_to(tape: _Tape, reach: Reach) -> Iterator[Samples]:
    if reach.silence is not None:
        yield from tape.take(_whole(reach.silence) - tape.taken)
        return
    yield from tape.take(_whole(reach.earliest) - tape.taken)
    window = list(tape.take(_whole(reach.latest) - tape.taken))
    if window:
        samples = np.concatenate(window)
        end = _quietest(samples)
        tape.give_back(samples[end:])
        yield samples[:end]


def _whole(seconds: float) -> int:
    return max(1, int(seconds * RATE))


def _quietest(samples: Samples) -> int:
    """The middle of the quietest three frames in a row."""
    frames = len(samples) // FRAME
    if frames < 3:
        return len(samples)
    loudness = loudness_of(samples[: frames * FRAME].reshape(frames, FRAME))
    threes = np.convolve(loudness, np.ones(3), "valid")
    # The last of equals.
    at = len(threes) - 1 - int(threes[::-1].argmin())
    return int(at + 1.5) * FRAME + FRAME // 2
