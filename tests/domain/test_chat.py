from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from domain.chat import ChatRequest, Message, parse_chat_input
from domain.errors import BadInput, ErrorCode

HELLO = [{"role": "user", "content": "Hello"}]
OPTIONS = {
    "max_tokens": 100,
    "temperature": 0.7,
    "top_p": 0.9,
    "response_format": {"type": "json_object"},
    "stop": ["\n\n", "END"],
    "seed": 7,
}


def parse(given: Any) -> ChatRequest:
    return parse_chat_input(msgspec.json.encode(given))


def sent(given: Any) -> Any:
    """What a provider that speaks OpenAI's dialect would be sent."""
    return msgspec.json.decode(msgspec.json.encode(parse(given)))


def pointers(given: Any) -> list[str]:
    with pytest.raises(BadInput) as refusal:
        parse(given)
    assert refusal.value.code is ErrorCode.BAD_INPUT
    return [problem.pointer for problem in refusal.value.problems]


def test_messages_are_taken_as_they_are():
    turns = [{"role": role, "content": f"I am {role}"} for role in ("system", "developer", "user", "assistant", "tool")]
    assert sent({"messages": turns}) == {"messages": turns}


def test_the_parts_of_a_multimodal_message_are_passed_on():
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
    assert sent({"messages": [{"role": "user", "content": parts}]})["messages"][0]["content"] == parts


def test_system_and_user_stand_for_two_messages():
    assert parse({"system": "Be brief.", "user": "Hello"}).messages == [
        Message("system", "Be brief."),
        Message("user", "Hello"),
    ]


@pytest.mark.parametrize("system", [{}, {"system": None}, {"system": ""}])
def test_user_alone_stands_for_one_message(system: dict[str, Any]):
    assert parse({"user": "Hello", **system}).messages == [Message("user", "Hello")]


def test_messages_win_over_system_and_user():
    assert sent({"messages": HELLO, "system": "Be brief.", "user": "Bye"}) == {"messages": HELLO}


def test_messages_that_are_null_were_not_given():
    assert sent({"messages": None, "user": "Hello"}) == {"messages": HELLO}


def test_options_are_passed_on():
    assert sent({"messages": HELLO, **OPTIONS}) == {"messages": HELLO, **OPTIONS}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_is_null_was_not_given(option: str):
    assert sent({"user": "Hello", option: None}) == {"messages": HELLO}


def test_stop_may_be_one_text():
    assert sent({"user": "Hello", "stop": "END"})["stop"] == "END"


def test_other_fields_are_the_callers_and_are_not_read():
    foreign = {"model": 5, "stream": True, "tools": "none", "call": {"id": [1]}, "max_token": -1}
    assert sent({"user": "Hello", **foreign}) == {"messages": HELLO}


