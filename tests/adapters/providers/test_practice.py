from __future__ import annotations

import json
import math
from typing import Any

import pytest

from adapters.providers.practice import PracticeEmbeddings, PracticeProvider
from domain.chat import ChatAnswer, Message
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.errors import ErrorCode, RunFailed
from domain.results import Usage
from tests.adapters.providers.factories import a_job, a_request


async def ask(input_: object = None, *messages: Message, **options: Any) -> ChatAnswer:
    return await PracticeProvider().chat(a_request(*messages, **options), a_job(input_))


async def run(practice: object, **counts: int) -> ErrorCode | None:
    try:
        await PracticeProvider().chat(a_request(), a_job({"practice": practice}, **counts))
    except RunFailed as error:
        return error.failure.code
    return None


async def test_it_echoes_what_the_user_said_last() -> None:
    said = [Message("user", "One?"), Message("assistant", "Yes."), Message("user", "Two?"), Message("assistant", "{")]
    assert (await ask(None, *said)).content == "Practice answer to: Two?"


async def test_it_reads_the_text_of_a_message_in_parts() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "Who is"}, {"type": "image_url"}, {"text": "this?"}]
    assert (await ask(None, Message("user", parts))).content == "Practice answer to: Who is this?"


async def test_its_model_says_what_it_is() -> None:
    assert (await ask()).model == "practice"


async def test_its_usage_counts_words() -> None:
    usage = (await ask(None, Message("system", "Be brief."), Message("user", "Why is that?"))).usage
    assert usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 6, 11)


async def test_asked_for_an_object_it_gives_one() -> None:
    answer = await ask(None, Message("user", "Hi"), response_format={"type": "json_object"})
    assert json.loads(answer.content) == {"answer": "Practice answer to: Hi"}


async def test_given_a_schema_it_fits_it() -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["calm", "angry"]}}, "required": ["mood"]}
    answer = await ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert json.loads(answer.content) == {"mood": "calm"}


@pytest.mark.parametrize(
    "schema", [False, {"$ref": "https://example.com/schema.json"}, {"type": "object", "properties": 3}]
)
async def test_a_schema_that_nothing_fits_is_bad_input(schema: object) -> None:
    with pytest.raises(RunFailed) as failed:
        await ask(response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert failed.value.failure.code is ErrorCode.BAD_INPUT


@pytest.mark.parametrize("code", ErrorCode)
async def test_it_fails_every_run_with_any_code_it_is_asked_for(code: ErrorCode) -> None:
    assert await run({"error_code": code}) is code
    assert await run({"error_code": code}, attempts=2, give_backs=9) is code


async def test_it_fails_as_many_runs_as_it_is_asked_to() -> None:
    practice = {"error_code": "timeout", "times": 2}
    assert await run(practice, attempts=0) is ErrorCode.TIMEOUT
    assert await run(practice, attempts=1) is ErrorCode.TIMEOUT
    assert await run(practice, attempts=2) is None


async def test_runs_that_were_given_back_count() -> None:
    assert await run({"error_code": "rate_limited", "times": 2}, give_backs=2) is None


async def test_a_delay_comes_before_an_answer_and_before_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("adapters.providers.practice.asyncio.sleep", sleep)
    assert await run({"delay_ms": 1500}) is None
    assert await run({"delay_ms": 20, "error_code": "unknown"}) is ErrorCode.UNKNOWN
    assert waits == [1.5, 0.02]


@pytest.mark.parametrize(
    "practice",
    [
        "fail",
        {"error_code": "bad luck"},
        {"times": -1},
        {"times": "two"},
        {"delay_ms": -1},
        {"delay_ms": 1e12},
        {"code": "x"},
    ],
)
async def test_a_practice_that_makes_no_sense_is_bad_input(practice: object) -> None:
    assert await run(practice) is ErrorCode.BAD_INPUT


async def test_what_is_wrong_with_a_practice_is_said() -> None:
    with pytest.raises(RunFailed) as failed:
        await ask({"practice": {"times": "two"}})
    assert failed.value.failure.message == "/practice/times: Expected `int | null`, got `str`"


async def tell(practice: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[float]]:
    """What is told of an answer to "Who? When?", and the waits in between."""
    told: list[str] = []
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("adapters.providers.practice.asyncio.sleep", sleep)
    request = a_request(Message("user", "Who? When?"))
    await PracticeProvider().chat(request, a_job({"practice": practice}), told.append)
    return told, waits


async def test_an_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await tell({}, monkeypatch) == (["Practice answer to: Who? When?"], [])


async def test_asked_to_it_speaks_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    told, waits = await tell({"tokens_per_second": 50}, monkeypatch)
    assert told == ["Practice ", "answer ", "to: ", "Who? ", "When?"]
    assert waits == [0.02] * 5


async def test_it_always_ends_well() -> None:
    assert (await ask()).finish_reason == "stop"


@pytest.mark.parametrize("rate", [0, -1, "fast", 1e9])
async def test_a_rate_that_makes_no_sense_is_bad_input(rate: object) -> None:
    assert await run({"tokens_per_second": rate}) is ErrorCode.BAD_INPUT


async def embed(*texts: str, practice: object = None, **options: Any) -> EmbeddingAnswer:
    request = EmbeddingRequest(input=list(texts), **options)
    return await PracticeEmbeddings().embed(request, a_job({"practice": practice}))


async def test_its_vectors_are_of_length_one_and_always_the_same() -> None:
    first, second = (await embed("a", "b")).embeddings
    assert (await embed("b", "a")).embeddings == (second, first)
    assert first != second
    assert [len(first), len(second)] == [64, 64]
    assert math.hypot(*first) == pytest.approx(1)


@pytest.mark.parametrize("dimensions", [1, 3, 4096])
async def test_its_vectors_have_the_dimensions_that_are_asked_for(dimensions: int) -> None:
    answer = await embed("a", dimensions=dimensions)
    assert len(answer.embeddings[0]) == dimensions
    assert math.hypot(*answer.embeddings[0]) == pytest.approx(1)


async def test_its_embeddings_say_what_they_are() -> None:
    answer = await embed("one two", "three")
    assert (answer.model, answer.usage) == ("practice", Usage(prompt_tokens=3, total_tokens=3))


async def test_embeddings_too_fail_on_request() -> None:
    with pytest.raises(RunFailed) as failed:
        await embed("a", practice={"error_code": "timeout"})
    assert failed.value.failure.code is ErrorCode.TIMEOUT
