"""A client of AI Service in one file. Copy it into your project: it needs Python 3.11 and httpx, and nothing of ours.

    with Client("http://ai.internal:8080", token="...") as ai:
        job = ai.submit(
            owner_service="telephony", task_type="llm_chat", model_profile="qwen2.5-14b", input={"user": "Hello!"}
        )
        print(ai.result(job.id, timeout=300)["content"])

`AsyncClient` has the same methods for asyncio. Both survive a service that is away for a while: a call goes on trying
for `retry_for` seconds, with growing, jittered pauses that honour `Retry-After`. After a connection that broke in the
middle only those calls are sent again that may be: `submit` names every job by a key for that, `claim` and `retry` are
not repeated. What cannot be had raises one of the errors of `ServiceError`.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import json
import logging
import os
import random
import re
import threading
import time
import types
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import (
    Any,
    Generic,
    Literal,
    Self,
    TypedDict,
    TypeVar,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import quote, urlsplit

import httpx

__all__ = [
    "AsyncClient",
    "AsyncHeldJob",
    "BadRequest",
    "Batch",
    "BatchJob",
    "Chat",
    "ChatFailed",
    "ClaimedJob",
    "Client",
    "Conflict",
    "Event",
    "Failed",
    "Filters",
    "Forbidden",
    "HeldJob",
    "Job",
    "JobFailed",
    "LeaseLost",
    "NewJob",
    "NotFinished",
    "NotFound",
    "RateLimited",
    "ServiceError",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Upload",
    "chunks",
]

logger = logging.getLogger("ai_service.client")

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
LONGEST_WAIT = 60.0
"""Seconds that one call may wait for a job's end."""
MOST_AT_ONCE = 10_000
"""Jobs in one batch."""

Status = Literal["pending", "running", "completed", "failed", "cancelled"]
Priority = Literal["high", "normal", "low"]
FINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})


# What is sent


class _Optional(TypedDict, total=False):
    owner_service: str
    """May be left out where the token belongs to an owner."""
    owner_ref: str
    priority: Priority
    max_attempts: int
    run_at: datetime | str
    """Not started before. A datetime needs a time zone."""
    deadline_at: datetime | str
    """Cancelled where it has not been started by then."""
    labels: Mapping[str, str]
    idempotency_key: str
    """The same key again is the same job. Left out: a new one, which the retries of the call share."""


class NewJob(_Optional):
    """A job to be done."""

    task_type: str
    model_profile: str
    input: Mapping[str, Any]


class BatchJob(_Optional, total=False):
    """A job of a batch: whatever it leaves out is taken from the batch's defaults."""

    task_type: str
    model_profile: str
    input: Mapping[str, Any]


class Filters(TypedDict, total=False):
    """Which jobs. Several values of one filter mean any of them; several filters mean all of them."""

    owner_service: str | Sequence[str]
    owner_ref: str | Sequence[str]
    task_type: str | Sequence[str]
    model_profile: str | Sequence[str]
    queue: str | Sequence[str]
    status: Status | Sequence[Status]
    error_code: str | Sequence[str]
    priority: Priority | Sequence[Priority]
    batch_id: str | Sequence[str]
    labels: Mapping[str, str | Sequence[str]]
    created_after: datetime | str
    """At or after."""
    created_before: datetime | str
    """Before."""


class Wanted(TypedDict, total=False):
    """What a worker takes; what is left out may be anything."""

    task_types: Sequence[str]
    model_profiles: Sequence[str]
    owner_services: Sequence[str]
    queues: Sequence[str]


# What comes back. Fields that a newer service adds are in `raw`.


@dataclass(frozen=True, kw_only=True)
class _Answer:
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The document as it came."""


@dataclass(frozen=True, kw_only=True)
class Job(_Answer):
    """A job. Its payloads are not in its repr, so that it can be logged."""

    id: str
    owner_service: str
    task_type: str
    model_profile: str
    status: Status
    owner_ref: str = ""
    priority: Priority = "normal"
    queue: str | None = None
    input: dict[str, Any] | None = field(default=None, repr=False)
    """None in lists that did not ask for it."""
    result: dict[str, Any] | None = field(default=None, repr=False)
    error_code: str | None = None
    error_message: str | None = None
    attempts: int = 0
    max_attempts: int = 3
    crashes: int = 0
    progress: dict[str, Any] | None = field(default=None, repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    batch_id: str | None = None
    position: int | None = None
    eta_seconds: int | None = None
    waiting_for: str | None = None
    worker_id: str | None = None
    run_at: datetime | None = None
    deadline_at: datetime | None = None
    lease_expires_at: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, kw_only=True)
class ClaimedJob(Job):
    """A job whose run is ours as long as its lease holds."""

    lease_token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Page(_Answer):
    jobs: tuple[Job, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Submitted(_Answer):
    """One job of a batch; `index` is its place in what was sent."""

    index: int
    id: str
    status: Status


@dataclass(frozen=True, kw_only=True)
class Batch(_Answer):
    batch_id: str
    created: int
    existing: int
    """Jobs that their keys had named before."""
    jobs: tuple[Submitted, ...]


@dataclass(frozen=True, kw_only=True)
class Upload(_Answer):
    """A recording that was uploaded; its id goes into the `upload_id` of a job's input."""

    upload_id: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Run(_Answer):
    """One start of a job; the last one may still go on."""

    started_at: datetime
    worker_id: str
    ended_at: datetime | None = None
    outcome: str | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lease(_Answer):
    job_id: str
    lease_expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Steered(_Answer):
    """How many jobs a filter matched, and how many of them changed (none where it only counted)."""

    matched: int
    changed: int


@dataclass(frozen=True, kw_only=True)
class Erased(_Answer):
    erased: int
    unfinished: int
    """Jobs that stay, because they have not ended."""


@dataclass(frozen=True, kw_only=True)
class Counts(_Answer):
    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True, kw_only=True)
class QueueCounts(Counts):
    queue: str | None = None
    due: int = 0


@dataclass(frozen=True, kw_only=True)
class TaskTypeCounts(Counts):
    task_type: str


@dataclass(frozen=True, kw_only=True)
class OwnerCounts(Counts):
    owner_service: str


@dataclass(frozen=True, kw_only=True)
class ErrorCount(_Answer):
    error_code: str
    jobs: int


@dataclass(frozen=True, kw_only=True)
class Finished(_Answer):
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True, kw_only=True)
class Throughput(_Answer):
    last_minute: Finished
    last_5_minutes: Finished
    last_hour: Finished


@dataclass(frozen=True, kw_only=True)
class Percentiles(_Answer):
    """Seconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Stats(_Answer):
    as_of: datetime
    jobs: Counts
    by_queue: tuple[QueueCounts, ...] = ()
    by_task_type: tuple[TaskTypeCounts, ...] = ()
    by_owner: tuple[OwnerCounts, ...] = ()
    by_error_code: tuple[ErrorCount, ...] = ()
    oldest_due_seconds: float | None = None
    throughput: Throughput | None = None
    wait_seconds: Percentiles | None = None
    run_seconds: Percentiles | None = None


@dataclass(frozen=True, kw_only=True)
class Circuit(_Answer):
    """Whether a queue is held because its model server is sick."""

    state: str = "closed"
    """`closed`, `open` (nothing starts) or `half_open` (one job is tried)."""
    reason: str | None = None
    """The error code that opened it."""
    message: str | None = None
    """The same in words, for tokens with the right `operate`."""
    model_profile: str | None = None
    opened_at: datetime | None = None
    probe_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class BrokerQueue(_Answer):
    """Tickets that wake workers, not jobs."""

    ready: int = 0
    unacked: int = 0
    consumers: int = 0


@dataclass(frozen=True, kw_only=True)
class Queue(_Answer):
    name: str
    paused: bool = False
    stopped: bool = False
    """A second flag with the same effect."""
    circuit: Circuit = Circuit()
    pending: int = 0
    due: int = 0
    running: int = 0
    busy: int = 0
    """Slots that are taken, over all workers."""
    concurrency: int | None = None
    """Most slots that may be busy at once, as configured; None: its workers' slots."""
    effective_limit: int | None = None
    """The same as it is now."""
    adaptive: bool = False
    preempt: bool = False
    reserved_share: float = 0.0
    ageing_seconds: float | None = None
    workers: int = 0
    slots: int = 0
    idle: int = 0
    broker: BrokerQueue | None = None
    """What RabbitMQ counts of it; None: the service asks nobody about it."""


