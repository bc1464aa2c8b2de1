"""What a speech job asks for, what a recording is found to hold, and what a model makes of it.

All times are seconds from the beginning of the recording.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from domain.errors import BadInput, Problem
from domain.inputs import read_input


class AudioUrl(Struct, frozen=True):
    """A recording that lies at an http or https address of the caller's choice."""

    url: str


class AudioBytes(Struct, frozen=True):
    """A recording that came with the job."""

    data: bytes


class AudioUpload(Struct, frozen=True):
    """A recording that was uploaded before the job."""

    id: UUID


AudioSource = AudioUrl | AudioBytes | AudioUpload


class SpeechRequest(Struct, frozen=True, kw_only=True):
    """What is asked of a speech model, and of which recording."""

    source: AudioSource
    language: str | None = None
    """An ISO 639-1 code; None: the model finds out."""
    prompt: str | None = None
    """None: the installation's own. Empty: none at all."""
    split_channels: bool = False
    """Whether each channel is a speaker of its own."""
    min_speakers: int | None = None
    max_speakers: int | None = None


class SpeechCall(Struct, frozen=True, kw_only=True):
    """One call of a speech server: what it is asked for besides the recording."""

    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    vad: bool = False
    """Whether the server is to leave out what is no speech, where it can."""
    min_speakers: int | None = None
    max_speakers: int | None = None


class Span(Struct, frozen=True, order=True):
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Sound(Struct, frozen=True, kw_only=True):
    """What a recording holds, as its decoder tells; known before a model hears any of it."""

    seconds: float
    channels: int
    format: str
    """Of the file: `wav`, `mp3`, `ogg` ..."""
    codec: str
    sample_rate: int
    speech: tuple[Span, ...] = ()
    """Where somebody seems to speak, in order and apart from one another."""

    @property
    def speech_seconds(self) -> float:
        return sum(span.seconds for span in self.speech)


class Recording(Struct, frozen=True, kw_only=True):
    """A file that can be sent to a speech server, and what it holds."""

    path: Path
    bytes: int
    sound: Sound
    begins: float = 0.0
    """Where it begins within the recording that it was cut from."""
    channel: int | None = None
    """Of the recording that it was split from, from 0; None: all of them."""


class Word(Struct, frozen=True, kw_only=True):
    """A word as a model heard it; some have no place in time."""

    text: str
    start: float | None = None
    end: float | None = None
    probability: float | None = None


class Said(Struct, frozen=True, kw_only=True):
    """A segment of a transcript as a model gives it; a figure that it does not give is None."""

    start: float
    end: float
    text: str
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None


class Transcript(Struct, frozen=True, kw_only=True):
    """What a speech server answered."""

    segments: tuple[Said, ...]
    language: str | None = None
    """As the server named it: `ru` or `russian`; None: it did not say."""
    model: str | None = None
    seconds: float | None = None
    """How long the server says the recording is; some say where the last segment ends."""
    cut_short: bool = False
    """Whether the server says that it stopped before the end."""


Language = Annotated[str, Meta(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$(?!\n)")]
Speakers = Annotated[int, Meta(ge=1, le=100)]
LONGEST_PROMPT = 4_000


class _SpeechInput(Struct):
    audio_url: Annotated[str, Meta(min_length=1, max_length=8_000)] | UnsetType | None = UNSET
    audio_base64: Annotated[str, Meta(min_length=1)] | UnsetType | None = UNSET
    upload_id: UUID | UnsetType | None = UNSET
    language: Language | UnsetType | None = UNSET
    prompt: Annotated[str, Meta(max_length=LONGEST_PROMPT)] | UnsetType | None = UNSET
    channels: Literal["mix", "split"] | UnsetType | None = UNSET
    min_speakers: Speakers | UnsetType | None = UNSET
    max_speakers: Speakers | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_SpeechInput)

SOURCES = ("audio_url", "audio_base64", "upload_id")


def parse_speech_input(data: bytes | msgspec.Raw) -> SpeechRequest:
    """The request that a speech job's input stands for.

    Raises:
        BadInput: with the JSON pointer of what is wrong, from the input's root.
    """
    given = read_input(_decoder, data)
    least, most = given.min_speakers or None, given.max_speakers or None
    if least and most and least > most:
        raise BadInput([Problem("/max_speakers", "must not be less than `min_speakers`")])
    return SpeechRequest(
        source=_source(given),
        language=given.language or None,
        prompt=None if given.prompt is UNSET else given.prompt,
        split_channels=given.channels == "split",
        min_speakers=least,
        max_speakers=most,
    )


def _source(given: _SpeechInput) -> AudioSource:
    named = [name for name in SOURCES if getattr(given, name)]
    if len(named) != 1:
        raise BadInput([Problem("", f"give exactly one of {', '.join(f'`{name}`' for name in SOURCES)}")])
    if given.audio_url:
        if not given.audio_url.lower().startswith(("http://", "https://")):
            raise BadInput([Problem("/audio_url", "must be an http:// or https:// URL")])
        return AudioUrl(given.audio_url)
    if given.audio_base64:
        return AudioBytes(_decoded(given.audio_base64))
    assert given.upload_id, "one of them was named"  # noqa: S101  # for the type checker
    return AudioUpload(given.upload_id)


def _decoded(text: str) -> bytes:
    # A data URL is what browsers make of a file.
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise BadInput([Problem("/audio_base64", "must be base64 of a recording that is not empty")])
    return data
