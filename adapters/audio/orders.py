"""What a decoding process is asked, and what it answers: JSON over its pipes.

A process that fell to its file may answer anything: nothing in an answer is a path, and every answer is checked.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from domain.speech import Sound, Span

READY = b"ready\n"
"""Said by a process before it opens the file: what goes wrong later is the file's fault."""

LARGEST_ANSWER = 16 * 1024 * 1024


class Bounds(Struct, frozen=True, kw_only=True):
    """What one look at a file may cost."""

    longest: timedelta = timedelta(hours=12)
    """A recording."""
    memory: int = 1024**3
    """Bytes of address space, of which the decoder and its libraries take 220 MB."""
    processor: timedelta = timedelta(minutes=10)
    time: timedelta = timedelta(minutes=15)


class Examine(Struct, frozen=True, tag=True):
    path: str


class Split(Struct, frozen=True, tag=True):
    """Write each channel into a file of its own."""

    path: str
    targets: tuple[str, ...]


class Cut(Struct, frozen=True, tag=True):
    """Write pieces into `{prefix}0000.flac` and so on."""

    path: str
    prefix: str
    longest: float
    seconds: float
    """Of the whole recording."""
    speech: tuple[Span, ...]


class Order(Struct, frozen=True):
    task: Examine | Split | Cut
    bounds: Bounds


class Examined(Struct, frozen=True, tag=True):
    sound: Sound


class Parted(Struct, frozen=True, tag=True):
    """What was written: channels or pieces, in their order."""

    sounds: tuple[Sound, ...]


class Refused(Struct, frozen=True, tag=True):
    """The file is at fault."""

    message: str


class Failed(Struct, frozen=True, tag=True):
    """This machine is at fault: its disk is full, a file has gone."""

    message: str


Answer = Examined | Parted | Refused | Failed
