from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from actors.chain import Backend, Chain
from actors.chat import Chat
from actors.telling import Tellings
from adapters.memory.texts import NoTexts
from domain.chat import ChatAnswer, ChatRequest
from domain.errors import BadInput, ErrorCode, RunFailed
from domain.job import LeasedJob
from domain.ports import ChatProvider, Tell, nobody
from domain.results import Usage
from tests.factories import leased_job
from tests.fakes import FakeSchemas


class FakeProvider:
    def __init__(self, content: str = "Hello.") -> None:
        self.content = content
        self.asked: list[ChatRequest] = []

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        self.asked.append(request)
        return ChatAnswer(content=self.content, model="served", usage=Usage(prompt_tokens=3))


def job(data: bytes = b'{"user": "Hi"}') -> LeasedJob:
    return leased_job(model_profile="qwen2.5-14b", input=Raw(data))


def chat(provider: FakeProvider, max_result_bytes: int = 1_000) -> Chat:
    served: dict[str, Backend[ChatProvider]] = {"qwen2.5-14b": Backend("qwen2.5-14b", provider, "vllm", "qwen")}
    return Chat(Chain(lambda: served), max_result_bytes, FakeSchemas(), Tellings(NoTexts()))


async def test_the_result_is_the_answer_in_its_schema() -> None:
    result = msgspec.json.decode((await chat(FakeProvider())(job())).result)

    assert result.pop("duration_ms") >= 0
    assert result == {
        "schema_version": "ai.chat_result.v1",
        "content": "Hello.",
        "provider": "vllm",
        "model": "served",
        "usage": {"prompt_tokens": 3},
    }


async def test_a_profile_that_is_not_served_here_is_worth_another_try() -> None:
    with pytest.raises(RunFailed) as caught:
        await Chat(Chain(dict), 1_000, FakeSchemas(), Tellings(NoTexts()))(job())

    assert caught.value.failure.code is ErrorCode.MODEL_UNAVAILABLE


async def test_a_bad_input_does_not_reach_the_provider() -> None:
    provider = FakeProvider()
    with pytest.raises(BadInput):
        await chat(provider)(job(b'{"system": "Be kind."}'))

    assert provider.asked == []


async def test_a_result_may_have_the_limit_and_not_a_byte_more() -> None:
    size = len((await chat(FakeProvider("é" * 500), 10_000)(job())).result)
    assert size > 1_000
    assert len((await chat(FakeProvider("é" * 500), size + 1)(job())).result) <= size + 1

    with pytest.raises(RunFailed) as caught:
        await chat(FakeProvider("é" * 500), size - 10)(job())

    assert caught.value.failure.code is ErrorCode.BAD_RESPONSE
    assert "é" not in caught.value.failure.message


def wants(schema: object) -> LeasedJob:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return job(msgspec.json.encode({"user": "Hi", "response_format": wanted}))


async def test_an_answer_that_fits_its_schema_is_a_result() -> None:
    result = msgspec.json.decode((await chat(FakeProvider('{"a": 1}'))(wants({"a": 1}))).result)
    assert result["content"] == '{"a": 1}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"secret": 1}', "The answer does not fit the JSON schema: at /items/3: required"),
        ("secret", "The answer is not the JSON that was asked for."),
        ("[" * 100_000, "The answer is not the JSON that was asked for."),
    ],
)
async def test_one_that_does_not_is_a_bad_response_that_quotes_nothing(content: str, message: str) -> None:
    with pytest.raises(RunFailed) as caught:
        await chat(FakeProvider(content))(wants({"a": 1}))

    assert caught.value.failure.code is ErrorCode.BAD_RESPONSE
    assert caught.value.failure.message == message


async def test_what_is_no_schema_after_all_is_bad_input() -> None:
    with pytest.raises(BadInput) as caught:
        await chat(FakeProvider("{}"))(wants(False))

    assert [problem.pointer for problem in caught.value.problems] == ["/response_format/json_schema/schema/type"]
