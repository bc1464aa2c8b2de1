"""The one statement that is put together at run time: a list of jobs by any of its filters."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Text, any_, bindparam, column, literal_column, select, table
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from domain.ports import JobFilter

_DIALECT = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so

_jobs = table("jobs", column("id"), column("status", Text))
_details = table(
    "job_details",
    column("job_id"),
    column("seq", BigInteger),
    column("owner_ref"),
    column("created_at"),
    column("owner_service", Text),
    column("task_type", Text),
    column("model_profile", Text),
)


def listing(where: JobFilter, *, limit: int, before: int | None) -> tuple[str, list[object]]:
    """The statement and its arguments: matching jobs without input and result, newest first."""
    statement = (
        select(literal_column("jobs.*"), _details.c.owner_ref, _details.c.created_at)
        .select_from(_details.join(_jobs, _jobs.c.id == _details.c.job_id))
        .where(*_conditions(where))
        .order_by(_details.c.seq.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(_details.c.seq < before)
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), [compiled.params[name] for name in compiled.positiontup or ()]


def _conditions(where: JobFilter) -> list[ColumnElement[bool]]:
    wanted: list[tuple[ColumnElement[str], Sequence[str]]] = [
        (_details.c.owner_service, where.owner_service),
        (_details.c.task_type, where.task_type),
        (_details.c.model_profile, where.model_profile),
        (_jobs.c.status, where.status),
    ]
    return [
        field == any_(bindparam(None, list(values), type_=ARRAY(Text)))  # an array: one statement for any number
        for field, values in wanted
        if values
    ]
