from __future__ import annotations

import pytest

from actors.classify import failure_of
from domain.errors import (
    BadInput,
    ErrorCode,
    Failure,
    LeaseLost,
    Problem,
    RunFailed,
    StartupError,
    StorageUnavailable,
)

SECRET = "the caller's text"  # not one


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (BadInput([Problem("/user", "is missing")]), ErrorCode.BAD_INPUT),
        (StorageUnavailable(), ErrorCode.STORAGE_ERROR),
        (TimeoutError("after 60 s"), ErrorCode.TIMEOUT),
        (TimeoutError(), ErrorCode.TIMEOUT),
        (ConnectionRefusedError("refused"), ErrorCode.DEPENDENCY_ERROR),
        (ConnectionResetError(), ErrorCode.DEPENDENCY_ERROR),
    ],
)
def test_what_was_foreseen_has_its_code_and_says_why(exception: Exception, code: ErrorCode) -> None:
    failure = failure_of(exception)

    assert failure.code is code
    assert failure.message


@pytest.mark.parametrize(
    "exception",
    [
        RuntimeError(SECRET),
        ValueError(SECRET),
        KeyError(SECRET),
        OSError(SECRET),
        LeaseLost(SECRET),
        StartupError(SECRET),
        SystemExit(SECRET),
        KeyboardInterrupt(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET)]),
    ],
)
def test_what_nobody_foresaw_is_a_fault_of_ours_and_its_text_is_not_stored(exception: BaseException) -> None:
    failure = failure_of(exception)

    assert failure.code is ErrorCode.INTERNAL_ERROR
    assert type(exception).__name__ in failure.message
    assert SECRET not in failure.message


@pytest.mark.parametrize("code", ErrorCode)
def test_a_run_that_names_its_failure_gets_it_unchanged(code: ErrorCode) -> None:
    failure = Failure(code, "why")

    assert failure_of(RunFailed.of(failure)) == failure


def test_an_input_that_is_of_the_wrong_kind_keeps_its_code() -> None:
    assert failure_of(BadInput([], ErrorCode.UNSUPPORTED_TASK)).code is ErrorCode.UNSUPPORTED_TASK


def test_an_exception_that_cannot_even_be_told_is_a_failure_like_any_other() -> None:
    class Mute(ConnectionError):
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

    assert failure_of(Mute()).code is ErrorCode.INTERNAL_ERROR
