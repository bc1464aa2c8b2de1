"""Speech jobs: what becomes of a recording between its source and its transcript."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from actors.chain import Backend, Chain
from actors.desk import LOST
from actors.speech import FileLimits, Speech
from domain.errors import ErrorCode, RunFailed, TooLong
from domain.job import LeasedJob
from domain.ports import SpeechProvider
from domain.speech import AudioSource, Recording, Said, Sound, Span, SpeechCall, Transcript
from domain.transcript import Judged, judge
from tests.factories import leased_job

MIB = 1 << 20
PROFILE = "whisper-large-v3"


def recording(
    path: Path,
    seconds: float = 8.0,
    *,
    speech: bool = True,
    begins: float = 0.0,
    channel: int | None = None,
    channels: int = 1,
) -> Recording:
    spoken = (Span(0.0, seconds),) if speech else ()
    sound = Sound(
        seconds=seconds, channels=channels, format="wav", codec="pcm_s16le", sample_rate=16_000, speech=spoken
    )
    return Recording(path=path, bytes=int(seconds * 32_000), sound=sound, begins=begins, channel=channel)


class Files:
    """Writes any recording at once."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    async def fetch(self, source: AudioSource, owner_service: str, path: Path) -> None:
        self.folders.append(path.parent)
        await asyncio.to_thread(path.write_bytes, b"RIFF")


class Ears:
    """Hears in every file what it was told."""

    def __init__(self, heard: Recording, tracks: Sequence[Recording] = ()) -> None:
        self.heard = heard
        self.tracks = tracks
        self.cuts: list[tuple[float, int]] = []

    async def examine(self, path: Path) -> Recording:
        return self.heard

    async def split(self, recording: Recording, folder: Path) -> list[Recording]:
        return list(self.tracks)

    async def cut(self, recording: Recording, folder: Path, *, longest: float, most_bytes: int) -> list[Recording]:
        self.cuts.append((longest, most_bytes))
        whole, at = recording.sound.seconds, 0.0
        pieces = []
        while at < whole:
            length = min(longest, most_bytes / 32_000, whole - at)
            pieces.append(self.piece(folder, length, at))
            at += length
        return pieces

    def piece(self, folder: Path, length: float, at: float) -> Recording:
        return recording(folder / "piece", length, begins=at)


class Whisper:
    """Transcribes every recording into one sentence per eight seconds."""

    def __init__(self, *, takes: float = 1e9) -> None:
        self.takes = takes
        self.heard: list[tuple[Recording, SpeechCall]] = []
        self.began = asyncio.Event()
        self.busy: asyncio.Event | None = None
        self.closed = 0

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        self.heard.append((recording, call))
        self.began.set()
        if recording.sound.seconds > self.takes:
            raise TooLong("Too long.")
        if self.busy:
            try:
                await self.busy.wait()
            except asyncio.CancelledError:
                self.closed += 1
                raise
        seconds = recording.sound.seconds
        words = "the quick brown fox jumps over lazy dogs"
        said = [
            Said(start=at, end=min(at + 7.5, seconds), text=f"Part {at:g}: {words} near house {at:g}.")
            for at in range(0, int(seconds), 8)
        ]
        return Transcript(segments=tuple(said), language="en", model="large-v3")


def speech(whisper: SpeechProvider, ears: Ears, *, limits: FileLimits | None = None, prompt: str = "") -> Speech:
    backends = {PROFILE: Backend(PROFILE, whisper, "vllm", "large-v3")}
    chain: Chain[SpeechProvider] = Chain(lambda: backends)
    return Speech(chain, lambda profile: limits or FileLimits(25 * MIB), Files(), ears, prompt, MIB)


def job(attempts: int = 0, **given: Any) -> LeasedJob:
    body = {"audio_url": "https://example.com/call.wav", **given}
    return leased_job(model_profile=PROFILE, attempts=attempts, input=Raw(msgspec.json.encode(body)))


async def result(performer: Speech, of: LeasedJob) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode((await performer(of)).result)
    return decoded


async def test_a_recording_becomes_segments(tmp_path: Path) -> None:
    told = await result(speech(Whisper(), Ears(recording(tmp_path, 16.0))), job())
    assert (told["schema_version"], told["provider"], told["model"], told["language"]) == (
        "ai.transcription_result.v1",
        "vllm",
        "large-v3",
        "en",
    )
    assert [(each["start"], each["end"]) for each in told["segments"]] == [(0.0, 7.5), (8.0, 15.5)]


async def test_what_was_fetched_is_gone_afterwards(tmp_path: Path) -> None:
    performer = speech(Whisper(), Ears(recording(tmp_path)))
    await performer(job())
    assert isinstance(performer.files, Files)
    assert not performer.files.folders[0].exists()


