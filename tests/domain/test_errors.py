from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import msgspec
import pytest
from msgspec import Struct, ValidationError

from domain.errors import (
    LONGEST_FAILURE,
    BadInput,
    ErrorCode,
    Failure,
    InvalidTransition,
    JobNotFound,
    LeaseLost,
    Problem,
    RunFailed,
    ServiceError,
    StorageUnavailable,
)


class Item(Struct, forbid_unknown_fields=True):
    kind: Literal["a", "b"]
    tags: tuple[str, ...] = ()


class Document(Struct, forbid_unknown_fields=True):
    items: list[Item] = []
    labels: dict[str, str] = {}
    by_name: dict[str, Item] = {}
    counts: dict[int, int] = {}


DEEP = Problem("/items/0/tags/1", "Expected `str`, got `int`")


def problem_with(document: Any) -> Problem:
    with pytest.raises(ValidationError) as refusal:
        msgspec.json.decode(msgspec.json.encode(document), type=Document)
    return Problem.of(refusal.value)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        pytest.param([], Problem("", "Expected `object`, got `array`"), id="the root"),
        pytest.param({"items": 1}, Problem("/items", "Expected `array`, got `int`"), id="a field"),
        pytest.param({"items": [1]}, Problem("/items/0", "Expected `object`, got `int`"), id="an item"),
        pytest.param({"items": [{}]}, Problem("/items/0/kind", "Object missing required field `kind`"), id="missing"),
        pytest.param({"items": [{"kind": "a", "tags": ["x", 1]}]}, DEEP, id="deep"),
        pytest.param({"item": 1}, Problem("/item", "Object contains unknown field `item`"), id="unknown"),
        pytest.param({"labels": {"a": 1}}, Problem("/labels", "Expected `str`, got `int`"), id="a value of a mapping"),
        pytest.param({"counts": {"a": 1}}, Problem("/counts", "Expected `int`, got `str`"), id="a key of a mapping"),
        pytest.param({"by_name": {"x": 1}}, Problem("/by_name", "Expected `object`, got `int`"), id="in a mapping"),
        pytest.param({"by_name": {"x": {"kind": 1}}}, Problem("/by_name", "Expected `str`, got `int`"), id="below it"),
    ],
)  # fmt: skip
def test_a_problem_tells_where_it_is(document: Any, problem: Problem):
    assert problem_with(document) == problem


def test_text_of_a_caller_cannot_pass_for_the_place_and_is_not_told_again():
    problem = problem_with({"items": [{"kind": "c - at `$.labels`"}]})
    assert problem == Problem("/items/0/kind", "Invalid enum value")


def test_a_problem_can_be_seen_from_further_out():
    assert Problem("/messages/0", "wrong").below("/input") == Problem("/input/messages/0", "wrong")


def test_bad_input_says_all_that_is_wrong():
    error = BadInput([Problem("/a", "too long"), Problem("", "empty")], ErrorCode.UNSUPPORTED_TASK)
    assert str(error) == "/a: too long; /: empty"
    assert error.code is ErrorCode.UNSUPPORTED_TASK


@pytest.mark.parametrize("error", [JobNotFound, InvalidTransition, LeaseLost, StorageUnavailable])
def test_an_error_without_a_message_says_what_its_class_says(error: type[ServiceError]):
    assert str(error()) == error.__doc__


def test_a_failed_run_carries_what_is_to_be_stored():
    error = RunFailed(ErrorCode.RATE_LIMITED, "Slow down.", retry_after=timedelta(seconds=5))
    assert error.failure == Failure(ErrorCode.RATE_LIMITED, "Slow down.", timedelta(seconds=5))
    assert str(error) == "rate_limited: Slow down."


def test_a_failure_says_no_more_than_anybody_reads():
    assert Failure(ErrorCode.UNKNOWN, "x" * LONGEST_FAILURE).message == "x" * LONGEST_FAILURE
    cut = Failure(ErrorCode.UNKNOWN, "x" * 1_000_000).message
    assert (len(cut), cut[-2:]) == (LONGEST_FAILURE, "x…")


def test_a_message_that_no_text_of_postgresql_can_hold_is_mended():
    assert Failure(ErrorCode.UNKNOWN, "a\0b\ud800c").message == "a\ufffdb\ufffdc"


def test_a_code_that_there_is_not_is_found_where_it_is_raised():
    assert RunFailed("timeout").failure.code is ErrorCode.TIMEOUT  # type: ignore[arg-type]  # as a plug-in may
    nonsense: Any = "nonsense"
    with pytest.raises(ValueError):
        RunFailed(nonsense)
    with pytest.raises(ValueError):
        BadInput([], nonsense)


def test_nobody_waits_longer_than_a_day_because_a_run_says_so():
    assert RunFailed(ErrorCode.TIMEOUT, retry_after=timedelta.max).failure.retry_after == timedelta(days=1)