@dataclass(frozen=True, kw_only=True)
class QueueStatus(_Answer):
    """How one queue stands, or all of them taken as one."""

    running: bool
    """False: each of them is stopped."""
    paused: bool
    """True: each of them is."""
    queue_size: int = 0
    current_job_id: str | None = None
    current_job_ids: tuple[str, ...] = ()
    """Of the caller's running jobs, at most 100."""
    queues: tuple[Queue, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Worker(_Answer):
    worker_id: str
    host: str = ""
    queues: tuple[str, ...] = ()
    slots_per_queue: int = 0
    running: dict[str, int] = field(default_factory=dict)
    started_at: datetime | None = None
    seen_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Chat(_Answer):
    """What a chat model answered."""

    job_id: str
    content: str = field(repr=False)
    model: str = ""
    """The model that answered, as the provider named it."""
    provider: str = ""
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    """`length`: the answer was cut at its limit."""
    duration_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job. Its id resumes a stream after it."""

    id: str
    kind: str
    """`status`, `progress`, at the end `done`; kinds that you do not know may come."""
    data: Mapping[str, Any] = field(repr=False)

    @property
    def job(self) -> Job | None:
        """The job as it ended, without input and result: of `done` only."""
        return _read(Job, self.data) if self.kind == "done" else None


# Errors


class ServiceError(Exception):
    """A call that did not do what it was asked to. The message says what to do.

    ::

        ServiceError
        ├── BadRequest         the request is not valid; `errors` says where (400, 422)
        │   └── TooLarge       larger than the service accepts (413)
        ├── Unauthorized       no token, or a wrong one (401)
        ├── Forbidden          the token lacks the right, or is another owner's (403)
        ├── NotFound           no such job or queue (404)
        ├── Conflict           the job's state does not allow it (409)
        │   └── LeaseLost      the run no longer holds its job (409)
        ├── RateLimited        too many requests with this token, or too many jobs of its owner that wait (429)
        ├── Unavailable        the service cannot be reached, or cannot reach its storage (502, 503, 504)
        ├── ChatFailed         a chat has no answer; `error_code` says why (422, 429, 502, 503, 504)
        ├── JobFailed          a job whose result was wanted has failed or was cancelled
        └── NotFinished        a job has not ended in time; also a TimeoutError
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """Of the answer; None where there was none."""
        self.problem = problem or {}
        """The answer's problem document (RFC 9457)."""
        self.retry_after = retry_after
        """Seconds after which the service wants to be asked again."""


class BadRequest(ServiceError):
    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """What is wrong: each with a `pointer` (RFC 6901) into what was sent, and a `detail`."""
        found = self.problem.get("errors")
        return found if isinstance(found, list) else []


class TooLarge(BadRequest):
    pass


class Unauthorized(ServiceError):
    pass


class Forbidden(ServiceError):
    pass


class NotFound(ServiceError):
    pass


class Conflict(ServiceError):
    pass


class LeaseLost(Conflict):
    pass


class RateLimited(ServiceError):
    pass


class Unavailable(ServiceError):
    pass


class ChatFailed(ServiceError):
    """A chat has no answer. Where its job could not even be stored, `job_id` is None."""

    @property
    def error_code(self) -> str:
        return str(self.problem.get("error_code") or "unknown")

    @property
    def job_id(self) -> str | None:
        return self.problem.get("job_id")


class JobFailed(ServiceError):
    """A job whose result was wanted has failed or was cancelled."""

    def __init__(self, job: Job) -> None:
        message = f": {job.error_message}" if job.error_message else ""
        super().__init__(f"Job {job.id} {_HOW_IT_ENDED[job.status]} ({job.error_code}){message}")
        self.job = job
        self.error_code = job.error_code or "unknown"


class NotFinished(ServiceError, TimeoutError):
    """A job has not ended in time; it goes on, and can be waited for again."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"Job {job.id} is still {job.status}.")
        self.job = job


class Failed(Exception):
    """A handler raises it to fail its run with an error code of the contract, which decides whether it is tried again.

    Args:
        message: for people; never a payload.
        retry_after: seconds; can lengthen the delay of the next try.
    """

    def __init__(self, error_code: str, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(f"{error_code}: {message}")
        self.error_code = error_code
        self.message = message
        self.retry_after = retry_after


_HOW_IT_ENDED = {"failed": "failed", "cancelled": "was cancelled"}

_ERRORS: dict[int, type[ServiceError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: BadRequest,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}

_ADVICE: dict[int, str] = {
    401: "Give the client the service's token.",
    403: "Use a token that may.",
    429: "Send less, or wait longer.",
}

_REFUSED_UNDONE = frozenset({429, 503})
"""The service says that it did nothing: whatever it was may be sent again."""


def _error_of(answer: httpx.Response) -> ServiceError:
    """What an answer that is no success means. Its body must have been read."""
    status, problem = answer.status_code, _problem_in(answer)
    kind = _ERRORS.get(status, ServiceError)
    if kind is Conflict and str(problem.get("type", "")).endswith(":lease-lost"):
        kind = LeaseLost
    if str(problem.get("type", "")).endswith((":chat-failed", ":chat-refused")):
        kind = ChatFailed
    said = _said(problem) or f"{_place(answer.request.url)} answered {status} {answer.reason_phrase}."
    message = f"{said} {_ADVICE[status]}" if status in _ADVICE else said
    return kind(message, status=status, problem=problem, retry_after=_seconds(answer.headers.get("retry-after")))


def _problem_in(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _said(problem: Mapping[str, Any]) -> str:
    errors = problem.get("errors")
    if isinstance(errors, list) and errors:
        told = [f"{error.get('pointer') or '/'}: {error.get('detail')}" for error in errors if isinstance(error, dict)]
        return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")
    return str(problem.get("detail") or problem.get("title") or "")


def _seconds(retry_after: str | None) -> float | None:
    """A `Retry-After` header as seconds from now; None where it makes no sense."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _unreachable(error: httpx.RequestError, url: httpx.URL) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(
        f"AI Service at {_place(url)} cannot be reached ({reason}). Is it running, and is the address right?"
    )


def _place(url: httpx.URL) -> str:
    """A URL without the user, the password and the query that it may hold."""
    return f"{url.scheme}://{url.netloc.decode().rpartition('@')[2]}"


# Calls, as values: the two clients differ only in how they send them.


