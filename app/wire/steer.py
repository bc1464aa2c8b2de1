"""Steering many jobs at once: which ones, and what came of it."""

from __future__ import annotations

from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.wire.body import decode
from app.wire.fields import (
    MOST_LABELS,
    NAME_PATTERN,
    PRIORITIES,
    LabelName,
    LabelValue,
    Moment,
    Name,
    OwnerRef,
    PriorityName,
    in_utc,
)
from domain.errors import BadInput, ErrorCode, Problem
from domain.job import JobId, JobStatus
from domain.ports import JobFilter
from domain.usecases.steer import Erased, Steered

T = TypeVar("T")

Several = Meta(min_length=1, max_length=100)

# The pattern of a single name is only described, and looked at by `_names`: a text with a pattern that stands beside a
# list makes msgspec free memory twice when the process ends (0.19 to 0.22 at least).
OneName = Annotated[str, Meta(extra_json_schema={"pattern": NAME_PATTERN})]


class JobsWhere(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which jobs: those that match every filter. A filter is one value, or a list of which any will do."""

    ids: Annotated[list[UUID], Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    owner_service: OneName | Annotated[list[Name], Several] | UnsetType = UNSET
    owner_ref: OwnerRef | Annotated[list[OwnerRef], Several] | UnsetType = UNSET
    task_type: OneName | Annotated[list[Name], Several] | UnsetType = UNSET
    model_profile: OneName | Annotated[list[Name], Several] | UnsetType = UNSET
    queue: OneName | Annotated[list[Name], Several] | UnsetType = UNSET
    status: JobStatus | Annotated[list[JobStatus], Several] | UnsetType = UNSET
    error_code: ErrorCode | Annotated[list[ErrorCode], Several] | UnsetType = UNSET
    priority: PriorityName | Annotated[list[PriorityName], Several] | UnsetType = UNSET
    batch_id: UUID | Annotated[list[UUID], Several] | UnsetType = UNSET
    labels: (
        Annotated[
            dict[LabelName, LabelValue | Annotated[list[LabelValue], Several]],
            Meta(min_length=1, max_length=MOST_LABELS, description="Each name must match."),
        ]
        | UnsetType
    ) = UNSET
    created_after: Annotated[Moment, Meta(description="Created then or later.")] | UnsetType = UNSET
    created_before: Annotated[Moment, Meta(description="Created earlier than this.")] | UnsetType = UNSET
    all: Annotated[bool, Meta(description="Must be true where no filter is given.")] = False
    dry_run: Annotated[bool, Meta(description="Only count.")] = False

    @classmethod
    def read(cls, body: bytes) -> JobsWhere:
        return decode(_where, body)

    @property
    def where(self) -> JobFilter:
        """
        Raises:
            BadInput: a name is none, or nothing is filtered by and nobody said that all are meant.
        """
        priorities: tuple[PriorityName, ...] = _several(self.priority)
        where = JobFilter(
            ids=() if self.ids is UNSET else tuple(JobId(job_id) for job_id in self.ids),
            owner_service=_names(self.owner_service, "/owner_service"),
            owner_ref=_several(self.owner_ref),
            task_type=_names(self.task_type, "/task_type"),
            model_profile=_names(self.model_profile, "/model_profile"),
            queue=_names(self.queue, "/queue"),
            status=_several(self.status),
            error_code=_several(self.error_code),
            priority=tuple(PRIORITIES[name] for name in priorities),
            batch_id=_several(self.batch_id),
            labels=() if self.labels is UNSET else tuple((name, _several(self.labels[name])) for name in self.labels),
            created_from=None if self.created_after is UNSET else in_utc(self.created_after, "/created_after"),
            created_before=None if self.created_before is UNSET else in_utc(self.created_before, "/created_before"),
        )
        if where == JobFilter() and not self.all:
            raise BadInput([Problem("", "No filter is given: send one, or `all: true` to mean every job.")])
        return where


class SteeredView(Struct, frozen=True):
    """What came of it."""

    matched: Annotated[int, Meta(description="Jobs that matched.")]
    changed: Annotated[int, Meta(description="Those of them that changed; 0 for a dry run.")]

    @classmethod
    def of(cls, steered: Steered) -> SteeredView:
        return cls(steered.matched, steered.changed)


class Erasure(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Whose jobs to erase, and of what."""

    owner_service: Annotated[Name, Meta(description="May be left out where the token has an owner.")] | UnsetType = (
        UNSET
    )
    owner_ref: Annotated[str, Meta(min_length=1, max_length=500, description="What the jobs are about.")]

    @classmethod
    def read(cls, body: bytes) -> Erasure:
        return decode(_erasure, body)

    @property
    def owner(self) -> str | None:
        return None if self.owner_service is UNSET else self.owner_service


class ErasedView(Struct, frozen=True):
    """What came of it."""

    erased: int
    unfinished: Annotated[int, Meta(description="Jobs that stay because they are pending or running.")]

    @classmethod
    def of(cls, erased: Erased) -> ErasedView:
        return cls(erased.erased, erased.unfinished)


_where = msgspec.json.Decoder(JobsWhere)
_erasure = msgspec.json.Decoder(Erasure)


def _several(value: T | list[T] | UnsetType) -> tuple[T, ...]:
    if value is UNSET:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _names(value: str | list[Name] | UnsetType, pointer: str) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            msgspec.convert(value, Name)
        except msgspec.ValidationError as error:
            raise BadInput([Problem.of(error).below(pointer)]) from None
    return _several(value)