async def test_a_long_recording_without_a_voice_is_an_empty_success_that_no_model_hears(tmp_path: Path) -> None:
    whisper = Whisper()
    told = await result(speech(whisper, Ears(recording(tmp_path, 18_000.0, speech=False))), job())
    assert (told["segments"], told["language"], whisper.heard) == ([], "und", [])


async def test_each_channel_is_heard_on_its_own_and_is_a_speaker(tmp_path: Path) -> None:
    tracks = [recording(tmp_path / "l", channel=0), recording(tmp_path / "r", channel=1)]
    ears = Ears(recording(tmp_path, channels=2), tracks)
    told = await result(speech(Whisper(), ears), job(channels="split"))
    assert [each["speaker"] for each in told["segments"]] == ["channel_1", "channel_2"]


async def test_what_a_server_takes_is_known_before_it_is_asked(tmp_path: Path) -> None:
    whisper, ears = Whisper(), Ears(recording(tmp_path, 40.0))
    told = await result(speech(whisper, ears, limits=FileLimits(25 * MIB, longest=16.0)), job())
    assert ears.cuts == [(16.0, 25 * MIB)]
    assert [heard.begins for heard, _ in whisper.heard] == [0.0, 16.0, 32.0]
    assert [each["start"] for each in told["segments"]] == [0.0, 8.0, 16.0, 24.0, 32.0]


async def test_a_server_that_refuses_the_length_is_asked_for_the_halves(tmp_path: Path) -> None:
    whisper, ears = Whisper(takes=16.0), Ears(recording(tmp_path, 32.0))
    told = await result(speech(whisper, ears), job())
    assert [each["start"] for each in told["segments"]] == [0.0, 8.0, 16.0, 24.0]
    assert ears.cuts[0][0] == 16.0


async def test_a_server_that_takes_nothing_is_not_asked_for_ever(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as failed:
        await speech(Whisper(takes=0.0), Ears(recording(tmp_path, 32.0)))(job())
    assert failed.value.failure.code is ErrorCode.BAD_INPUT


@pytest.mark.parametrize(
    ("given", "prompt"), [({}, "of the house"), ({"prompt": "mine"}, "mine"), ({"prompt": ""}, "")]
)
async def test_a_job_without_a_prompt_has_that_of_the_installation(
    tmp_path: Path, given: dict[str, Any], prompt: str
) -> None:
    whisper = Whisper()
    await speech(whisper, Ears(recording(tmp_path)), prompt="of the house")(job(**given))
    assert whisper.heard[0][1].prompt == prompt


async def test_a_retry_asks_in_another_way(tmp_path: Path) -> None:
    whisper = Whisper()
    await speech(whisper, Ears(recording(tmp_path)), prompt="leaks")(job(attempts=1))
    [(_, call)] = whisper.heard
    assert (call.temperature, call.prompt, call.vad) == (0.2, "", True)


async def test_a_transcript_that_nobody_said_fails_the_run(tmp_path: Path) -> None:
    class Phantom(Whisper):
        async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
            return Transcript(segments=(Said(start=0, end=8, text="Субтитры сделал DimaTorzok"),), language="ru")

    with pytest.raises(RunFailed) as failed:
        await speech(Phantom(), Ears(recording(tmp_path)))(job())
    assert failed.value.failure.code is ErrorCode.TRANSCRIPT_HALLUCINATION
    assert "Torzok" not in failed.value.failure.message


async def test_a_transcript_is_judged_beside_the_loop_that_other_runs_are_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_on: list[threading.Thread] = []

    def noted(*given: Any) -> Judged:
        judged_on.append(threading.current_thread())
        return judge(*given)

    monkeypatch.setattr("actors.speech.judge", noted)
    await speech(Whisper(), Ears(recording(tmp_path)))(job())
    assert judged_on
    assert threading.current_thread() not in judged_on


async def test_a_run_that_lost_its_job_keeps_its_call_open_until_the_server_has_ended(tmp_path: Path) -> None:
    whisper = Whisper()
    whisper.busy = asyncio.Event()
    run = asyncio.create_task(_awaited(speech(whisper, Ears(recording(tmp_path))), job()))
    await whisper.began.wait()
    run.cancel(LOST)
    await asyncio.wait({run}, timeout=0.05)
    assert not run.done()
    assert whisper.closed == 0
    whisper.busy.set()
    with pytest.raises(asyncio.CancelledError):
        await run


@pytest.mark.parametrize("words", [[None], [LOST, None]])
async def test_any_other_word_closes_the_call_and_so_does_a_second_one(tmp_path: Path, words: list[str | None]) -> None:
    whisper = Whisper()
    whisper.busy = asyncio.Event()
    run = asyncio.create_task(_awaited(speech(whisper, Ears(recording(tmp_path))), job()))
    await whisper.began.wait()
    for word in words:
        await asyncio.sleep(0)
        run.cancel(word)
        await asyncio.wait({run}, timeout=0.02)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert whisper.closed == 1


async def _awaited(performer: Speech, of: LeasedJob) -> None:
    await performer(of)