@dataclass(frozen=True, kw_only=True)
class _Call(Generic[T]):
    method: str
    path: str
    """Below `/api/v1`, unless it is at the root."""
    read: Callable[[Any], T]
    root: bool = False
    params: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    file: Path | None = None
    """Sent instead of a body, piece by piece; read anew for each try."""
    content_type: str = "application/json"
    wait: float = 0.0
    """Seconds for which the service may hold the answer."""
    repeatable: bool = True
    """To send it again after a connection that broke in the middle changes nothing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    done_before: int | None = None
    """The status that means, on such a repetition, that the first one had succeeded."""


def _at(job_id: str, *more: str) -> str:
    return "/".join(("/jobs", quote(str(job_id), safe=""), *more))


def _submit(job: Mapping[str, Any]) -> _Call[Job]:
    return _Call(method="POST", path="/jobs", body=_json(_keyed(job)), read=_reader(Job))


def _submit_many(jobs: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any] | None) -> _Call[Batch]:
    items = [_json(_keyed(job)) for job in jobs]
    if not 1 <= len(items) <= MOST_AT_ONCE:
        raise ValueError(f"A batch has 1 to {MOST_AT_ONCE} jobs, not {len(items)}. Use chunks() to split it.")
    body = b'{"defaults":%s,"jobs":[%s]}' % (_json(_sendable(defaults or {})), b",".join(items))
    return _Call(method="POST", path="/jobs/batch", body=body, read=_reader(Batch))


def _upload(recording: bytes | str | os.PathLike[str], owner_service: str | None) -> _Call[Upload]:
    body, file = (recording, None) if isinstance(recording, bytes) else (None, Path(recording))
    return _Call(
        method="POST",
        path="/uploads",
        params=[("owner_service", owner_service)] if owner_service else [],
        body=body,
        file=file,
        content_type="application/octet-stream",
        read=_reader(Upload),
    )


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            yield piece


async def _async_pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as opened:
        while piece := await asyncio.to_thread(opened.read, _PIECE):
            yield piece


def _get(job_id: str, wait: float = 0.0) -> _Call[Job]:
    params = [("wait", f"{wait:.3f}")] if wait else []
    return _Call(method="GET", path=_at(job_id), params=params, wait=wait, read=_reader(Job))


def _page(filters: Filters, **options: object) -> _Call[Page]:
    return _Call(method="GET", path="/jobs", params=[*_query(filters), *_query(options)], read=_reader(Page))


def _runs(job_id: str) -> _Call[tuple[Run, ...]]:
    return _Call(method="GET", path=_at(job_id, "runs"), read=_each(Run, "runs"))


def _cancel(job_id: str) -> _Call[Job]:
    return _Call(method="POST", path=_at(job_id, "cancel"), read=_reader(Job))


def _retry(job_id: str) -> _Call[Job]:
    # Repeated blindly it would start afresh a run that the first one had made possible.
    return _Call(method="POST", path=_at(job_id, "retry"), read=_reader(Job), repeatable=False)


def _steer(
    verb: str, filters: Filters, ids: Sequence[str] | None, everything: bool, dry_run: bool, *, repeatable: bool
) -> _Call[Steered]:
    body: dict[str, Any] = {**_sendable(filters), "dry_run": dry_run}
    body |= {"ids": [str(job_id) for job_id in ids]} if ids is not None else {}
    body |= {"all": True} if everything else {}
    return _Call(
        method="POST", path=f"/jobs/{verb}", body=_json(body), read=_reader(Steered), repeatable=repeatable or dry_run
    )


def _erase(job_id: str) -> _Call[None]:
    return _Call(method="DELETE", path=_at(job_id), read=_nothing, done_before=404)


def _erase_all(owner_ref: str, owner_service: str | None) -> _Call[Erased]:
    body = {"owner_ref": owner_ref} | ({"owner_service": owner_service} if owner_service else {})
    return _Call(method="POST", path="/jobs/erase", body=_json(body), read=_reader(Erased))


_USUAL_CHAT = 300.0
"""Seconds that a chat may take which names no time of its own."""


def _chat(
    messages: Sequence[Mapping[str, Any]] | str, fields: Mapping[str, Any], key: str | None, *, streamed: bool = False
) -> _Call[Chat]:
    asked: dict[str, Any] = {"user": messages} if isinstance(messages, str) else {"messages": messages}
    asked |= {name: value for name, value in fields.items() if value is not None}
    return _Call(
        method="POST",
        path="/chat/stream" if streamed else "/chat",
        body=_json(asked),
        read=_reader(Chat),
        root=True,
        wait=fields.get("timeout") or _USUAL_CHAT,
        # Without a key it would be asked, and paid for, twice.
        repeatable=key is not None,
        headers={"Idempotency-Key": json.dumps(key)} if key is not None else {},
    )


def _text_of(event: Event) -> str:
    """
    Raises:
        ChatFailed: it is the end of a stream without an answer.
    """
    if event.kind == "error":
        problem = event.data
        raise ChatFailed(_said(problem) or "The chat has no answer.", status=problem.get("status"), problem=problem)
    return str(event.data["text"]) if event.kind == "token" else ""


_CUT_OFF = "The stream of the answer was cut off."


def _stats() -> _Call[Stats]:
    return _Call(method="GET", path="/stats", read=_reader(Stats))


def _queues() -> _Call[tuple[Queue, ...]]:
    return _Call(method="GET", path="/queues", read=_each(Queue, "queues"))


def _steer_queue(name: str, verb: str) -> _Call[Queue]:
    return _Call(method="POST", path=f"/queues/{quote(name, safe='')}/{verb}", read=_reader(Queue))


def _queue(method: str, verb: str, queue: str | None, read: Callable[[Any], T]) -> _Call[T]:
    """One queue, or all of them."""
    params = [("queue", queue)] if queue is not None else []
    return _Call(method=method, path=f"/queue/{verb}", params=params, read=read, root=True)


def _hold_one(verb: str, queue: str) -> _Call[Queue]:
    def read(document: Any) -> Queue:
        [one] = document["queues"]
        return _read(Queue, one)

    return _queue("POST", verb, queue, read)


def _hold_all(verb: str) -> _Call[QueueStatus]:
    return _queue("POST", verb, None, _reader(QueueStatus))


def _queue_status(queue: str | None) -> _Call[QueueStatus]:
    return _queue("GET", "status", queue, _reader(QueueStatus))


def _workers() -> _Call[tuple[Worker, ...]]:
    return _Call(method="GET", path="/workers", read=_each(Worker, "workers"))


def _claim(
    worker_id: str, limit: int, lease_timeout: float | None, wait: float, wanted: Wanted
) -> _Call[tuple[ClaimedJob, ...]]:
    body: dict[str, Any] = {"worker_id": worker_id, "limit": limit, "wait": wait, **_sendable(wanted)}
    body |= {"lease_timeout": lease_timeout} if lease_timeout is not None else {}
    return _Call(
        method="POST",
        path="/jobs/claim",
        body=_json(body),
        wait=wait,
        read=_each(ClaimedJob, "jobs"),
        repeatable=False,
    )


def _held(verb: str, job_id: str, lease_token: str, read: Callable[[Any], T], **more: object) -> _Call[T]:
    """A report of a run. The service knows repetitions by the lease."""
    body = {"lease_token": lease_token, **{name: value for name, value in more.items() if value is not None}}
    return _Call(method="POST", path=_at(job_id, verb), body=_json(body), read=read)


def _heartbeat(job_id: str, lease_token: str, progress: Mapping[str, Any] | None) -> _Call[Lease]:
    return _held("heartbeat", job_id, lease_token, _reader(Lease), progress=progress)


def _complete(job_id: str, lease_token: str, result: Mapping[str, Any]) -> _Call[Job]:
    return _held("complete", job_id, lease_token, _reader(Job), result=result)


def _fail(
    job_id: str, lease_token: str, error_code: str, error_message: str | None, retry_after: float | None
) -> _Call[Job]:
    more = {"error_code": error_code, "error_message": error_message, "retry_after": retry_after}
    return _held("fail", job_id, lease_token, _reader(Job), **more)


def _release(job_id: str, lease_token: str) -> _Call[Job]:
    return _held("release", job_id, lease_token, _reader(Job))


# Documents


def _json(value: object) -> bytes:
    # Not escaped: Cyrillic would count thrice against the service's limits.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _sendable(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given, with moments as RFC 3339."""
    return {name: _moment(value) if isinstance(value, datetime) else value for name, value in given.items()}


def _keyed(job: Mapping[str, Any]) -> dict[str, Any]:
    return {"idempotency_key": str(uuid.uuid4()), **_sendable(job)}


