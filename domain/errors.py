"""Every error of the service, and the codes that a failed job carries.

::

    ServiceError
    ├── BadInput              the request is well formed but wrong somewhere (422)
    ├── TooLarge              the input, the result or the batch is over its limit (413)
    ├── KeyReused             an idempotency key comes with another request (422)
    ├── NoSuchUpload          a job's input names an upload that is not there, or another owner's (422)
    ├── Forbidden             the caller's token does not allow it (403)
    ├── RateLimited           the caller's token is over its rate (429)
    ├── TooManyPending        the owner has as many waiting jobs as it may (429)
    ├── JobNotFound           no such job, or another owner's (404)
    ├── UploadNotFound        no such upload, or another owner's (404)
    ├── UploadInUse           a job that is not final needs the upload (409)
    ├── QueueNotFound         no such queue (404)
    ├── InvalidTransition     the job's state does not allow it (409)
    ├── ChatFailed            a chat has no answer (by its code: 422, 429, 502, 503 or 504)
    │   └── ChatRefused       nothing can answer it here now (503)
    ├── LeaseLost             the run no longer holds its job (409)
    ├── StorageUnavailable    PostgreSQL cannot be reached (503)
    ├── StartupError          the process cannot start: one line for its operator
    └── RunFailed             a run did not succeed: carries the error code that the retry table reads
        └── TooLong           the server takes no recording of this size or length
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from msgspec import Struct, ValidationError
from msgspec.structs import force_setattr


class ErrorCode(StrEnum):
    """Why a run failed. The set is part of the public contract: consumers branch on it."""

    PROVIDER_UNAVAILABLE = "provider_unavailable"
    MODEL_UNAVAILABLE = "model_unavailable"
    PROVIDER_ERROR = "provider_error"
    DEPENDENCY_ERROR = "dependency_error"
    TIMEOUT = "timeout"
    STORAGE_ERROR = "storage_error"
    STALE_WORKER = "stale_worker"
    BAD_RESPONSE = "bad_response"
    TRANSCRIPT_HALLUCINATION = "transcript_hallucination"
    TRANSCRIPT_INCOMPLETE = "transcript_incomplete"
    INTERNAL_ERROR = "internal_error"
    UNKNOWN = "unknown"
    BAD_AUDIO = "bad_audio"
    BAD_INPUT = "bad_input"
    CONTEXT_LENGTH = "context_length"
    UNSUPPORTED_TASK = "unsupported_task"
    CANCELLED = "cancelled"
    RATE_LIMITED = "rate_limited"
    AUTH_ERROR = "auth_error"
    QUOTA_EXHAUSTED = "quota_exhausted"


LONGEST_FAILURE = 2_000
LONGEST_RETRY_AFTER = timedelta(days=1)

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What PostgreSQL takes in no text."""


class Failure(Struct, frozen=True):
    """What went wrong in a run, ready to be stored. The message is for people and never holds a payload or a secret."""

    code: ErrorCode
    message: str = ""
    """Cut where it is longer than anybody reads, and without what cannot be stored."""
    retry_after: timedelta | None = None
    """What the provider asked for; it can lengthen a delay, never shorten it."""

    def __post_init__(self) -> None:
        if _UNSTORABLE.search(self.message):
            force_setattr(self, "message", _UNSTORABLE.sub("\ufffd", self.message))
        if len(self.message) > LONGEST_FAILURE:
            force_setattr(self, "message", f"{self.message[: LONGEST_FAILURE - 1]}…")


class Problem(Struct, frozen=True):
    """One thing that is wrong with a request: where (a JSON pointer, RFC 6901) and what to do about it."""

    pointer: str
    detail: str

    @classmethod
    def of(cls, error: ValidationError) -> Problem:
        """What msgspec found: its ``Expected `int` - at `$.messages[0].role` `` as a pointer and a detail.

        An unknown or missing field is pointed at itself, not at the object that it is (not) in. A value is not told
        again: it may be part of a payload, and the problem may end up in a job's error message.
        """
        text = str(error)
        # Anchored at the end: the caller's own text stands before it, and may look like a path.
        path = re.search(r" - at (?:`key` in )?`\$(\S*)`$", text)
        detail = _without_value(text[: path.start()] if path else text)
        named = re.search(r"(?:unknown|missing required) field `(.*)`$", detail, re.DOTALL)
        field = f"/{escaped(named[1])}" if named else ""
        if path is None:
            return cls(field, detail)
        # msgspec does not name the keys of a mapping: the pointer ends at the mapping.
        steps = re.findall(r"[^.\[\]]+", path[1].partition("[...]")[0])
        return cls("".join(f"/{step}" for step in steps) + field, detail)

    def below(self, pointer: str) -> Problem:
        """The same problem, seen from a document that holds this one at `pointer`."""
        return Problem(pointer + self.pointer, self.detail)


