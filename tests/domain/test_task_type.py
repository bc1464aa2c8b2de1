"""A task type of an installation's own: what it may be, what it reads, and what it may return."""

from __future__ import annotations

from typing import Any, Literal
from uuid import uuid4

import msgspec
import pytest
from msgspec import Struct

from domain.errors import BadInput, ErrorCode, RunFailed
from domain.results import ChatResult
from domain.routing import ModelKind, OwnQueue
from domain.task_type import Job, TaskType, schema_of

OWN = OwnQueue("pages", "cpu.pages")


class Pages(Struct):
    size: Literal["a4", "letter"] = "a4"


class Page(Struct):
    text: str


class Book(Struct):
    title: str
    pages: list[Page] = []


class Checked(Struct):
    """Accepts nothing, in words of its own, or breaks down over it."""

    text: str

    def __post_init__(self) -> None:
        raise ValueError("is too short") if len(self.text) < 5 else LookupError(self.text)


async def nothing(job: Job[Any]) -> object:
    return {}


def task_type(run: Any = nothing, **changes: Any) -> TaskType[Any]:
    return TaskType(**{"name": "pages", "run": run, "input": Pages, "needs": OWN, **changes})


def job(content: str = "") -> Job[Any]:
    class Model:
        async def chat(self, *_: Any, **__: Any) -> ChatResult:
            return ChatResult(content=content, model="qwen", duration_ms=0)

    return Job(uuid4(), "beeline", "pages", "pages", 1, Pages(), Model())  # type: ignore[arg-type]  # all it needs


@pytest.mark.parametrize(("text", "said"), [("none", "is too short"), ("a secret", "cannot be checked: LookupError")])
def test_a_check_of_its_own_refuses_an_input_and_never_quotes_it(text: str, said: str):
    with pytest.raises(BadInput) as refused:
        task_type(input=Checked).read(msgspec.json.encode({"text": text}))
    assert [(problem.pointer, problem.detail) for problem in refused.value.problems] == [("", said)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "two words"}, "the name of a task type"),
        ({"name": ""}, "the name of a task type"),
        ({"name": "llm_chat"}, "llm_chat is a built-in task type"),
        ({"needs": OwnQueue("pages", "cpu/pages")}, "the queue of pages"),
        ({"needs": OwnQueue("two words", "cpu.pages")}, "the profile of pages"),
        ({"run": lambda job: {}}, "no 'async def' function"),
    ],
)
def test_what_cannot_be_one_is_refused_at_once(changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        task_type(**changes)


def test_what_is_wrong_with_an_input_is_pointed_at():
    assert task_type().read(b'{"size": "letter", "theirs": 1}') == Pages("letter")
    with pytest.raises(BadInput) as refused:
        task_type().read(b'{"size": "secret"}')
    [problem] = refused.value.problems
    assert problem.pointer == "/size"
    assert "secret" not in problem.detail


async def returned(what: Any) -> bytes:
    async def run(job: Job[Any]) -> object:
        return what

    return await task_type(run).result(job())


async def test_the_result_is_what_was_returned_if_it_is_an_object():
    assert await returned({"pages": 3}) == b'{"pages":3}'
    assert await returned(Page("Hello")) == b'{"text":"Hello"}'


@pytest.mark.parametrize("what", [None, [1], "text", 3])
async def test_what_is_no_object_is_no_result(what: Any):
    with pytest.raises(RunFailed) as failed:
        await returned(what)
    assert failed.value.failure.code is ErrorCode.INTERNAL_ERROR


async def test_a_result_of_one_of_our_schemas_is_held_to_it():
    with pytest.raises(RunFailed, match="/result/content"):
        await returned({"schema_version": "ai.chat_result.v1", "model": "qwen", "duration_ms": 1})


def test_the_schema_of_a_struct_has_no_reference_at_its_root():
    assert schema_of(Page) == {
        "title": "Page",
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    }
    book = schema_of(Book)
    assert (book["title"], book["properties"]["pages"]["items"]) == ("Book", {"$ref": "#/$defs/Page"})
    assert book["$defs"]["Page"] == schema_of(Page)


async def test_what_is_extracted_is_the_answer_as_the_struct():
    assert await job('{"title": "Faust", "pages": [{"text": "Habe nun"}]}').extract(Book) == Book(
        "Faust", [Page("Habe nun")]
    )


@pytest.mark.parametrize("content", ["Faust", '{"title": 7}', '{"title": "\\ud800"}'])
async def test_an_answer_that_does_not_fit_is_a_bad_response_that_tells_nothing_of_it(content: str):
    with pytest.raises(RunFailed) as failed:
        await job(content).extract(Book)
    assert failed.value.failure.code is ErrorCode.BAD_RESPONSE
    assert "Faust" not in str(failed.value)


def test_a_task_type_needs_a_kind_of_model_or_a_queue():
    assert task_type(needs=ModelKind.CHAT).needs is ModelKind.CHAT


def test_an_input_that_no_decoder_knows_is_refused_at_once():
    with pytest.raises(TypeError):
        task_type(input=msgspec.json.Decoder | int | dict[Pages, str])
