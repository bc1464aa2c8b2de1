"""Lists of jobs: which, in which order, how much of each."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from app.wire.cursor import decode_cursor, encode_cursor
from app.wire.fields import MOST_LABELS, PRIORITIES, LabelName, LabelValue, Moment, Name, OwnerRef, PriorityName, in_utc
from app.wire.jobs import JobRow
from app.wire.query import Parameters, decode_query, must_be_comparable, read_query
from domain.errors import BadInput, ErrorCode, Problem
from domain.job import JobStatus
from domain.ports import JobFilter, Listing
from domain.usecases.browse import Page

LABEL = "label."

_label_name = re.compile(get_args(LabelName)[1].pattern)
LONGEST_LABEL = get_args(LabelValue)[1].max_length
LABEL_PATTERN = _label_name.pattern.removesuffix(r"(?!\n)").replace("^", r"^label\.", 1)
"""Of the parameter that asks for a label."""


class JobsQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which jobs. Several values of one filter mean any of them."""

    owner_service: tuple[Name, ...] = ()
    owner_ref: tuple[OwnerRef, ...] = ()
    task_type: tuple[Name, ...] = ()
    model_profile: tuple[Name, ...] = ()
    queue: tuple[Name, ...] = ()
    status: tuple[JobStatus, ...] = ()
    error_code: tuple[ErrorCode, ...] = ()
    priority: tuple[PriorityName, ...] = ()
    batch_id: tuple[UUID, ...] = ()
    created_after: (
        Annotated[Moment, Meta(description="Created then or later (RFC 3339, a `+` written as `%2B`).")] | UnsetType
    ) = UNSET
    created_before: Annotated[Moment, Meta(description="Created earlier than this.")] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=500, description="How many at most.")] = 50
    cursor: (
        Annotated[str, Meta(description="`next_cursor` of the page before, with the same filters and order.")]
        | UnsetType
    ) = UNSET
    order: Annotated[
        Literal["-created_at", "created_at"], Meta(description="Newest first (`-created_at`), or oldest first.")
    ] = "-created_at"
    include: Annotated[
        tuple[Literal["input", "result"], ...], Meta(description="What else the rows shall have: `input,result`.")
    ] = ()


class JobsWanted(Struct, frozen=True):
    """A query, and the labels that stand beside it: their names are the caller's, so no struct has fields for them."""

    query: JobsQuery
    labels: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def read(cls, query_string: bytes) -> Self:
        given = read_query(query_string)
        labels = {name: given.pop(name) for name in sorted(given) if name.startswith(LABEL)}
        if "include" in given:
            given["include"] = [word for value in given["include"] for word in value.split(",")]
        return cls(decode_query(JobsQuery, given), _read_labels(labels))

    @property
    def where(self) -> JobFilter:
        query = self.query
        return JobFilter(
            owner_service=query.owner_service,
            owner_ref=query.owner_ref,
            task_type=query.task_type,
            model_profile=query.model_profile,
            queue=query.queue,
            status=query.status,
            error_code=query.error_code,
            priority=tuple(PRIORITIES[name] for name in query.priority),
            batch_id=query.batch_id,
            labels=self.labels,
            created_from=None if query.created_after is UNSET else in_utc(query.created_after, "/created_after"),
            created_before=None if query.created_before is UNSET else in_utc(query.created_before, "/created_before"),
        )

    @property
    def listing(self) -> Listing:
        query, where, newest_first = self.query, self.where, self.newest_first
        return Listing(
            where=where,
            limit=query.limit,
            after=None if query.cursor is UNSET else decode_cursor(query.cursor, where, newest_first=newest_first),
            newest_first=newest_first,
            with_input="input" in query.include,
            with_result="result" in query.include,
        )

    @property
    def newest_first(self) -> bool:
        return self.query.order == "-created_at"


class JobPage(Struct, frozen=True):
    """Some jobs, in the order that was asked for."""

    jobs: list[JobRow]
    next_cursor: Annotated[str | None, Meta(description="Send it as `cursor` for what follows; null at the end.")]

    @classmethod
    def of(cls, page: Page, listing: Listing) -> JobPage:
        shown: dict[str, Any] = {"with_input": listing.with_input, "with_result": listing.with_result}
        return cls([JobRow.of(job, **shown) for job in page.jobs], _cursor(page, listing))


def _cursor(page: Page, listing: Listing) -> str | None:
    if page.following is None:
        return None
    return encode_cursor(page.following, listing.where, newest_first=listing.newest_first)


def _read_labels(given: Parameters) -> tuple[tuple[str, tuple[str, ...]], ...]:
    problems = [Problem(f"/{name}", "No label has such a name.") for name in given if not _named(name)]
    problems += [
        Problem(f"/{name}", f"Expected `str` of length <= {LONGEST_LABEL}")
        for name, values in given.items()
        if any(len(value) > LONGEST_LABEL for value in values)
    ]
    if len(given) > MOST_LABELS:
        problems.append(Problem("", f"No job has more than {MOST_LABELS} labels."))
    if problems:
        raise BadInput(problems)
    must_be_comparable(given)
    return tuple((name.removeprefix(LABEL), tuple(values)) for name, values in given.items())


def _named(parameter: str) -> bool:
    return _label_name.search(parameter.removeprefix(LABEL)) is not None