def _moment(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: use datetime.now(UTC), for example.")
    return moment.isoformat()


def _query(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if name == "labels":
            yield from _query({f"label.{label}": values for label, values in value.items()})
        elif isinstance(value, datetime):
            yield name, _moment(value)
        elif isinstance(value, Iterable) and not isinstance(value, str):
            yield from ((name, str(each)) for each in value)
        elif value is not None:
            yield name, str(value)


def chunks(
    jobs: Iterable[BatchJob | NewJob], *, jobs_per_call: int = 1_000, bytes_per_call: int = 16 << 20
) -> Iterator[Sequence[BatchJob | NewJob]]:
    """Split what is too much for one `submit_many`: neither too many jobs nor too many bytes at once."""
    some: list[BatchJob | NewJob] = []
    size = 0
    for job in jobs:
        weight = len(_json(_sendable(job)))
        if some and (len(some) == jobs_per_call or size + weight > bytes_per_call):
            yield some
            some, size = [], 0
        some.append(job)
        size += weight
    if some:
        yield some


def _reader(kind: type[T]) -> Callable[[Any], T]:
    return functools.partial(_read, kind)


def _each(kind: type[T], name: str) -> Callable[[Any], tuple[T, ...]]:
    def read(document: Any) -> tuple[T, ...]:
        return tuple(_read(kind, each) for each in document[name])

    return read


def _nothing(_document: Any) -> None:
    return None


def _read(kind: type[T], document: Any) -> T:
    """The document as this dataclass. Unknown fields are left in its `raw`."""
    known = {name: read(document[name]) for name, read in _readers(cast("Any", kind)).items() if name in document}
    return cast("Callable[..., T]", kind)(**known, raw=document)


@functools.cache
def _readers(kind: Any) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(kind)
    return {each.name: _reader_of(hints[each.name]) for each in fields(kind) if each.name != "raw"}


def _reader_of(hint: Any) -> Callable[[Any], Any]:
    if hint is datetime:
        return datetime.fromisoformat
    if is_dataclass(hint):
        return _reader(cast("type[Any]", hint))
    if get_origin(hint) in (Union, types.UnionType):
        inner = _reader_of(get_args(hint)[0])
        return lambda value: None if value is None else inner(value)
    if get_origin(hint) is tuple:
        each = _reader_of(get_args(hint)[0])
        return lambda values: tuple(each(value) for value in values)
    return lambda value: value


def _document_in(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else None
    except ValueError:
        raise _no_service(answer) from None


def _no_service(answer: httpx.Response) -> ServiceError:
    return ServiceError(
        f"{_place(answer.request.url)} answered {answer.status_code}, not as AI Service does. Is the address right?",
        status=answer.status_code,
    )


# Patience


_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


def _pause(tries: int) -> float:
    """Seconds before the next try: doubling, and jittered, so that many callers do not come back as one."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


class _Tries:
    """The tries of one call: which failure is worth another one, and when."""

    def __init__(self, call: _Call[Any], retry_for: float, url: httpx.URL) -> None:
        self._call = call
        self._url = url
        self._deadline = time.monotonic() + retry_for
        self._count = 0
        self._broke = False

    def pause_after(self, failure: httpx.RequestError) -> float:
        """Seconds to wait until the next try.

        Raises:
            Unavailable: there is to be none.
        """
        safe = isinstance(failure, _NEVER_SENT)
        self._broke |= not safe
        return self._pause(_unreachable(failure, self._url), worthwhile=safe or self._call.repeatable, cause=failure)

    def pause_after_answer(self, answer: httpx.Response) -> float | None:
        """The same after an answer; None: it is a success.

        Raises:
            ServiceError: it is a failure that another try would not mend.
        """
        if answer.is_success or (self._broke and answer.status_code == self._call.done_before):
            return None
        undone = answer.status_code in _REFUSED_UNDONE
        transient = undone or (answer.status_code in {502, 504} and self._call.repeatable)
        return self._pause(_error_of(answer), worthwhile=transient)

    def _pause(self, failure: ServiceError, *, worthwhile: bool, cause: Exception | None = None) -> float:
        pause = (failure.retry_after or 0.0) + _pause(self._count)
        if not worthwhile or time.monotonic() + pause > self._deadline:
            raise failure from cause
        self._count += 1
        return pause


class _Waiting:
    """The looks at a job that somebody waits for."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._looked_at = 0.0
        self._seconds = 0.0

    def look(self) -> float:
        """Seconds that the next look may take."""
        self._looked_at = time.monotonic()
        self._seconds = min(LONGEST_WAIT, max(0.0, self._deadline - self._looked_at))
        return self._seconds

    def pause_after(self, job: Job) -> float:
        """Seconds until the next look: hardly any, but for a service that answers early because it stops.

        Raises:
            NotFinished: the time is up.
        """
        now = time.monotonic()
        if now >= self._deadline:
            raise NotFinished(job)
        return 0.0 if now - self._looked_at > self._seconds / 2 else min(0.5, self._deadline - now)


# Event streams


_STREAM_SILENCE = 45.0
_PIECE = 256 * 1024
"""Seconds without a byte after which a stream is taken for broken: the service sends a comment every 15."""


class _EventReader:
    """Bytes in, events out (the format of Server-Sent Events). An event that was cut off is dropped."""

    def __init__(self) -> None:
        self.retry: float | None = None
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._rest = ""
        self._id = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Event]:
        text = self._rest + self._decode(piece)
        # A CR at the end may be half of a CRLF: it waits. Not splitlines(): U+2028 does not end a line here.
        whole, cr = (text[:-1], "\r") if text.endswith("\r") else (text, "")
        *lines, rest = re.split(r"\r\n|\n|\r", whole)
        self._rest = rest + cr
        for line in lines:
            if line:
                self._take(line)
            elif event := self._dispatch():
                yield event

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch(r"\d{1,9}", value):
            self.retry = int(value) / 1000

    def _dispatch(self) -> Event | None:
        data, kind = "\n".join(self._data), self._kind
        self._data, self._kind = [], ""
        if not data:
            return None
        try:
            document = json.loads(data)
        except ValueError:
            return None
        return Event(id=self._id, kind=kind or "message", data=document) if isinstance(document, dict) else None


class _Following:
    """A job's events over as many connections as it takes."""

    def __init__(self, job_id: str, last_event_id: str | None, retry_for: float, url: httpx.URL) -> None:
        self.path = _at(job_id, "events")
        self._over = False
        self._last_event_id = last_event_id
        self._retry = 1.0
        self._retry_for = retry_for
        self._url = url
        self._reader = _EventReader()
        self._heard_at = time.monotonic()
        self._tries = 0
        self._failure: ServiceError = Unavailable("No connection was made.")
        self._cause: httpx.RequestError | None = None

    def over(self) -> bool:
        """Whether all has been heard."""
        return self._over

    def headers(self) -> dict[str, str]:
        """Of the next connection."""
        self._reader = _EventReader()
        resumed = {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}
        return {"Accept": "text/event-stream", **resumed}

    def begin(self, answer: httpx.Response) -> None:
        """See what the connection brings. The body of an answer that is no success must have been read.

        Raises:
            ServiceError: no stream, and there will be none.
        """
        if answer.status_code == 204:
            self._over = True
        elif not answer.is_success:
            self._failure, self._cause = _error_of(answer), None
            if not isinstance(self._failure, RateLimited | Unavailable):
                raise self._failure
        elif not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise _no_service(answer)
        else:
            # What it is when it ends before the job does: the service stops, and another one takes over.
            self._failure = Unavailable(f"{_place(self._url)} ended the stream of events early.")
            self._cause = None

    def feed(self, piece: bytes) -> Iterator[Event]:
        self._heard_at, self._tries = time.monotonic(), 0
        for event in self._reader.feed(piece):
            self._last_event_id = event.id or self._last_event_id
            yield event
            if event.kind == "done":
                self._over = True
                return

    def broke(self, error: httpx.RequestError) -> None:
        self._failure, self._cause = _unreachable(error, self._url), error

    def pause(self) -> float:
        """Seconds until the next connection; none where all has been heard.

        Raises:
            Unavailable, RateLimited: it has lasted too long.
        """
        if self._over:
            return 0.0
        self._retry = self._reader.retry or self._retry
        pause = max(self._failure.retry_after or 0.0, self._retry) + _pause(self._tries)
        if time.monotonic() + pause > self._heard_at + self._retry_for:
            raise self._failure from self._cause
        self._tries += 1
        return pause


# The clients


@dataclass(frozen=True)
class _Connection:
    """How the service is reached. Shows no secret."""

    base_url: str
    token: str | None = field(repr=False)
    timeout: float
    options: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{self.base_url!r} is not the address of a service; expected one like {DEFAULT_URL}.")
        if self.token and re.search(r"[\x00-\x20\x7f]", self.token):
            raise ValueError("The token holds a space or a control character.")

    def settings(self) -> dict[str, Any]:
        """What httpx is told."""
        authorization = {"Authorization": f"Bearer {self.token}".encode()} if self.token else {}
        return {
            "base_url": f"{self.base_url.rstrip('/')}/api/v1",
            "headers": {"User-Agent": "ai-service-client", **authorization},
            # As many long polls as the caller likes. Idle connections go before the service closes them (5 s): a
            # request must not meet a connection that is just being closed.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0),
            **self.options,
        }

    def request(self, call: _Call[Any], read: Callable[[Path], Any]) -> dict[str, Any]:
        """
        Args:
            read: gives the pieces of a file.
        """
        sent = call.body is not None or call.file is not None
        headers = {**call.headers, **({"Content-Type": call.content_type} if sent else {})}
        return {
            "method": call.method,
            "url": f"{self.base_url.rstrip('/')}{call.path}" if call.root else call.path,
            "params": list(call.params) or None,
            "content": read(call.file) if call.file else call.body,
            "headers": headers | ({"Content-Length": str(call.file.stat().st_size)} if call.file else {}),
            "timeout": httpx.Timeout(self.timeout, read=self.timeout + call.wait),
        }

    def stream_timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.timeout, read=_STREAM_SILENCE)

    def __str__(self) -> str:
        return _place(httpx.URL(self.base_url))


def _from_env(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "base_url": environ.get("AI_SERVICE_URL") or DEFAULT_URL,
        "token": environ.get("AI_SERVICE_TOKEN") or None,
    }


class Client:
    """AI Service, from a program with threads or none. May be shared by threads.

    Args:
        base_url: like `http://ai.internal:8080`; a path before `/api/v1` may follow.
        token: sent as `Authorization: Bearer`.
        timeout: seconds for connecting, and for an answer beyond what it may be held by a wait.
        retry_for: seconds for which a call goes on trying while the service is away; 0: one try.
        options: httpx's own, as `verify`, `proxy`, `trust_env`, `transport`.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        retry_for: float = 60.0,
        **options: Any,
    ) -> None:
        self._connection = _Connection(base_url, token, timeout, options)
        self._retry_for = retry_for
        self._http = httpx.Client(**self._connection.settings())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **options: Any) -> Self:
        """A client of the service at `AI_SERVICE_URL`, with `AI_SERVICE_TOKEN`."""
        return cls(**{**_from_env(environ), **options})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._connection)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections; `with` does it."""
        self._http.close()

    def submit(self, **job: Unpack[NewJob]) -> Job:
        """Store a job. Once this returns, it is safe, and stored once, however often the call had to be repeated."""
        return self._send(_submit(job))

    def submit_many(self, jobs: Iterable[BatchJob | NewJob], *, defaults: BatchJob | None = None) -> Batch:
        """Store up to 10,000 jobs, all or nothing; `chunks` splits what is more."""
        return self._send(_submit_many(jobs, defaults))

    def upload(self, recording: bytes | str | os.PathLike[str], *, owner_service: str | None = None) -> Upload:
        """Upload a recording (bytes, or the path of a file) for the `upload_id` of speech jobs of the same owner.

        A file is sent piece by piece. Where it is sent again after a connection that broke, what came of the first try
        is forgotten by the service.

        Raises:
            OSError: the file cannot be read.
        """
        return self._send(_upload(recording, owner_service))

    def get(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._send(_get(job_id))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job, once it is final: completed, failed or cancelled.

        Raises:
            NotFinished: it is not, after so many seconds.
        """
        waiting = _Waiting(timeout)
        while not (job := self._send(_get(job_id, waiting.look()))).final:
            time.sleep(waiting.pause_after(job))
        return job

    def result(self, job_id: str, timeout: float | None = None) -> dict[str, Any]:
        """The job's result, once there is one.

        Raises:
            JobFailed: there will be none.
            NotFinished: not after so many seconds.
        """
        return _result_of(self.wait(job_id, timeout))

    def page(self, *, cursor: str | None = None, limit: int = 50, **filters: Unpack[Filters]) -> Page:
        """One page of a list, newest first, without inputs and results."""
        return self._send(_page(filters, cursor=cursor, limit=limit))

    def list(
        self,
        *,
        include: Sequence[Literal["input", "result"]] = (),
        oldest_first: bool = False,
        page_size: int = 100,
        **filters: Unpack[Filters],
    ) -> Iterator[Job]:
        """Every job that matches, newest first, read page by page while it is iterated."""
        options = _list_options(include, oldest_first, page_size)
        cursor: str | None = ""
        while cursor is not None:
            page = self._send(_page(filters, **options, cursor=cursor or None))
            yield from page.jobs
            cursor = page.next_cursor

    def runs(self, job_id: str) -> Sequence[Run]:
        """The job's history, oldest run first."""
        return self._send(_runs(job_id))

    def events(self, job_id: str, last_event_id: str | None = None) -> Iterator[Event]:
        """What happens to the job, from its submission or after the given event, until it is final.

        A lost connection is resumed where it broke. Of progress, only the last report is kept by the service.
        """
        following = _Following(job_id, last_event_id, self._retry_for, self._http.base_url)
        while not following.over():
            timeout = self._connection.stream_timeout()
            try:
                with self._http.stream("GET", following.path, headers=following.headers(), timeout=timeout) as answer:
                    if not answer.is_success:
                        answer.read()
                    following.begin(answer)
                    for piece in answer.iter_bytes():
                        yield from following.feed(piece)
                        if following.over():
                            return
            except httpx.RequestError as error:
                following.broke(error)
            time.sleep(following.pause())

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        *,
        model: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Chat:
        """Ask a chat model and wait for its answer.

        Args:
            messages: a conversation, or just what the user says.
            model: a profile, or a profile's model; else the service's active one.
            timeout: seconds from the submission on, after which it is cancelled; else what the service says.
            idempotency_key: the same chat again under this key finds its answer, and the caller's going away does
                not cancel it.
            fields: `system`, `max_tokens`, `temperature`, `response_format`, `priority`, `owner_service` ...

        Raises:
            ChatFailed.
        """
        return self._send(_chat(messages, fields | {"model": model, "timeout": timeout}, idempotency_key))

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        *,
        model: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Iterator[str]:
        """The same as `chat`, piece by piece as it is written. Closing the iterator cancels the job.

        Raises:
            ChatFailed, also after some of the text.
        """
        call = _chat(messages, fields | {"model": model, "timeout": timeout}, idempotency_key, streamed=True)
        sent = self._connection.request(call, _pieces) | {"timeout": self._connection.stream_timeout()}
        reader = _EventReader()
        try:
            with self._http.stream(**sent) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _error_of(answer)
                for piece in answer.iter_bytes():
                    for event in reader.feed(piece):
                        if event.kind == "done":
                            return
                        if text := _text_of(event):
                            yield text
        except httpx.RequestError as error:
            raise _unreachable(error, self._http.base_url) from error
        raise Unavailable(_CUT_OFF)

    def cancel(self, job_id: str) -> Job:
        """Stop a pending or running job for good. Cancelling it again changes nothing.

        Raises:
            Conflict: it has completed or failed.
        """
        return self._send(_cancel(job_id))

    def retry(self, job_id: str) -> Job:
        """Start a failed, cancelled or running job afresh. Not repeated after a connection that broke in the middle.

        Raises:
            Conflict: it is pending or completed.
        """
        return self._send(_retry(job_id))

    def cancel_all(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> Steered:
        """Cancel whatever matches; without a status, what is pending or running.

        Args:
            everything: allows to give no filter at all.
            dry_run: only count.
        """
        return self._send(_steer("cancel", filters, ids, everything, dry_run, repeatable=True))

    def retry_all(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> Steered:
        """Start afresh whatever matches; without a status, what has failed or is running."""
        return self._send(_steer("retry", filters, ids, everything, dry_run, repeatable=False))

    def erase(self, job_id: str) -> None:
        """Delete a final job with its payloads.

        Raises:
            Conflict: it has not ended.
        """
        self._send(_erase(job_id))

    def erase_all(self, owner_ref: str, *, owner_service: str | None = None) -> Erased:
        """Delete an owner's final jobs of this reference; those that have not ended stay."""
        return self._send(_erase_all(owner_ref, owner_service))

    def stats(self) -> Stats:
        """Counts, throughput and durations, at most a few seconds old."""
        return self._send(_stats())

    def queues(self) -> Sequence[Queue]:
        """Every queue: its jobs, who serves it, what limits it and what holds it."""
        return self._send(_queues())

    def queue_status(self, queue: str | None = None) -> QueueStatus:
        """How a queue stands, or all of them taken as one."""
        return self._send(_queue_status(queue))

    def pause_queue(self, queue: str) -> Queue:
        """Start nothing of it any more; what runs goes on. Survives restarts; again, it changes nothing."""
        return self._send(_steer_queue(queue, "pause"))

    def resume_queue(self, queue: str) -> Queue:
        """Undo `pause_queue`; what was stopped stays stopped."""
        return self._send(_steer_queue(queue, "resume"))

    def stop_queue(self, queue: str) -> Queue:
        """The same as `pause_queue` by a second flag, which only `start_queue` clears."""
        return self._send(_hold_one("stop", queue))

    def start_queue(self, queue: str) -> Queue:
        """Undo `stop_queue`; what was paused stays paused."""
        return self._send(_hold_one("start", queue))

    def close_circuit(self, queue: str) -> Queue:
        """Let its jobs start again, whatever its model server did; it opens anew if that fails."""
        return self._send(_steer_queue(queue, "close-circuit"))

    def pause_all(self) -> QueueStatus:
        """Pause every queue. Jobs without a queue, those of external workers, are not touched."""
        return self._send(_hold_all("pause"))

    def resume_all(self) -> QueueStatus:
        """Resume every queue."""
        return self._send(_hold_all("resume"))

    def stop_all(self) -> QueueStatus:
        """Stop every queue."""
        return self._send(_hold_all("stop"))

    def start_all(self) -> QueueStatus:
        """Start every queue."""
        return self._send(_hold_all("start"))

    def workers(self) -> Sequence[Worker]:
        """The service's own workers that live."""
        return self._send(_workers())

    def claim(
        self,
        worker_id: str,
        *,
        limit: int = 1,
        lease_timeout: float | None = None,
        wait: float = 0.0,
        **wanted: Unpack[Wanted],
    ) -> Sequence[ClaimedJob]:
        """Take jobs to run; `work` does all of this for you.

        Not repeated after a connection that broke in the middle: what such a claim took comes free when its lease
        runs out, after `lease_timeout` seconds (5 to 86,400).

        Args:
            wait: seconds to hold the answer until there is a job, at most 30.
        """
        return self._send(_claim(worker_id, limit, lease_timeout, wait, wanted))

    def heartbeat(self, job_id: str, lease_token: str, progress: Mapping[str, Any] | None = None) -> Lease:
        """Renew the lease, and say how far the run is.

        Raises:
            LeaseLost: stop; the run no longer counts.
        """
        return self._send(_heartbeat(job_id, lease_token, progress))

    def complete(self, job_id: str, lease_token: str, result: Mapping[str, Any]) -> Job:
        """End the run with its result. The same again changes nothing.

        Raises:
            LeaseLost: the result was not stored.
        """
        return self._send(_complete(job_id, lease_token, result))

    def fail(
        self,
        job_id: str,
        lease_token: str,
        error_code: str,
        error_message: str | None = None,
        *,
        retry_after: float | None = None,
    ) -> Job:
        """End the run without a result. The error code decides whether the job is tried again.

        Raises:
            LeaseLost.
        """
        return self._send(_fail(job_id, lease_token, error_code, error_message, retry_after))

    def release(self, job_id: str, lease_token: str) -> Job:
        """Give the job back unharmed: pending in its old place, nothing counted.

        Raises:
            LeaseLost.
        """
        return self._send(_release(job_id, lease_token))

    def work(
        self,
        handler: Callable[[HeldJob], Mapping[str, Any]],
        *,
        worker_id: str,
        concurrency: int = 1,
        lease_timeout: float = 60.0,
        poll: float = 5.0,
        grace: float = 30.0,
        stop: threading.Event | None = None,
        **wanted: Unpack[Wanted],
    ) -> None:
        """Run jobs, each in a thread of its own, until `stop` is set or Ctrl-C.

        The lease of every running job is renewed in the background. What the handler returns becomes the job's result;
        it raises `Failed` to fail the run with a code of its own, and anything else fails it as `internal_error`,
        telling the service only the exception's type. A thread cannot be ended from outside: a handler that may take
        long looks at `job.lost` or calls `job.report`, and keeps its place until it returns.

        The service may be away: what runs goes on, and results are kept until the service takes or refuses them.

        Args:
            concurrency: jobs at once; never more.
            lease_timeout: seconds after which the service gives the job to others once this process is gone.
            poll: seconds that a claim waits for a job; also how long `stop` may take to be noticed.
            grace: seconds that running jobs have after `stop`; then they are given back. Ctrl-C gives them none.

        Raises:
            BadRequest, Unauthorized, Forbidden: the service refuses the claim itself.
        """
        options = {name: value for name, value in self._connection.options.items() if name != "transport"}
        connection = self._connection

        async def run() -> None:
            stopping = asyncio.Event()
            relay = asyncio.create_task(_relay(stop, stopping)) if stop else None
            async with AsyncClient(
                connection.base_url, token=connection.token, timeout=connection.timeout, **options
            ) as client:
                terms = _Terms(worker_id, concurrency, lease_timeout, poll, grace, wanted)
                await _Worker(client, functools.partial(_start_in_thread, handler), terms).run(stopping)
            if relay:
                relay.cancel()

        asyncio.run(run())

    def _send(self, call: _Call[T]) -> T:
        tries = _Tries(call, self._retry_for, self._http.base_url)
        while True:
            try:
                answer = self._http.request(**self._connection.request(call, _pieces))
            except httpx.RequestError as error:
                pause: float | None = tries.pause_after(error)
            else:
                pause = tries.pause_after_answer(answer)
            if pause is None:
                return _value_of(call, answer)
            time.sleep(pause)


class AsyncClient:
    """AI Service, from asyncio. The same as `Client`, whose methods explain themselves."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        retry_for: float = 60.0,
        **options: Any,
    ) -> None:
        self._connection = _Connection(base_url, token, timeout, options)
        self._retry_for = retry_for
        self._http = httpx.AsyncClient(**self._connection.settings())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **options: Any) -> Self:
        return cls(**{**_from_env(environ), **options})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._connection)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def submit(self, **job: Unpack[NewJob]) -> Job:
        return await self._send(_submit(job))

    async def submit_many(self, jobs: Iterable[BatchJob | NewJob], *, defaults: BatchJob | None = None) -> Batch:
        return await self._send(_submit_many(jobs, defaults))

    async def upload(self, recording: bytes | str | os.PathLike[str], *, owner_service: str | None = None) -> Upload:
        return await self._send(_upload(recording, owner_service))

    async def get(self, job_id: str) -> Job:
        return await self._send(_get(job_id))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:  # noqa: ASYNC109  # the same as Client's
        waiting = _Waiting(timeout)
        while not (job := await self._send(_get(job_id, waiting.look()))).final:  # noqa: ASYNC110
            await asyncio.sleep(waiting.pause_after(job))
        return job

    async def result(self, job_id: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        return _result_of(await self.wait(job_id, timeout))

    async def page(self, *, cursor: str | None = None, limit: int = 50, **filters: Unpack[Filters]) -> Page:
        return await self._send(_page(filters, cursor=cursor, limit=limit))

    async def list(
        self,
        *,
        include: Sequence[Literal["input", "result"]] = (),
        oldest_first: bool = False,
        page_size: int = 100,
        **filters: Unpack[Filters],
    ) -> AsyncIterator[Job]:
        options = _list_options(include, oldest_first, page_size)
        cursor: str | None = ""
        while cursor is not None:
            page = await self._send(_page(filters, **options, cursor=cursor or None))
            for job in page.jobs:
                yield job
            cursor = page.next_cursor

    async def runs(self, job_id: str) -> Sequence[Run]:
        return await self._send(_runs(job_id))

    async def events(self, job_id: str, last_event_id: str | None = None) -> AsyncIterator[Event]:
        following = _Following(job_id, last_event_id, self._retry_for, self._http.base_url)
        while not following.over():
            timeout = self._connection.stream_timeout()
            try:
                async with self._http.stream(
                    "GET", following.path, headers=following.headers(), timeout=timeout
                ) as answer:
                    if not answer.is_success:
                        await answer.aread()
                    following.begin(answer)
                    async for piece in answer.aiter_bytes():
                        for event in following.feed(piece):
                            yield event
                        if following.over():
                            return
            except httpx.RequestError as error:
                following.broke(error)
            await asyncio.sleep(following.pause())

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        *,
        model: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the service's
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Chat:
        return await self._send(_chat(messages, fields | {"model": model, "timeout": timeout}, idempotency_key))

    async def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        *,
        model: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the service's
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AsyncIterator[str]:
        call = _chat(messages, fields | {"model": model, "timeout": timeout}, idempotency_key, streamed=True)
        sent = self._connection.request(call, _async_pieces) | {"timeout": self._connection.stream_timeout()}
        reader = _EventReader()
        try:
            async with self._http.stream(**sent) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _error_of(answer)
                async for piece in answer.aiter_bytes():
                    for event in reader.feed(piece):
                        if event.kind == "done":
                            return
                        if text := _text_of(event):
                            yield text
        except httpx.RequestError as error:
            raise _unreachable(error, self._http.base_url) from error
        raise Unavailable(_CUT_OFF)

    async def cancel(self, job_id: str) -> Job:
        return await self._send(_cancel(job_id))

    async def retry(self, job_id: str) -> Job:
        return await self._send(_retry(job_id))

    async def cancel_all(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> Steered:
        return await self._send(_steer("cancel", filters, ids, everything, dry_run, repeatable=True))

    async def retry_all(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> Steered:
        return await self._send(_steer("retry", filters, ids, everything, dry_run, repeatable=False))

    async def erase(self, job_id: str) -> None:
        await self._send(_erase(job_id))

    async def erase_all(self, owner_ref: str, *, owner_service: str | None = None) -> Erased:
        return await self._send(_erase_all(owner_ref, owner_service))

    async def stats(self) -> Stats:
        return await self._send(_stats())

    async def queues(self) -> Sequence[Queue]:
        return await self._send(_queues())

    async def queue_status(self, queue: str | None = None) -> QueueStatus:
        return await self._send(_queue_status(queue))

    async def pause_queue(self, queue: str) -> Queue:
        return await self._send(_steer_queue(queue, "pause"))

    async def resume_queue(self, queue: str) -> Queue:
        return await self._send(_steer_queue(queue, "resume"))

    async def stop_queue(self, queue: str) -> Queue:
        return await self._send(_hold_one("stop", queue))

    async def start_queue(self, queue: str) -> Queue:
        return await self._send(_hold_one("start", queue))

    async def close_circuit(self, queue: str) -> Queue:
        return await self._send(_steer_queue(queue, "close-circuit"))

    async def pause_all(self) -> QueueStatus:
        return await self._send(_hold_all("pause"))

    async def resume_all(self) -> QueueStatus:
        return await self._send(_hold_all("resume"))

    async def stop_all(self) -> QueueStatus:
        return await self._send(_hold_all("stop"))

    async def start_all(self) -> QueueStatus:
        return await self._send(_hold_all("start"))

    async def workers(self) -> Sequence[Worker]:
        return await self._send(_workers())

    async def claim(
        self,
        worker_id: str,
        *,
        limit: int = 1,
        lease_timeout: float | None = None,
        wait: float = 0.0,
        **wanted: Unpack[Wanted],
    ) -> Sequence[ClaimedJob]:
        return await self._send(_claim(worker_id, limit, lease_timeout, wait, wanted))

    async def heartbeat(self, job_id: str, lease_token: str, progress: Mapping[str, Any] | None = None) -> Lease:
        return await self._send(_heartbeat(job_id, lease_token, progress))

    async def complete(self, job_id: str, lease_token: str, result: Mapping[str, Any]) -> Job:
        return await self._send(_complete(job_id, lease_token, result))

    async def fail(
        self,
        job_id: str,
        lease_token: str,
        error_code: str,
        error_message: str | None = None,
        *,
        retry_after: float | None = None,
    ) -> Job:
        return await self._send(_fail(job_id, lease_token, error_code, error_message, retry_after))

    async def release(self, job_id: str, lease_token: str) -> Job:
        return await self._send(_release(job_id, lease_token))

    async def work(
        self,
        handler: Callable[[AsyncHeldJob], Awaitable[Mapping[str, Any]]],
        *,
        worker_id: str,
        concurrency: int = 1,
        lease_timeout: float = 60.0,
        poll: float = 5.0,
        grace: float = 30.0,
        stop: asyncio.Event | None = None,
        **wanted: Unpack[Wanted],
    ) -> None:
        """Run jobs, each in a task of its own, until `stop` is set or this is cancelled.

        As `Client.work`, but a handler whose lease is lost is cancelled. It must not block the event loop: leases are
        renewed there.
        """
        terms = _Terms(worker_id, concurrency, lease_timeout, poll, grace, wanted)
        await _Worker(self, functools.partial(_start_as_task, handler), terms).run(stop or asyncio.Event())

    async def _send(self, call: _Call[T], *, retry_for: float | None = None) -> T:
        tries = _Tries(call, self._retry_for if retry_for is None else retry_for, self._http.base_url)
        while True:
            try:
                answer = await self._http.request(**self._connection.request(call, _async_pieces))
            except httpx.RequestError as error:
                pause: float | None = tries.pause_after(error)
            else:
                pause = tries.pause_after_answer(answer)
            if pause is None:
                return _value_of(call, answer)
            await asyncio.sleep(pause)


def _value_of(call: _Call[T], answer: httpx.Response) -> T:
    try:
        return call.read(_document_in(answer))
    except (TypeError, KeyError, ValueError) as error:
        raise _no_service(answer) from error


def _result_of(job: Job) -> dict[str, Any]:
    if job.status != "completed":
        raise JobFailed(job)
    return job.result or {}


def _list_options(include: Sequence[str], oldest_first: bool, page_size: int) -> dict[str, object]:
    order = {"order": "created_at"} if oldest_first else {}
    return {**order, "include": list(include), "limit": page_size}


# Workers


@dataclass(frozen=True, kw_only=True)
class HeldJob(ClaimedJob):
    """A job as a handler in a thread holds it."""

    lost: threading.Event = field(repr=False)
    """Set when the run no longer counts: it was cancelled or given to others, or the worker leaves. Then return."""
    tell: Callable[[Mapping[str, Any]], None] = field(repr=False)

    def report(self, progress: Mapping[str, Any]) -> None:
        """Say how far the run is; also renews the lease. While the service is away, this does nothing.

        Raises:
            LeaseLost: the run no longer counts.
            BadRequest: the service does not take this, for one because it has more than 64 KiB.
        """
        self.tell(progress)


@dataclass(frozen=True, kw_only=True)
class AsyncHeldJob(ClaimedJob):
    """A job as a handler in a task holds it; the task is cancelled when the run no longer counts."""

    lost: asyncio.Event = field(repr=False)
    tell: Callable[[Mapping[str, Any]], Awaitable[None]] = field(repr=False)

    async def report(self, progress: Mapping[str, Any]) -> None:
        """Say how far the run is; also renews the lease. While the service is away, this does nothing.

        Raises:
            LeaseLost: the run no longer counts.
            BadRequest: the service does not take this, for one because it has more than 64 KiB.
        """
        await self.tell(progress)


@dataclass(frozen=True)
class _Terms:
    worker_id: str
    concurrency: int
    lease_timeout: float
    poll: float
    grace: float
    wanted: Wanted

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; expected 1 or more.")
        if not 0 < self.poll <= 30:
            raise ValueError(f"poll is {self.poll:g} s; expected more than 0 and at most 30.")


_Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
_Start = Callable[[ClaimedJob, _Tell], tuple["asyncio.Future[Any]", Callable[[], object]]]
"""Starts a handler; gives what it will come to, and what to do so that it stops."""

_LAST_CALL = 5.0
"""Seconds that a handler which must stop has, and the service to hear of it, when the worker leaves."""

_REFUSED_FOR_GOOD = (BadRequest, Unauthorized, Forbidden)
_GONE = (Conflict, NotFound)


def _start_as_task(
    handler: Callable[[AsyncHeldJob], Awaitable[Mapping[str, Any]]], job: ClaimedJob, tell: _Tell
) -> tuple[asyncio.Future[Any], Callable[[], object]]:
    held = AsyncHeldJob(**_fields_of(job), lost=asyncio.Event(), tell=tell)

    async def handle() -> Mapping[str, Any]:
        return await handler(held)

    task = asyncio.create_task(handle())

    def stop() -> None:
        held.lost.set()
        task.cancel()

    return task, stop


def _start_in_thread(
    handler: Callable[[HeldJob], Mapping[str, Any]], job: ClaimedJob, tell: _Tell
) -> tuple[asyncio.Future[Any], Callable[[], object]]:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def report(progress: Mapping[str, Any]) -> None:
        if not held.lost.is_set():
            telling = cast("Any", tell(progress))
            try:
                asyncio.run_coroutine_threadsafe(telling, loop).result()
            except RuntimeError:  # the worker has left, and its loop with it
                telling.close()
                held.lost.set()
        if held.lost.is_set():
            raise _lost(job)

    def settle(result: Any, error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_exception(error) if error else outcome.set_result(result)

    def handle() -> None:
        result, error = None, None
        try:
            result = handler(held)
        except BaseException as raised:  # whatever it is, the worker decides
            error = raised if isinstance(raised, Exception) else RuntimeError(type(raised).__name__)
        with suppress(RuntimeError):  # the worker has left
            loop.call_soon_threadsafe(settle, result, error)

    held = HeldJob(**_fields_of(job), lost=threading.Event(), tell=report)
    # A daemon: a handler that does not stop must not keep the process from ending.
    threading.Thread(target=handle, name=f"job {job.id}", daemon=True).start()
    return outcome, held.lost.set


def _fields_of(job: ClaimedJob) -> dict[str, Any]:
    return {each.name: getattr(job, each.name) for each in fields(job)}


def _lost(job: ClaimedJob) -> LeaseLost:
    return LeaseLost(f"The lease of job {job.id} is lost: stop its run.", status=409)


async def _relay(stop: threading.Event, stopping: asyncio.Event) -> None:
    while not stop.is_set():  # noqa: ASYNC110  # a thread's event
        await asyncio.sleep(0.1)
    stopping.set()


class _Worker:
    """Claims jobs, runs a handler on each, keeps the leases meanwhile, and tells the service how the runs ended."""

    def __init__(self, client: AsyncClient, start: _Start, terms: _Terms) -> None:
        self._client = client
        self._start = start
        self._terms = terms
        self._running: set[asyncio.Task[None]] = set()
        self._leaving = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        try:
            await self._claim_until(stop)
            if self._running:
                await asyncio.wait(self._running, timeout=self._terms.grace)
        finally:
            self._leaving.set()
            if self._running:
                await asyncio.wait(self._running)

    async def _claim_until(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            free = self._terms.concurrency - len(self._running)
            if not free:
                await _first_of(stop.wait(), *self._running)
                continue
            try:
                claimed = await self._claim(free)
            except _REFUSED_FOR_GOOD:
                raise
            except ServiceError as error:
                logger.warning("AI Service gives no jobs, trying again: %s", error)
                await _first_of(stop.wait(), asyncio.sleep(max(error.retry_after or 0.0, _pause(failures))))
                failures += 1
                continue
            failures = 0
            await self._take(claimed, stop)

    async def _claim(self, free: int) -> Sequence[ClaimedJob]:
        terms = self._terms
        call = _claim(terms.worker_id, min(free, 100), terms.lease_timeout, terms.poll, terms.wanted)
        claiming = asyncio.ensure_future(self._client._send(call, retry_for=0))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # What it takes would be held until its lease runs out, and count as an attempt.
            with suppress(ServiceError):
                await self._give_back(await claiming)
            raise

    async def _take(self, claimed: Sequence[ClaimedJob], stop: asyncio.Event) -> None:
        if stop.is_set():
            await self._give_back(claimed)
            return
        for job in claimed:
            task = asyncio.create_task(self._run(job))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _give_back(self, claimed: Sequence[ClaimedJob]) -> None:
        for job in claimed:
            with suppress(ServiceError):
                await self._client._send(_release(job.id, job.lease_token), retry_for=_LAST_CALL)

    async def _run(self, job: ClaimedJob) -> None:
        lost = asyncio.Event()

        async def tell(progress: Mapping[str, Any]) -> None:
            await self._beat(job, progress, lost)
            if lost.is_set():
                raise _lost(job)

        handling, stop = self._start(job, tell)
        keeping = asyncio.create_task(self._keep(job, lost))
        try:
            await self._until_over(handling, stop, lost)
            await self._settle(job, handling, lost)
        except ServiceError as error:
            logger.error("AI Service does not take how job %s ended: %s", job.id, error)
        finally:
            keeping.cancel()

    async def _until_over(self, handling: asyncio.Future[Any], stop: Callable[[], object], lost: asyncio.Event) -> None:
        """Return when the handler has, which must stop when the run is lost or the worker leaves."""
        await _first_of(handling, lost.wait(), self._leaving.wait())
        if not handling.done():
            stop()
            await _first_of(handling, self._leaving.wait())
        if not handling.done():
            await asyncio.wait([handling], timeout=_LAST_CALL)
        if handling.done() and not handling.cancelled():
            handling.exception()  # seen, or asyncio would complain of it

    async def _keep(self, job: ClaimedJob, lost: asyncio.Event) -> None:
        third = self._terms.lease_timeout / 3
        pause = third
        while not lost.is_set():
            await asyncio.sleep(pause)
            pause = third if await self._beat(job, None, lost) else min(1.0, third)

    async def _beat(self, job: ClaimedJob, progress: Mapping[str, Any] | None, lost: asyncio.Event) -> bool:
        """Renew the lease. A service that is away does not end the run: only its word does."""
        patience = self._terms.lease_timeout / 3
        call = _heartbeat(job.id, job.lease_token, progress)
        try:
            await self._client._send(call, retry_for=patience if progress is None else min(patience, _LAST_CALL))
        except _GONE:
            lost.set()
        except ServiceError as error:
            if progress is not None and isinstance(error, BadRequest):
                raise
            logger.warning("The lease of job %s could not be renewed: %s", job.id, error)
            return False
        return True

    async def _settle(self, job: ClaimedJob, handling: asyncio.Future[Any], lost: asyncio.Event) -> None:
        if lost.is_set():
            logger.warning("The lease of job %s was lost; its run ended without effect", job.id)
        elif self._leaving.is_set() and _stopped(handling):
            await self._tell(job, _release(job.id, job.lease_token))
        else:
            await self._tell_outcome(job, handling)

    async def _tell_outcome(self, job: ClaimedJob, handling: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if handling.cancelled() else handling.exception()
        if isinstance(error, Failed):
            await self._fail(job, error.error_code, error.message, error.retry_after)
        elif error is not None:
            logger.error("The handler of job %s raised", job.id, exc_info=error)
            await self._fail(job, "internal_error", f"The worker's handler raised {type(error).__name__}.")
        else:
            await self._complete(job, handling.result())

    async def _complete(self, job: ClaimedJob, result: object) -> None:
        if not isinstance(result, Mapping):
            await self._fail(
                job, "internal_error", f"The worker's handler returned {type(result).__name__}, no object."
            )
            return
        try:
            call = _complete(job.id, job.lease_token, result)
        except (TypeError, ValueError):
            await self._fail(job, "internal_error", "The worker's handler returned what cannot be written as JSON.")
            return
        try:
            await self._tell(job, call)
        except BadRequest as error:
            await self._fail(job, "bad_response", f"The service does not take the result: {error}")

    async def _fail(self, job: ClaimedJob, error_code: str, message: str, retry_after: float | None = None) -> None:
        try:
            await self._tell(job, _fail(job.id, job.lease_token, error_code, message, retry_after))
        except BadRequest as error:
            told = f"The worker failed with {error_code!r}, which the service refuses: {error}"
            await self._tell(job, _fail(job.id, job.lease_token, "internal_error", told, None))

    async def _tell(self, job: ClaimedJob, call: _Call[Job]) -> None:
        """Tell how the run ended, for as long as it takes: the lease is kept meanwhile, and nothing is lost."""
        tries = 0
        while True:
            try:
                await self._client._send(call, retry_for=_LAST_CALL)
            except _GONE as error:
                logger.warning("The lease of job %s was lost before its end was told: %s", job.id, error)
                return
            except _REFUSED_FOR_GOOD:
                raise
            except ServiceError as error:
                if self._leaving.is_set():
                    raise
                logger.warning("How job %s ended is not told yet: %s", job.id, error)
                await _first_of(self._leaving.wait(), asyncio.sleep(_pause(tries)))
                tries += 1
            else:
                return


def _stopped(handling: asyncio.Future[Any]) -> bool:
    """Whether the handler ended, if at all, because it was told to."""
    return not handling.done() or handling.cancelled() or isinstance(handling.exception(), LeaseLost)


async def _first_of(*waiting: Awaitable[object]) -> None:
    """Return when one of them is over. Futures go on; coroutines, which are this call's own, do not."""
    futures = [asyncio.ensure_future(each) for each in waiting]
    own = [future for future, given in zip(futures, waiting, strict=True) if future is not given]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in own:
            future.cancel()
        await asyncio.gather(*own, return_exceptions=True)


for _name, _method in vars(Client).items():
    if callable(_method) and (_twin := vars(AsyncClient).get(_name)) and not _twin.__doc__:
        _twin.__doc__ = _method.__doc__
