"""Calls of model servers are told of, and are what they would have been."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from adapters.telemetry.providers import ObservedChat, ObservedEmbeddings, ObservedSpeech
from domain.chat import ChatAnswer, ChatRequest, Message
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.errors import ErrorCode, RunFailed
from domain.job import LeasedJob
from domain.ports import Tell, nobody
from domain.results import Usage
from domain.speech import Recording, Sound, SpeechCall, Transcript
from domain.telemetry import Answer, Listener, Server
from tests.factories import PROFILE, leased_job

SERVER = Server(profile=PROFILE, provider="vllm", model="qwen", operation="chat")
REQUEST = ChatRequest(messages=[Message("user", "Hello")])
RECORDING = Recording(
    path=Path("call.wav"), bytes=1, sound=Sound(seconds=61.5, channels=1, format="wav", codec="pcm", sample_rate=8000)
)


class Heard(Listener):
    """Keeps what it is told of calls."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def calling(self, job: LeasedJob, server: Server) -> Heard:
        self.told.append(server)
        return self

    def first_token(self) -> None:
        self.told.append("first token")

    def answered(self, answer: Answer) -> None:
        self.told.append(answer)

    def failed(self, error: BaseException) -> None:
        self.told.append(error)


class Model:
    """Streams two pieces, or fails."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        if self.error:
            raise self.error
        for piece in ("", "Hel", "lo"):
            tell(piece)
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        return ChatAnswer(content="Hello", model="qwen-2", usage=usage, finish_reason="stop")

    async def embed(self, request: EmbeddingRequest, job: LeasedJob) -> EmbeddingAnswer:
        return EmbeddingAnswer(embeddings=((0.5,),), model="e5")

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        return Transcript(segments=(), model="whisper")


async def test_a_chat_tells_its_first_token_once_and_its_cost():
    heard, pieces = Heard(), list[str]()
    answer = await ObservedChat(Model(), SERVER, heard).chat(REQUEST, leased_job(), pieces.append)
    assert (answer.content, "".join(pieces)) == ("Hello", "Hello")
    assert heard.told == [
        SERVER,
        "first token",
        Answer(model="qwen-2", input_tokens=3, output_tokens=2, finish_reason="stop"),
    ]


@pytest.mark.parametrize("error", [RunFailed(ErrorCode.TIMEOUT, "Too long."), asyncio.CancelledError()])
async def test_a_call_that_fails_or_is_stopped_is_told_and_goes_on_to_do_so(error: BaseException):
    heard = Heard()
    with pytest.raises(type(error)):
        await ObservedChat(Model(error), SERVER, heard).chat(REQUEST, leased_job())
    assert heard.told == [SERVER, error]


async def test_of_a_transcription_the_recordings_length_is_told():
    heard = Heard()
    await ObservedSpeech(Model(), SERVER, heard).transcribe(RECORDING, SpeechCall(), leased_job())
    assert heard.told == [SERVER, Answer(model="whisper", audio_seconds=61.5)]


async def test_of_embeddings_what_the_server_counts_is_told():
    heard = Heard()
    await ObservedEmbeddings(Model(), SERVER, heard).embed(EmbeddingRequest(input=["a"]), leased_job())
    assert heard.told == [SERVER, Answer(model="e5")]
