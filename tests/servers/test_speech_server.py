"""What the speech server of the tests itself is like."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.adapters.providers.recordings import wav
from tests.servers.speech_server import Heard, SpeechServer, faster_whisper, openai_asr, speaches, vllm

FILE = {"file": ("x.wav", wav())}


async def send(client: httpx.AsyncClient, server: SpeechServer, **fields: str) -> httpx.Response:
    return await client.post(f"{server.base_url}/audio/transcriptions", files=FILE, data=fields)


async def test_it_knows_a_recording_by_its_content_and_another_by_its_length() -> None:
    with SpeechServer(vllm()) as server:
        async with httpx.AsyncClient() as client:
            assert (await send(client, server)).json()["text"] == "This lasts 1.0 seconds."
            server.knows(wav(1.1, pitch=300), Heard(0, 1.1, "By length."))
            assert (await send(client, server)).json()["text"] == "By length."
            server.knows(wav(), Heard(0, 1, "By content."))
            assert (await send(client, server)).json()["text"] == "By content."


@pytest.mark.parametrize(("kind", "fails"), [(faster_whisper, True), (speaches, False)])
async def test_a_decode_may_hold_the_health_address_up(kind: object, fails: bool) -> None:
    with SpeechServer(kind()) as server:  # type: ignore[operator]
        server.hold()
        async with httpx.AsyncClient() as client:
            decode = asyncio.create_task(send(client, server))
            await server.http.until(lambda _: server.computing == 1)
            look = asyncio.create_task(client.get(f"{server.origin}/health"))
            await server.http.until(lambda http: http.calls == 2)
            if not fails:
                assert (await look).status_code == 200
            assert look.done() is not fails
            server.let_go()
            assert (await look).status_code == (await decode).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "text"), [("text", "This lasts"), ("srt", "1\n00:00:00,000 -->"), ("vtt", "WEBVTT")]
)
async def test_it_writes_subtitles(wanted: str, text: str) -> None:
    with SpeechServer(openai_asr()) as server:
        async with httpx.AsyncClient() as client:
            assert (await send(client, server, response_format=wanted)).text.startswith(text)


async def test_a_form_without_a_file_is_refused() -> None:
    with SpeechServer(vllm()) as server:
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{server.base_url}/audio/transcriptions", data={"file": "text"})
            assert answer.status_code == 422
            assert (await client.get(f"{server.origin}/v1/models")).status_code == 404
