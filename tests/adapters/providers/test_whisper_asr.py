"""Against whisper-asr-webservice's three engines: real HTTP, real recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.providers.recording_call import open_speech_client
from adapters.providers.whisper_asr import WhisperAsrProvider, asr_url
from domain.errors import ErrorCode, RunFailed, TooLong
from domain.speech import Recording, SpeechCall, Transcript
from tests.adapters.providers.factories import a_job
from tests.adapters.providers.recordings import a_recording
from tests.servers.model_server import Behaviour, refuses
from tests.servers.speech_server import Heard, SpeechServer, whisper_asr

KEY = "k-very-secret"
PROMPT = "Names: Speke, Burton, Ukerewe."
NO_WAIT = timedelta(seconds=30)
ENGINES = ["openai_whisper", "faster_whisper", "whisperx"]
SAID = (Heard(0.2, 1.4, "Room 72 please.", "SPEAKER_01"), Heard(1.5, 2.9, "Yes, of course.", "SPEAKER_00"))


@pytest.fixture
def server() -> Iterator[SpeechServer]:
    with SpeechServer(whisper_asr()) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with open_speech_client() as client:
        yield client


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return a_recording(tmp_path, seconds=3.0)


Make = Callable[..., WhisperAsrProvider]


@pytest.fixture
def make(client: httpx.AsyncClient) -> Make:
    def make(server: SpeechServer, **options: Any) -> WhisperAsrProvider:
        return WhisperAsrProvider(client, **{"base_url": server.origin, "timeout": NO_WAIT, **options})

    return make


async def hear(provider: WhisperAsrProvider, recording: Recording, **call: Any) -> Transcript:
    return await provider.transcribe(recording, SpeechCall(**call), a_job())


async def error(provider: WhisperAsrProvider, recording: Recording, **call: Any) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        await hear(provider, recording, **call)
    return failed.value


@pytest.mark.parametrize("engine", ENGINES)
async def test_every_engine_gives_the_same_transcript(engine: str, make: Make, recording: Recording) -> None:
    with SpeechServer(whisper_asr(engine)) as server:
        server.knows(recording.path.read_bytes(), *SAID)
        transcript = await hear(make(server), recording)
    assert [(said.start, said.end, said.text) for said in transcript.segments] == [tuple(each)[:3] for each in SAID]
    assert (transcript.language, transcript.model) == ("en", None)


async def test_everything_but_the_recording_stands_in_the_address(
    server: SpeechServer, make: Make, recording: Recording
) -> None:
    await hear(make(server, api_key=KEY), recording, language="ru-RU", vad=True)
    [request] = server.http.requests
    assert request.path == "/asr?encode=true&task=transcribe&output=json&language=ru&vad_filter=true"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert server.heard[0].data == recording.path.read_bytes()


async def test_speakers_are_told_apart_where_their_number_is_given(
    server: SpeechServer, make: Make, recording: Recording
) -> None:
    server.knows(recording.path.read_bytes(), *SAID)
    provider = make(server)
    assert [said.speaker for said in (await hear(provider, recording)).segments] == [None, None]
    transcript = await hear(provider, recording, min_speakers=2, max_speakers=4)
    assert [said.speaker for said in transcript.segments] == ["SPEAKER_01", "SPEAKER_00"]
    assert server.http.requests[1].path.endswith("&diarize=true&min_speakers=2&max_speakers=4")


async def test_words_may_have_no_place_in_time(server: SpeechServer, make: Make, recording: Recording) -> None:
    server.knows(recording.path.read_bytes(), *SAID)
    [first, _] = (await hear(make(server), recording)).segments
    assert [(word.text, word.start is None, word.probability) for word in first.words] == [
        ("Room", False, 0.8),
        ("72", True, None),
        ("please.", False, 0.8),
    ]


async def test_no_prompt_is_sent_to_an_engine_that_fails_over_it(
    server: SpeechServer, make: Make, recording: Recording
) -> None:
    provider = make(server)
    for _ in range(2):
        assert (await hear(provider, recording, prompt=PROMPT)).segments
    assert (await hear(make(server, engine="whisperx"), recording, prompt=PROMPT)).segments
    assert not any("initial_prompt" in upload.fields for upload in server.heard)


async def test_a_prompt_is_sent_once_the_engine_is_known(make: Make, recording: Recording) -> None:
    with SpeechServer(whisper_asr("faster_whisper")) as server:
        provider = make(server)
        for _ in range(2):
            await hear(provider, recording, prompt=PROMPT)
        await hear(make(server, engine="openai_whisper"), recording, prompt=PROMPT)
        assert [upload.fields.get("initial_prompt") for upload in server.heard] == [None, PROMPT, PROMPT]


async def test_engines_that_cannot_are_not_asked_to_tell_speakers_apart(make: Make, recording: Recording) -> None:
    with SpeechServer(whisper_asr("faster_whisper")) as server:
        await hear(make(server, engine="faster_whisper"), recording, min_speakers=2)
        assert "diarize" not in server.heard[0].fields


async def test_a_crash_is_not_the_recordings_fault_and_does_not_fail_the_next_call(
    server: SpeechServer, make: Make, tmp_path: Path, recording: Recording
) -> None:
    provider = make(server)
    poison = a_recording(tmp_path, b"not a recording", name="poison")
    failed = await error(provider, poison)
    assert failed.failure.code is ErrorCode.PROVIDER_UNAVAILABLE
    assert failed.failure.message == "The provider answered 500: Internal Server Error"
    assert (await hear(provider, recording)).segments


async def test_a_proxys_limit_is_too_long(make: Make, recording: Recording) -> None:
    with SpeechServer(whisper_asr(), most_bytes=1000) as server:
        assert isinstance(await error(make(server), recording), TooLong)
        assert isinstance(await error(make(server, most_bytes=1000), recording), TooLong)
        assert server.http.calls == 1


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (refuses(200, '{"text": "cut', headers={"content-type": "text/plain"}), "bad_response"),
        (refuses(200, "<html>Welcome</html>", headers={"content-type": "text/html"}), "bad_response"),
        (refuses(422, {"detail": [{"loc": ["query", "language"], "msg": "no"}]}), "bad_input"),
        (refuses(404, {"detail": "Not Found"}), "provider_unavailable"),
    ],
)
async def test_a_misbehaving_server_ends_in_a_code(
    behaviour: Behaviour, code: str, server: SpeechServer, make: Make, recording: Recording
) -> None:
    server.script(behaviour)
    assert (await error(make(server), recording)).failure.code == code


async def test_a_cancelled_call_ends_at_once_though_the_server_goes_on(
    server: SpeechServer, make: Make, recording: Recording
) -> None:
    server.hold()
    call = asyncio.create_task(hear(make(server), recording))
    await server.http.until(lambda _: server.computing == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.http.until(lambda http: http.hang_ups == 1)
    assert server.computing == 1


async def test_the_model_is_the_one_that_the_profile_names(
    server: SpeechServer, make: Make, recording: Recording
) -> None:
    assert (await hear(make(server, model="large-v3"), recording)).model == "large-v3"


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://a:9000", "http://a:9000/asr"),
        ("http://a:9000/", "http://a:9000/asr"),
        ("http://a/whisper", "http://a/whisper/asr"),
        ("http://a:9000/asr/", "http://a:9000/asr"),
    ],
)
def test_recordings_go_to_asr(base_url: str, url: str) -> None:
    assert asr_url(base_url) == url


def test_the_key_is_not_shown(make: Make, server: SpeechServer) -> None:
    assert KEY not in repr(make(server, api_key=KEY))
