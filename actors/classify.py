"""What an exception that ended a run means to its job."""

from __future__ import annotations

from domain.errors import BadInput, ErrorCode, Failure, RunFailed, StorageUnavailable

FAILURES: dict[type[Exception], ErrorCode] = {
    BadInput: ErrorCode.BAD_INPUT,
    StorageUnavailable: ErrorCode.STORAGE_ERROR,
    TimeoutError: ErrorCode.TIMEOUT,
    ConnectionError: ErrorCode.DEPENDENCY_ERROR,
}
"""First match wins; what is not here is a fault of ours."""


def failure_of(exception: BaseException) -> Failure:
    """The failure to be stored. One that nobody foresaw is named by its type only: its text may hold payload."""
    if isinstance(exception, RunFailed):
        return exception.failure
    for kind, code in FAILURES.items():
        if isinstance(exception, kind):
            return Failure(code, str(exception) or kind.__name__)
    return Failure(ErrorCode.INTERNAL_ERROR, f"An unexpected {type(exception).__name__} ended the run.")
