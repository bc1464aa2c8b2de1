from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.providers.practice_speech import PracticeSpeechProvider
from domain.errors import ErrorCode, RunFailed
from domain.speech import Span, SpeechCall, Transcript
from domain.transcript import judge
from tests.adapters.providers.factories import a_job
from tests.adapters.providers.recordings import a_recording

HASTE = 35
"""Characters that nobody says in a second."""


async def hear(folder: Path, seconds: float = 12.3, input_: object = None, **options: object) -> Transcript:
    recording = a_recording(folder, b"", seconds=seconds)
    call = SpeechCall(language=str(options["language"]) if "language" in options else None)
    return await PracticeSpeechProvider().transcribe(recording, call, a_job(input_))


async def run(folder: Path, practice: object, **counts: int) -> ErrorCode | None:
    try:
        await PracticeSpeechProvider().transcribe(
            a_recording(folder, b""), SpeechCall(), a_job({"practice": practice}, **counts)
        )
    except RunFailed as error:
        return error.failure.code
    return None


async def test_it_tells_how_long_the_recording_is(tmp_path: Path) -> None:
    first, second = (await hear(tmp_path)).segments
    assert (first.start, first.end, second.start, second.end) == (0.0, 6.15, 6.15, 12.3)
    assert (first.text, second.text) == (
        "Part 1 of 2 of 12.3 s of practice, from second 0.0 on.",
        "Part 2 of 2 of 12.3 s of practice, from second 6.2 on.",
    )


@pytest.mark.parametrize("seconds", [0.2, 1.0, 4.9, 5.0, 10.0, 61.7, 18_000.0])
async def test_its_segments_cover_the_recording_at_a_pace_that_can_be_spoken(seconds: float, tmp_path: Path) -> None:
    segments = (await hear(tmp_path, seconds)).segments
    assert (segments[0].start, segments[-1].end) == (0.0, seconds)
    assert all(one.end == next_one.start for one, next_one in pairwise(segments))
    assert all(f"{seconds:.1f} s" in said.text for said in segments)
    assert all(0.5 <= len(said.text) / (said.end - said.start) <= HASTE for said in segments)
    assert len({said.text for said in segments}) == len(segments)


@pytest.mark.parametrize("seconds", [0.2, 1.0, 9.0, 11.0, 61.7, 3_600.0])
async def test_its_transcripts_are_believed_whatever_the_recording_holds(seconds: float, tmp_path: Path) -> None:
    transcript = await hear(tmp_path, seconds)
    for speech in ((), (Span(0.0, seconds),)):
        judged = judge(transcript, replace(a_recording(tmp_path, b"", seconds=seconds).sound, speech=speech), "")
        assert (len(judged.segments), judged.failure) == (len(transcript.segments), None)


async def test_it_says_what_it_is(tmp_path: Path) -> None:
    transcript = await hear(tmp_path)
    assert (transcript.model, transcript.language, transcript.seconds) == ("practice", "en", 12.3)
    assert (await hear(tmp_path, language="ru")).language == "ru"


async def test_the_same_recording_gives_the_same_transcript(tmp_path: Path) -> None:
    assert await hear(tmp_path) == await hear(tmp_path)


@pytest.mark.parametrize("code", ErrorCode)
async def test_it_fails_every_run_with_any_code_it_is_asked_for(code: ErrorCode, tmp_path: Path) -> None:
    assert await run(tmp_path, {"error_code": code}, attempts=2, give_backs=9) is code


async def test_it_fails_as_many_runs_as_it_is_asked_to(tmp_path: Path) -> None:
    practice = {"error_code": "bad_audio", "times": 2}
    assert await run(tmp_path, practice, attempts=1) is ErrorCode.BAD_AUDIO
    assert await run(tmp_path, practice, attempts=1, give_backs=1) is None


async def test_a_delay_comes_before_an_answer_and_before_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("adapters.providers.practice.asyncio.sleep", sleep)
    assert await run(tmp_path, {"delay_ms": 1500}) is None
    assert await run(tmp_path, {"delay_ms": 20, "error_code": "unknown"}) is ErrorCode.UNKNOWN
    assert waits == [1.5, 0.02]


async def test_a_practice_that_makes_no_sense_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as failed:
        await hear(tmp_path, input_={"practice": {"times": "two"}})
    assert failed.value.failure.code is ErrorCode.BAD_INPUT
    assert failed.value.failure.message == "/practice/times: Expected `int | null`, got `str`"
