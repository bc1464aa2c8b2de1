"""Against servers of four kinds, and servers that misbehave: real HTTP, real recordings, real cuts."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from adapters.providers.client import open_client
from adapters.providers.openai_speech import DIALECTS, OpenAISpeechProvider, transcriptions_url
from adapters.providers.recording_call import open_speech_client
from domain.errors import ErrorCode, Failure, RunFailed, TooLong
from domain.speech import Recording, SpeechCall, Transcript
from tests.adapters.providers.factories import a_job
from tests.adapters.providers.recordings import a_recording, wav
from tests.servers.model_server import Behaviour, cuts, refuses, sends, stalls, tells
from tests.servers.speech_server import (
    SUBTITLES,
    Heard,
    Kind,
    SpeechServer,
    faster_whisper,
    openai_asr,
    speaches,
    vllm,
)

KEY = "k-very-secret"
PROMPT = "Names: Speke, Burton, Ukerewe."
SOON, NO_WAIT = timedelta(seconds=0.3), timedelta(seconds=30)
KINDS = [vllm, speaches, faster_whisper, openai_asr]
SAID = (Heard(0.2, 1.4, "Go forward"), Heard(1.5, 2.9, "ten metres."))


@pytest.fixture
def server() -> Iterator[SpeechServer]:
    with SpeechServer() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with open_speech_client() as client:
        yield client


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return a_recording(tmp_path, seconds=3.0)


Make = Callable[..., OpenAISpeechProvider]


@pytest.fixture
def make(client: httpx.AsyncClient) -> Make:
    def make(server: SpeechServer, **options: Any) -> OpenAISpeechProvider:
        wanted = {"model": "whisper", "base_url": server.base_url, "timeout": NO_WAIT, **options}
        return OpenAISpeechProvider(client, **wanted)

    return make


@pytest.fixture
def provider(server: SpeechServer, make: Make) -> OpenAISpeechProvider:
    return make(server, api_key=KEY)


async def hear(provider: OpenAISpeechProvider, recording: Recording, **call: Any) -> Transcript:
    return await provider.transcribe(recording, SpeechCall(**call), a_job())


async def error(provider: OpenAISpeechProvider, recording: Recording, **call: Any) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        await hear(provider, recording, **call)
    return failed.value


async def failure(provider: OpenAISpeechProvider, recording: Recording, **call: Any) -> Failure:
    return (await error(provider, recording, **call)).failure


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_server_gives_the_same_transcript(
    kind: Callable[[], Kind], make: Make, recording: Recording
) -> None:
    with SpeechServer(kind()) as server:
        server.knows(recording.path.read_bytes(), *SAID)
        transcript = await hear(make(server), recording)
    assert [(said.start, said.end, said.text) for said in transcript.segments] == [
        (0.2, 1.4, "Go forward"),
        (1.5, 2.9, "ten metres."),
    ]
    assert (transcript.language, transcript.model, transcript.cut_short) == ("en", "whisper", False)


async def test_the_recording_arrives_as_it_is(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    await hear(provider, recording)
    [upload] = server.heard
    assert upload.data == recording.path.read_bytes()
    assert (upload.seconds, upload.filename) == (3.0, "recording.wav")


async def test_the_request_is_what_such_servers_expect(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    await hear(provider, recording, language="pt-BR", prompt=PROMPT, temperature=0.2, vad=True, min_speakers=2)
    [request] = server.http.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/audio/transcriptions", f"Bearer {KEY}")
    assert int(request.headers["content-length"]) == len(request.body)
    assert "transfer-encoding" not in request.headers
    assert server.heard[0].every_field == (
        ("model", "whisper"),
        ("response_format", "verbose_json"),
        ("temperature", "0.2"),
        ("timestamp_granularities[]", "segment"),
        ("language", "pt"),
        ("prompt", PROMPT),
    )


async def test_what_is_not_asked_for_is_not_sent(server: SpeechServer, make: Make, recording: Recording) -> None:
    await hear(make(server), recording)
    assert not {"language", "prompt"} & set(server.heard[0].fields)
    assert "authorization" not in server.http.requests[0].headers


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vllm", []),
        ("speaches", [("without_timestamps", "false"), ("vad_filter", "true")]),
        ("faster-whisper", [("model_name", "whisper"), ("vad_filter", "true")]),
    ],
)
async def test_a_kind_of_server_is_sent_what_it_knows(
    name: str, more: list[tuple[str, str]], server: SpeechServer, make: Make, recording: Recording
) -> None:
    await hear(make(server, dialect=DIALECTS[name]), recording, vad=True)
    assert set(more) <= set(server.heard[0].every_field)
    assert len(server.heard[0].every_field) == 4 + len(more)


@pytest.mark.parametrize(
    ("format_", "filename"),
    [
        ("mp3", "recording.mp3"),
        ("mov,mp4,m4a,3gp", "recording.mp4"),
        ("matroska,webm", "recording.webm"),
        ("?", "recording.bin"),
    ],
)
async def test_the_file_is_named_for_its_format(
    format_: str, filename: str, server: SpeechServer, make: Make, tmp_path: Path
) -> None:
    await hear(make(server), a_recording(tmp_path, format_=format_))
    assert server.heard[0].filename == filename


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://a:8004", "http://a:8004/v1/audio/transcriptions"),
        ("http://a:8004/v1/", "http://a:8004/v1/audio/transcriptions"),
        ("https://a/openai?api-version=1", "https://a/openai/audio/transcriptions?api-version=1"),
    ],
)
def test_recordings_go_below_the_base_url(base_url: str, url: str) -> None:
    assert transcriptions_url(base_url) == url


def test_the_key_is_not_shown(make: Make, server: SpeechServer) -> None:
    assert KEY not in repr(make(server, api_key=KEY))


async def test_silence_is_you(make: Make, tmp_path: Path) -> None:
    with SpeechServer(faster_whisper()) as server:
        transcript = await hear(make(server), a_recording(tmp_path, wav(5.0, loudness=0.0), seconds=5.0))
    [said] = transcript.segments
    assert (said.text, said.no_speech_prob, transcript.seconds) == ("You", 0.7, 5.0)


async def test_a_duration_may_be_where_the_last_segment_ends(make: Make, tmp_path: Path) -> None:
    with SpeechServer(openai_asr()) as server:
        transcript = await hear(make(server), a_recording(tmp_path, wav(5.0, loudness=0.0), seconds=5.0))
    assert (transcript.seconds, transcript.segments[0].avg_logprob) == (2.0, 0.0)


async def test_an_unknown_model_may_be_answered_by_another(make: Make, recording: Recording) -> None:
    with SpeechServer(faster_whisper()) as server:
        assert (await hear(make(server, model="no-such-model"), recording)).segments
        dialect = DIALECTS["faster-whisper"]
        assert (await hear(make(server, model="no-such-model", dialect=dialect), recording)).segments
        assert server.heard[1].fields["model_name"] == "no-such-model"


@pytest.mark.parametrize("kind", [vllm, speaches, openai_asr])
async def test_an_unknown_model_is_unavailable(kind: Callable[[], Kind], make: Make, recording: Recording) -> None:
    with SpeechServer(kind()) as server:
        assert (await failure(make(server, model="no-such"), recording)).code is ErrorCode.MODEL_UNAVAILABLE


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_key_is_an_auth_error(kind: Callable[[], Kind], make: Make, recording: Recording) -> None:
    with SpeechServer(kind(), api_key=KEY) as server:
        assert (await failure(make(server, api_key="another"), recording)).code is ErrorCode.AUTH_ERROR
        assert (await hear(make(server, api_key=KEY), recording)).segments


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_server_finds_too_large_is_too_long(
    kind: Callable[[], Kind], make: Make, recording: Recording
) -> None:
    with SpeechServer(kind(), most_bytes=1000) as server:
        assert isinstance(await error(make(server), recording), TooLong)


async def test_what_is_too_large_is_not_sent(server: SpeechServer, make: Make, recording: Recording) -> None:
    failed = await error(make(server, most_bytes=recording.bytes - 1), recording)
    assert isinstance(failed, TooLong)
    assert (
        failed.failure.message
        == f"The recording has {recording.bytes} bytes, and the provider takes {recording.bytes - 1}."
    )
    assert server.http.calls == 0
    assert (await hear(make(server, most_bytes=recording.bytes), recording)).segments


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        (vllm, b"not a recording", "bad_audio"),
        (speaches, b"not a recording", "bad_audio"),
        (speaches, b"", "bad_audio"),
        # Our own decoder has read the file: the server's crash is its own.
        (faster_whisper, b"not a recording", "provider_unavailable"),
        (openai_asr, b"", "provider_unavailable"),
    ],
)
async def test_what_the_server_cannot_decode(
    kind: Callable[[], Kind], data: bytes, code: str, make: Make, tmp_path: Path
) -> None:
    with SpeechServer(kind()) as server:
        assert (await failure(make(server), a_recording(tmp_path, data))).code == code


async def test_a_server_that_closes_after_a_crash_does_not_fail_the_next_call(
    make: Make, client: httpx.AsyncClient, tmp_path: Path, recording: Recording
) -> None:
    poison = a_recording(tmp_path, b"not a recording", name="poison")
    with SpeechServer(faster_whisper()) as server:
        provider = make(server)
        for _ in range(4):
            assert (await failure(provider, poison)).code is ErrorCode.PROVIDER_UNAVAILABLE
            assert (await hear(provider, recording)).segments


async def test_such_a_server_fails_whoever_keeps_the_connection() -> None:
    """That is: the test above tests something."""
    with SpeechServer(faster_whisper()) as server:
        url = transcriptions_url(server.base_url)
        async with open_client() as client:
            assert (await client.post(url, files={"file": ("x.wav", b"no recording")})).status_code == 500
            with pytest.raises(httpx.HTTPError):
                await client.post(url, files={"file": ("x.wav", wav())})


async def test_one_recording_is_heard_at_a_time_and_a_hang_up_does_not_stop_it(
    server: SpeechServer, make: Make, recording: Recording
) -> None:
    server.hold()
    hasty = asyncio.create_task(hear(make(server), recording))
    await server.http.until(lambda _: server.computing == 1)
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    await server.http.until(lambda http: http.hang_ups == 1)
    next_one = asyncio.create_task(hear(make(server), recording))
    await server.http.until(lambda _: server.computing == 2)
    assert (server.http.running, server.decoded) == (1, 0)
    server.let_go()
    assert (await next_one).segments
    assert server.decoded == 2


async def test_a_busy_server_is_rate_limited_and_names_no_time(make: Make, recording: Recording) -> None:
    with SpeechServer(openai_asr(), most_waiting=0) as server:
        server.hold()
        first = asyncio.create_task(hear(make(server), recording))
        await server.http.until(lambda _: server.computing == 1)
        failed = await failure(make(server), recording)
        server.let_go()
        await first
    assert (failed.code, failed.retry_after) == (ErrorCode.RATE_LIMITED, None)


async def test_a_server_that_gives_up_is_a_timeout_and_goes_on_computing(make: Make, recording: Recording) -> None:
    with SpeechServer(openai_asr(), gives_up=True) as server:
        server.hold()
        assert (await failure(make(server), recording)).code is ErrorCode.TIMEOUT
        server.http.wait_until(lambda _: server.computing == 1)


async def test_a_server_that_says_nothing_is_a_timeout(server: SpeechServer, make: Make, recording: Recording) -> None:
    server.hold()
    failed = await failure(make(server, timeout=SOON), recording)
    assert (failed.code, failed.message) == (ErrorCode.TIMEOUT, "There was no transcript after 0.3 s.")


@pytest.mark.parametrize("behaviour", [stalls(b'{"text": "a'), stalls(headers_first=False)])
async def test_half_an_answer_is_waited_for_no_longer_than_a_whole_one(
    behaviour: Behaviour, server: SpeechServer, make: Make, recording: Recording
) -> None:
    server.script(behaviour)
    assert (await failure(make(server, timeout=SOON), recording)).code is ErrorCode.TIMEOUT


async def test_a_silent_server_is_not_taken_for_dead_before_the_calls_time(
    server: SpeechServer, recording: Recording
) -> None:
    async with open_client(idle=SOON) as client:
        provider = OpenAISpeechProvider(client, model="whisper", base_url=server.base_url, timeout=2 * SOON)
        server.hold()
        assert (await failure(provider, recording)).message == "There was no transcript after 0.6 s."


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (refuses(200, "<!DOCTYPE html><p>Hello", headers={"content-type": "text/html"}), "bad_response"),
        (tells(b'{"text": "cut off'), "bad_response"),
        (tells({}), "bad_response"),
        (tells({"text": None}), "bad_response"),
        (tells({"error": {"message": "CUDA out of memory", "code": 500}}), "provider_unavailable"),
        (tells({"error": {"message": "Invalid or unsupported audio file.", "code": 400}}), "bad_audio"),
        (cuts(b'{"text": "a', headers_first=True), "provider_unavailable"),
        (cuts(headers_first=False), "provider_unavailable"),
        (
            sends(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-type: application/json\r\n\r\n{"),
            "provider_unavailable",
        ),
        (sends(b"220 mail.example.com ESMTP\r\n"), "bad_response"),
        (refuses(429, {"detail": "Too many requests"}), "rate_limited"),
        (refuses(504, {"detail": "Transcription timed out"}), "timeout"),
        (refuses(502, "<html>Bad Gateway</html>"), "provider_unavailable"),
        (refuses(307, "", headers={"location": "http://127.0.0.1:1/"}), "provider_error"),
        (refuses(422, {"detail": [{"loc": ["body", "language"], "msg": "no", "input": PROMPT}]}), "bad_input"),
    ],
)
async def test_a_misbehaving_server_ends_in_a_code(
    behaviour: Behaviour, code: str, server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    server.script(behaviour)
    failed = await failure(provider, recording, prompt=PROMPT)
    assert failed.code == code
    assert PROMPT not in failed.message
    assert (await hear(provider, recording)).segments


async def test_text_alone_is_a_transcript_as_long_as_the_recording(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    server.script(tells({"text": "Go forward."}), refuses(200, "Go.", headers={"content-type": "text/plain"}))
    for text in ("Go forward.", "Go."):
        [said] = (await hear(provider, recording)).segments
        assert (said.start, said.end, said.text) == (0.0, 3.0, text)


@pytest.mark.parametrize("format_", ["srt", "vtt"])
async def test_subtitles_are_a_transcript(
    format_: str, server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    server.script(refuses(200, SUBTITLES[format_](list(SAID)), headers={"content-type": "text/plain"}))
    transcript = await hear(provider, recording)
    assert [(said.start, said.end, said.text) for said in transcript.segments] == [tuple(each)[:3] for each in SAID]


async def test_the_servers_own_name_of_the_model_is_told(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    server.script(tells({"text": "Go.", "model": "whisper-tiny"}))
    assert (await hear(provider, recording)).model == "whisper-tiny"


async def test_a_model_that_tells_no_times_is_asked_for_text_alone_from_then_on(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    said = "response_format 'verbose_json' is not compatible with model 'whisper'. Use 'json' or 'text' instead."
    server.script(refuses(400, {"error": {"message": said, "param": "response_format"}}))
    for _ in range(2):
        assert (await hear(provider, recording)).segments
    assert [upload.fields["response_format"] for upload in server.heard] == ["json", "json"]
    assert "timestamp_granularities[]" not in server.heard[0].fields
    assert server.http.calls == 3


async def test_a_cancelled_call_ends_at_once_and_hangs_up(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    server.hold()
    call = asyncio.create_task(hear(provider, recording))
    await server.http.until(lambda _: server.computing == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.http.until(lambda http: http.hang_ups == 1)


async def test_a_server_that_is_not_there_is_unavailable(make: Make, recording: Recording) -> None:
    with SpeechServer() as server:
        provider = make(server)
    assert (await failure(provider, recording)).code is ErrorCode.PROVIDER_UNAVAILABLE


async def test_a_recording_that_is_gone_is_a_storage_error(
    server: SpeechServer, provider: OpenAISpeechProvider, recording: Recording
) -> None:
    failed = await failure(provider, replace(recording, path=recording.path.with_name("gone")))
    assert (failed.code, failed.message) == (
        ErrorCode.STORAGE_ERROR,
        "The recording cannot be read again: No such file or directory.",
    )


@asynccontextmanager
async def sink(at: Callable[[int], None] = lambda _: None) -> AsyncIterator[str]:
    """A server that keeps nothing of what it is sent; each time it has read something it tells how much in all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        left = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        size = left
        while left and (data := await reader.read(left)):
            left -= len(data)
            at(size - left)
        body = b'{"text": "Long."}'
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def test_a_large_recording_is_never_whole_in_memory(client: httpx.AsyncClient, tmp_path: Path) -> None:
    recording = a_recording(tmp_path, b"", seconds=9_000.0)
    with recording.path.open("r+b") as file:
        file.truncate(300 << 20)
    arrived: list[int] = [0]
    async with sink(lambda size: arrived.__setitem__(0, size)) as url:
        provider = OpenAISpeechProvider(client, model="m", base_url=url, timeout=2 * NO_WAIT, most_bytes=None)
        tracemalloc.start()
        try:
            assert (await hear(provider, recording)).segments
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert arrived[0] > 300 << 20
    assert peak < 8 << 20


async def test_a_server_that_refuses_half_a_recording_is_heard(client: httpx.AsyncClient, tmp_path: Path) -> None:
    recording = a_recording(tmp_path, b"", seconds=900.0)
    with recording.path.open("r+b") as file:
        file.truncate(64 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        with suppress(ConnectionError):
            while await reader.read(64 << 10):
                pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        provider = OpenAISpeechProvider(client, model="m", base_url=url, timeout=NO_WAIT, most_bytes=None)
        assert isinstance(await error(provider, recording), TooLong)


async def test_a_recording_that_becomes_shorter_is_a_storage_error(client: httpx.AsyncClient, tmp_path: Path) -> None:
    recording = a_recording(tmp_path, b"", seconds=900.0)
    with recording.path.open("r+b") as file:
        file.truncate(64 << 20)

    def shorten(_: int) -> None:
        with recording.path.open("r+b") as file:
            file.truncate(1 << 20)

    async with sink(shorten) as url:
        provider = OpenAISpeechProvider(client, model="m", base_url=url, timeout=NO_WAIT, most_bytes=None)
        assert (await failure(provider, recording)).code is ErrorCode.STORAGE_ERROR
