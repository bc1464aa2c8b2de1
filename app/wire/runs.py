"""The history of a job's runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

from app.wire.fields import Moment
from domain.errors import ErrorCode
from domain.job import RunOutcome, RunRecord
from domain.results import ProviderAttempt


class RunView(Struct, kw_only=True, frozen=True):
    """One start of a job."""

    started_at: Moment
    ended_at: Annotated[Moment | None, Meta(description="Null while it goes on.")]
    worker_id: str
    outcome: Annotated[RunOutcome | None, Meta(description="How it ended; null while it goes on.")]
    error_code: ErrorCode | None
    error_message: str | None
    attempts: Annotated[
        tuple[ProviderAttempt, ...],
        Meta(description="The calls of providers that it made, where there was more than one, in their order."),
    ]

    @classmethod
    def of(cls, run: RunRecord) -> RunView:
        return cls(
            started_at=run.started_at,
            ended_at=run.ended_at,
            worker_id=run.worker_id,
            outcome=run.outcome,
            error_code=run.failure.code if run.failure else None,
            error_message=run.failure.message if run.failure else None,
            attempts=run.attempts,
        )


class RunList(Struct, frozen=True):
    """A job's runs, oldest first; the one that goes on is the last."""

    runs: list[RunView]

    @classmethod
    def of(cls, runs: Iterable[RunRecord]) -> RunList:
        return cls([RunView.of(run) for run in runs])
