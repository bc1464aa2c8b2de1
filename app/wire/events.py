"""What happens to a job as Server-Sent Events.

Each has an id by which a stream is taken up again: `N` for the Nth change of the job's state, `N.K` for the Kth report
of progress in the run that began with it, `N.K.O` for the text of that run up to its Oth character, `N.done` for the
end that it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Self
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from app.wire.jobs import JobRow
from domain.errors import BadInput, ErrorCode, Problem
from domain.events import Progress, StatusChange
from domain.job import Job, JobId, JobStatus
from domain.usecases.browse import News

MEDIA_TYPE = "text/event-stream"

RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser that lost its stream comes back."""

KEEP_ALIVE = b": keep-alive\n\n"

_ID = re.compile(r"([1-9][0-9]{0,8})(?:\.(?:(done|[1-9][0-9]{0,8})|(0|[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})))?")
_DONE = 1_000_000_000
"""In place of a report's number: after all of them."""

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


class Mark(Struct, frozen=True, order=True):
    """An event's place in the order of what happens to its job."""

    number: int = 0
    report: int = 0
    """0: the change of state itself."""
    offset: int = 0
    """Where in the run's text; 0: nowhere."""

    @classmethod
    def read(cls, last_event_id: str | None) -> Self:
        """
        Raises:
            BadInput: it is no event's id.
        """
        if not last_event_id:
            return cls()
        match = _ID.fullmatch(last_event_id)
        if match is None:
            raise BadInput([Problem("/Last-Event-ID", "It is not the id of an event of this stream.")])
        number, report, report_before, offset = match.groups(default="0")
        if report == "done":
            return cls.end(int(number))
        return cls(int(number), int(report) or int(report_before), int(offset))

    @classmethod
    def end(cls, number: int) -> Self:
        return cls(number, _DONE)

    @property
    def id(self) -> str:
        if self.report == _DONE:
            return f"{self.number}.done"
        if self.offset:
            return f"{self.number}.{self.report}.{self.offset}"
        return f"{self.number}.{self.report}" if self.report else f"{self.number}"

    @property
    def last(self) -> bool:
        """Whether it ends the stream."""
        return self.report == _DONE


class Event(Struct, frozen=True):
    """One event, ready to be sent."""

    mark: Mark
    text: bytes


class StatusNews(Struct, kw_only=True, frozen=True):
    """A change of a job's state."""

    job_id: UUID
    status: JobStatus
    at: datetime
    error_code: ErrorCode | None
    error_message: str | None
    run_at: datetime | UnsetType = UNSET
    """Of a job that is pending now."""


class ProgressNews(Struct, kw_only=True, frozen=True):
    """What a run reported."""

    job_id: UUID
    progress: Raw
    at: datetime


class TokenNews(Struct, kw_only=True, frozen=True):
    """What a run answered; with offset 0 a text begins anew."""

    job_id: UUID
    offset: int
    """In characters: where in the run's text this stands."""
    text: str


def token(job_id: JobId, mark: Mark, offset: int, text: str) -> Event:
    """
    Args:
        mark: after this text.
    """
    return _event("token", mark, TokenNews(job_id=job_id, offset=offset, text=text))


def events_of(news: News, *told: Event) -> Iterator[Event]:
    """What is new, in its order, with these events among it; ends with `done` where the job is final."""
    reported = [] if news.progress is None else [_progress(news.job.id, news.progress)]
    changed = [_status(news.job, change) for change in news.changes]
    yield from sorted([*changed, *reported, *told], key=lambda each: each.mark)
    if news.job.status.final:
        yield _event("done", Mark.end(news.job.number), JobRow.of(news.job))


def _status(job: Job, change: StatusChange) -> Event:
    data = StatusNews(
        job_id=job.id,
        status=change.status,
        at=change.at,
        error_code=change.failure.code if change.failure else None,
        error_message=change.failure.message if change.failure else None,
        run_at=job.run_at if change.number == job.number and job.status is JobStatus.PENDING else UNSET,
    )
    return _event("status", Mark(change.number), data)


def _progress(job_id: JobId, progress: Progress) -> Event:
    data = ProgressNews(job_id=job_id, progress=progress.data, at=progress.at)
    return _event("progress", Mark(progress.number, progress.report), data)


def _event(name: str, mark: Mark, data: Struct) -> Event:
    # Line breaks can only stand between the tokens of what a worker reported: within strings JSON escapes them.
    line = msgspec.json.encode(data).translate(_ONE_LINE)
    return Event(mark, b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), mark.id.encode(), line))