def _without_value(detail: str) -> str:
    return re.sub(r"^Invalid (enum )?value .*", r"Invalid \1value", detail, flags=re.DOTALL)


def escaped(step: str) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return step.replace("~", "~0").replace("/", "~1")


class ServiceError(Exception):
    """Something went wrong in AI Service."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__class__.__doc__)


class BadInput(ServiceError):
    """The request is not valid."""

    def __init__(self, problems: Sequence[Problem], code: ErrorCode = ErrorCode.BAD_INPUT) -> None:
        self.problems = tuple(problems)
        self.code = ErrorCode(code)
        super().__init__("; ".join(f"{problem.pointer or '/'}: {problem.detail}" for problem in self.problems))


class TooLarge(ServiceError):
    """This is larger than the service accepts."""


class Forbidden(ServiceError):
    """The token does not allow this."""


class RateLimited(ServiceError):
    """Too many requests with this token."""

    def __init__(self, retry_after: timedelta) -> None:
        self.retry_after = retry_after
        super().__init__(f"Too many requests with this token: try again in {retry_after.total_seconds():.1f} s.")


class TooManyPending(ServiceError):
    """The owner has as many waiting jobs as it may have."""

    def __init__(self, owner: str, limit: int, sent: int = 1) -> None:
        """
        Args:
            sent: new jobs of the owner that came together.
        """
        way_out = "try again when some have started" if sent <= limit else f"these {sent} can only come in parts"
        super().__init__(f"The owner '{owner}' may have {limit} waiting jobs (max_pending): {way_out}.")


class QueueNotFound(ServiceError):
    """There is no such queue."""


class KeyReused(ServiceError):
    """This idempotency key belongs to a job that was submitted otherwise."""

    def __init__(self, job_ids: Collection[UUID]) -> None:
        self.job_ids = frozenset(job_ids)
        """Those of the new jobs whose key it is."""
        super().__init__()


class NoSuchUpload(ServiceError):
    """The input names an upload that is not there."""

    def __init__(self, job_ids: Collection[UUID]) -> None:
        self.job_ids = frozenset(job_ids)
        """Those of the new jobs whose input it is."""
        super().__init__()


class UploadNotFound(ServiceError):
    """There is no such upload."""


class UploadInUse(ServiceError):
    """A job that is pending or running needs this upload."""


class JobNotFound(ServiceError):
    """There is no such job."""


class InvalidTransition(ServiceError):
    """The job's state does not allow this."""


class ChatFailed(ServiceError):
    """The chat has no answer."""

    def __init__(self, failure: Failure, job_id: UUID | None = None) -> None:
        """
        Args:
            job_id: None where no job was stored.
        """
        self.failure = failure
        self.job_id = job_id
        super().__init__(failure.message)


class ChatRefused(ChatFailed):
    """The chat cannot be answered here now."""


class LeaseLost(ServiceError):
    """The run no longer holds its job: it was cancelled, retried or rescued, or has ended already."""


class StorageUnavailable(ServiceError):
    """PostgreSQL cannot be reached."""


class StartupError(ServiceError):
    """The process cannot start."""


class RunFailed(ServiceError):
    """A run did not succeed."""

    def __init__(self, code: ErrorCode, message: str = "", *, retry_after: timedelta | None = None) -> None:
        """
        Raises:
            ValueError: there is no such code.
        """
        # At once, where it is raised, and not where it is stored: a plug-in is not held to types.
        code = ErrorCode(code)
        self.failure = Failure(code, message, None if retry_after is None else min(retry_after, LONGEST_RETRY_AFTER))
        super().__init__(f"{code}: {message}" if message else code)

    @classmethod
    def of(cls, failure: Failure) -> RunFailed:
        return cls(failure.code, failure.message, retry_after=failure.retry_after)


class TooLong(RunFailed):
    """The server takes no recording of this size or length: in pieces it may."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.BAD_INPUT, message)
