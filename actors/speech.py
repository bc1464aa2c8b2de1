"""Runs speech jobs: fetches the recording, looks at it, has it transcribed, and holds the transcript to what was said.

A speech server goes on computing when its caller hangs up. So a run that lost its job keeps its call open until it
ends: the slot stays taken for as long as the server is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
from msgspec import UNSET, Raw, Struct

from actors.chain import Backend, Chain
from actors.desk import Performed
from actors.held_open import held_open
from actors.limits import within_limit
from actors.scratch import scratch
from domain.errors import RunFailed, TooLong
from domain.job import LeasedJob
from domain.ports import AudioFiles, Recordings, SpeechProvider
from domain.results import Segment, TranscriptionResult
from domain.speech import Recording, SpeechCall, SpeechRequest, Transcript, parse_speech_input
from domain.transcript import joined, judge, merge, retry_call, shifted

log = structlog.get_logger()

UNDETERMINED = "und"
"""ISO 639-2: the language is not known, as where nobody speaks."""

SURELY_SILENT = 60.0
"""Seconds: a longer recording without a voice is not sent to a model. In a shorter one it may be a single word."""

LONGEST_PIECE = 600.0
"""Seconds of a piece where the server has said no more than that the whole is too long."""

MOST_CUTS = 3
"""Times that pieces which are still too long are halved."""


class FileLimits(Struct, frozen=True):
    """What a server takes in one call."""

    most_bytes: int
    longest: float | None = None
    """In seconds; None: not known."""

    def holds(self, recording: Recording) -> bool:
        fits = self.longest is None or recording.sound.seconds <= self.longest
        return fits and recording.bytes <= self.most_bytes

    def below(self, recording: Recording) -> FileLimits:
        """Half of what these allow of the recording, which turned out to be too much."""
        longest = min(self.longest or 2 * LONGEST_PIECE, recording.sound.seconds)
        return FileLimits(min(self.most_bytes, recording.bytes) // 2, longest / 2)


@dataclass(frozen=True)
class Heard:
    """What came of a recording."""

    segments: tuple[Segment, ...]
    language: str | None
    model: str | None


@dataclass(frozen=True)
class Speech:
    chain: Chain[SpeechProvider]
    limits: Callable[[str], FileLimits]
    """Of the server of a profile."""
    files: AudioFiles
    recordings: Recordings
    prompt: str
    """Of jobs that name none."""
    max_result_bytes: int

    async def __call__(self, job: LeasedJob, asked: Raw | None = None) -> Performed:
        """The job's `ai.transcription_result.v1` as JSON.

        Args:
            asked: for it, where that is not its input.

        Raises:
            RunFailed, BadInput.
        """
        began = time.monotonic()
        request = parse_speech_input(job.input if asked is None else asked)
        async with scratch() as folder:
            await self.files.fetch(request.source, job.owner_service, folder / "recording")
            recording = await self.recordings.examine(folder / "recording")
            split = request.split_channels and recording.sound.channels > 1
            tracks = await self.recordings.split(recording, folder) if split else [recording]

            async def ask(backend: Backend[SpeechProvider]) -> Heard:
                return await self._hear(backend, tracks, request, job, folder)

            answered = await self.chain.ask(job, ask)
        heard = answered.answer
        result = TranscriptionResult(
            provider=answered.provider,
            model=heard.model or UNSET,
            attempts=answered.attempts or UNSET,
            language=heard.language or request.language or UNDETERMINED,
            segments=heard.segments,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        return Performed(within_limit(msgspec.json.encode(result), self.max_result_bytes), answered.attempts)

    async def _hear(
        self,
        backend: Backend[SpeechProvider],
        tracks: Sequence[Recording],
        request: SpeechRequest,
        job: LeasedJob,
        folder: Path,
    ) -> Heard:
        call = retry_call(self._call(request), job.attempts)
        listener = Listener(backend.provider, self.recordings, call, job, folder, self.limits(backend.profile))
        transcripts = [await listener.transcript(track) for track in tracks]
        # Seconds for a recording of hours, in which the loop has other runs to see to.
        judged = [await asyncio.to_thread(_judged, *each, call, job) for each in zip(transcripts, tracks, strict=True)]
        split = len(tracks) > 1
        return Heard(
            merge([(_speaker(track), said) for track, said in zip(tracks, judged, strict=True)])
            if split
            else judged[0],
            joined(transcripts).language,
            next((transcript.model for transcript in transcripts if transcript.model), None),
        )

    def _call(self, request: SpeechRequest) -> SpeechCall:
        return SpeechCall(
            language=request.language,
            prompt=self.prompt if request.prompt is None else request.prompt,
            min_speakers=request.min_speakers,
            max_speakers=request.max_speakers,
        )


@dataclass(frozen=True)
class Listener:
    """A speech server that hears a job's tracks, one after the other."""

    provider: SpeechProvider
    recordings: Recordings
    call: SpeechCall
    job: LeasedJob
    folder: Path
    """For pieces of tracks."""
    limits: FileLimits

    async def transcript(self, track: Recording) -> Transcript:
        """Of the whole track, heard at once or, where the server asks for it, in pieces.

        Raises:
            RunFailed.
        """
        if _is_silent(track):
            return Transcript(segments=())
        limits = self.limits
        for _ in range(MOST_CUTS):
            try:
                return await self._within(limits, track)
            except TooLong:
                limits = limits.below(track)
        return await self._within(limits, track)

    async def _within(self, limits: FileLimits, track: Recording) -> Transcript:
        if limits.holds(track):
            return await self._hear(track)
        longest = limits.longest or LONGEST_PIECE
        try:
            pieces = await self.recordings.cut(track, self.folder, longest=longest, most_bytes=limits.most_bytes)
        except ValueError:
            raise TooLong("The provider takes no recording, however short.") from None
        # Nobody is asked about pieces in which nobody speaks.
        return joined([shifted(await self._hear(piece), piece.begins) for piece in pieces if piece.sound.speech])

    async def _hear(self, recording: Recording) -> Transcript:
        return await held_open(self.provider.transcribe(recording, self.call, self.job))


def _is_silent(track: Recording) -> bool:
    return track.sound.seconds > SURELY_SILENT and not track.sound.speech


def _judged(transcript: Transcript, track: Recording, call: SpeechCall, job: LeasedJob) -> tuple[Segment, ...]:
    judged = judge(transcript, track.sound, call.prompt)
    if judged.flags:
        log.info("transcript cut", job_id=str(job.id), cut={found.flag: found.seconds for found in judged.flags})
    if judged.failure:
        raise RunFailed.of(judged.failure)
    return judged.segments


def _speaker(track: Recording) -> str:
    return f"channel_{(track.channel or 0) + 1}"