def test_an_input_may_come_as_it_lies_in_a_request():
    assert parse_chat_input(Raw(b'{"user": "Hello"}')).messages == [Message("user", "Hello")]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param({"system": "Be brief."}, "", id="system alone"),
        pytest.param({"user": ""}, "", id="an empty user"),
        pytest.param({"user": None}, "", id="a null user"),
        pytest.param([], "", id="a list"),
        pytest.param(None, "", id="null"),
        pytest.param("Hello", "", id="a text"),
        pytest.param({"user": 1}, "/user", id="user of a wrong type"),
        pytest.param({"user": "Hello", "system": []}, "/system", id="system of a wrong type"),
        pytest.param({"messages": []}, "/messages", id="no messages"),
        pytest.param({"messages": [], "user": "Hello"}, "/messages", id="no messages, and a user"),
        pytest.param({"messages": {}}, "/messages", id="messages of a wrong type"),
        pytest.param({"messages": ["Hello"]}, "/messages/0", id="a message of a wrong type"),
        pytest.param({"messages": [{"role": "user"}]}, "/messages/0/content", id="no content"),
        pytest.param({"messages": [{"content": "Hello"}]}, "/messages/0/role", id="no role"),
        pytest.param({"messages": [*HELLO, {"role": "robot", "content": "x"}]}, "/messages/1/role", id="wrong role"),
        pytest.param({"messages": [{"role": 1, "content": "x"}]}, "/messages/0/role", id="role of a wrong type"),
        pytest.param({"messages": [{"role": "user", "content": 1}]}, "/messages/0/content", id="content a number"),
        pytest.param({"messages": [{"role": "user", "content": None}]}, "/messages/0/content", id="content null"),
        pytest.param({"messages": [{"role": "user", "content": []}]}, "/messages/0/content", id="no parts"),
        pytest.param({"messages": [{"role": "user", "content": [{}, "x"]}]}, "/messages/0/content/1", id="a bad part"),
        pytest.param({"user": "x", "max_tokens": 0}, "/max_tokens", id="no tokens"),
        pytest.param({"user": "x", "max_tokens": -1}, "/max_tokens", id="negative tokens"),
        pytest.param({"user": "x", "max_tokens": 1.5}, "/max_tokens", id="half a token"),
        pytest.param({"user": "x", "max_tokens": "many"}, "/max_tokens", id="tokens of a wrong type"),
        pytest.param({"user": "x", "max_tokens": True}, "/max_tokens", id="tokens a truth value"),
        pytest.param({"user": "x", "temperature": -0.1}, "/temperature", id="too cold"),
        pytest.param({"user": "x", "temperature": 2.1}, "/temperature", id="too hot"),
        pytest.param({"user": "x", "temperature": "hot"}, "/temperature", id="temperature of a wrong type"),
        pytest.param({"user": "x", "top_p": 1.1}, "/top_p", id="more than all"),
        pytest.param({"user": "x", "top_p": []}, "/top_p", id="top_p of a wrong type"),
        pytest.param({"user": "x", "response_format": "json"}, "/response_format", id="format of a wrong type"),
        pytest.param({"user": "x", "stop": 1}, "/stop", id="stop of a wrong type"),
        pytest.param({"user": "x", "stop": ["END", 1]}, "/stop/1", id="a stop of a wrong type"),
        pytest.param({"user": "x", "seed": "7"}, "/seed", id="seed of a wrong type"),
    ],
)
def test_a_bad_input_is_refused_with_the_place_of_what_is_wrong(given: Any, pointer: str):
    assert pointers(given) == [pointer]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"user": "Hel', id="cut off"),
        pytest.param(b'{"user": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"user": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(
            b'{"user": "x", "response_format": ' + b'{"a":' * 9_999 + b"1" + b"}" * 9_999 + b"}", id="too deep"
        ),
    ],
)
def test_what_cannot_be_read_is_bad_input_too(given: bytes):
    with pytest.raises(BadInput):
        parse_chat_input(given)


@pytest.mark.parametrize(
    ("response_format", "wanted"),
    [
        (None, False),
        ({"type": "text"}, False),
        ({"type": "json_object"}, True),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, True),
    ],
)
def test_whether_the_answer_must_be_json(response_format: Any, wanted: bool):
    assert parse({"user": "Hello", "response_format": response_format}).wants_json is wanted


@pytest.mark.parametrize(
    ("response_format", "pointer"),
    [
        ({}, "/type"),
        ({"type": "yaml"}, "/type"),
        ({"type": ["json_object"]}, "/type"),
        ({"type": "json_schema"}, "/json_schema"),
        ({"type": "json_schema", "json_schema": None}, "/json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "/json_schema/schema"),
        ({"type": "json_schema", "json_schema": {"schema": "string"}}, "/json_schema/schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "name": 7}}, "/json_schema/name"),
    ],
)
def test_what_is_wrong_with_the_wanted_format_is_pointed_at(response_format: Any, pointer: str):
    assert pointers({"user": "Hello", "response_format": response_format}) == [f"/response_format{pointer}"]


def test_the_schema_of_the_answer_is_that_of_the_wanted_format():
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "null"}}}
    assert parse({"user": "Hello", "response_format": wanted}).schema == {"type": "null"}


@pytest.mark.parametrize("wanted", [None, {"type": "text"}, {"type": "json_object", "json_schema": {"schema": {}}}])
def test_any_other_format_has_no_schema(wanted: Any):
    assert parse({"user": "Hello", "response_format": wanted}).schema is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["messages", "system", "user", *OPTIONS]), values) | values)
def test_any_json_is_a_request_or_bad_input(given: Any):
    with suppress(BadInput):
        assert parse(given).messages
