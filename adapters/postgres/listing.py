"""The statements that are put together at run time: lists and counts of jobs by any of their filters.

A list is read in the order of an index and ends at its limit, whatever the number of jobs. So it is ordered by the
columns of the table that its filter is on: `created_at` and `seq` are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    LargeBinary,
    Select,
    SmallInteger,
    Text,
    Uuid,
    any_,
    bindparam,
    column,
    func,
    literal_column,
    null,
    select,
    table,
    tuple_,
)
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.expression import FromClause, TableClause
from sqlalchemy.types import TypeEngine

from domain.ports import JobFilter, Listing, Place

_DIALECT = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so


def _table(name: str, *columns: str) -> TableClause:
    return table(name, *(column(each, TYPES[each]) for each in columns))


TYPES: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "job_id": Uuid(),
    "batch_id": Uuid(),
    "created_at": DateTime(timezone=True),
    "seq": BigInteger(),
    "priority": SmallInteger(),
    "input": LargeBinary(),
    "result": LargeBinary(),
    "progress": LargeBinary(),
    **dict.fromkeys(
        ("status", "error_code", "owner_service", "owner_ref", "task_type", "model_profile", "queue", "labels"), Text()
    ),
    **dict.fromkeys(("name", "value"), Text()),
}

_jobs = _table("jobs", "id", "created_at", "seq", "status", "error_code")
_details = _table(
    "job_details",
    "job_id",
    "created_at",
    "seq",
    "owner_service",
    "owner_ref",
    "task_type",
    "model_profile",
    "queue",
    "priority",
    "batch_id",
    "labels",
)
_labels = _table("job_labels", "job_id", "created_at", "seq", "name", "value")
_inputs = _table("job_inputs", "job_id", "input")
_results = _table("job_results", "job_id", "result")
_progress = _table("job_progress", "job_id", "progress")

Statement = tuple[str, list[object]]


def listing(wanted: Listing) -> Statement:
    """The statement and its arguments: matching jobs in the order of their creation."""
    source, driver, conditions = _matching(wanted.where)
    payload: list[ColumnElement[Any]] = [
        _inputs.c.input if wanted.with_input else null().label("input"),
        _results.c.result if wanted.with_result else null().label("result"),
    ]
    if wanted.with_input:
        source = source.join(_inputs, _inputs.c.job_id == _jobs.c.id)
    if wanted.with_result:
        source = source.outerjoin(_results, _results.c.job_id == _jobs.c.id)
    source = source.outerjoin(_progress, _progress.c.job_id == _jobs.c.id)
    place = (driver.c.created_at, driver.c.seq)
    statement = (
        select(
            literal_column("jobs.*"),
            _details.c.owner_ref,
            _details.c.labels,
            _details.c.batch_id,
            _progress.c.progress,
            *payload,
        )
        .select_from(source)
        .where(*conditions)
        .order_by(*(each.desc() if wanted.newest_first else each.asc() for each in place))
        .limit(wanted.limit)
    )
    if wanted.after is not None:
        statement = statement.where(_beyond(place, wanted.after, newest_first=wanted.newest_first))
    return _compiled(statement)


def counting(where: JobFilter) -> Statement:
    """The statement and its arguments: how many jobs match."""
    source, _, conditions = _matching(where)
    return _compiled(select(func.count().label("jobs")).select_from(source).where(*conditions))


def _matching(where: JobFilter) -> tuple[Any, FromClause, list[ColumnElement[bool]]]:
    """Where to read, which table gives the order, and what must hold."""
    details, states = _on_details(where), _on_jobs(where)
    source: Any = _details.join(_jobs, _jobs.c.id == _details.c.job_id)
    driver: FromClause = _jobs if states and not details else _details
    labels: list[ColumnElement[bool]] = []
    for place, (name, values) in enumerate(where.labels):
        label = _labels.alias(f"label_{place}")
        source = source.join(label, label.c.job_id == _details.c.job_id)
        labels += [label.c.name == bindparam(None, name, type_=Text), _is_any(label.c.value, values)]
        if place:  # a point of its index, not a list of all that bear it
            labels += [label.c.created_at == _details.c.created_at, label.c.seq == _details.c.seq]
        else:
            driver = label
    created: list[ColumnElement[bool]] = []
    if where.created_from is not None:
        created.append(driver.c.created_at >= _moment(where.created_from))
    if where.created_before is not None:
        created.append(driver.c.created_at < _moment(where.created_before))
    return source, driver, [*details, *states, *labels, *created]


def _on_details(where: JobFilter) -> list[ColumnElement[bool]]:
    wanted: list[tuple[ColumnElement[Any], Sequence[object]]] = [
        (_details.c.job_id, where.ids),
        (_details.c.owner_service, where.owner_service),
        (_details.c.owner_ref, where.owner_ref),
        (_details.c.task_type, where.task_type),
        (_details.c.model_profile, where.model_profile),
        (_details.c.queue, where.queue),
        (_details.c.priority, where.priority),
        (_details.c.batch_id, where.batch_id),
    ]
    return [_is_any(field, values) for field, values in wanted if values]


def _on_jobs(where: JobFilter) -> list[ColumnElement[bool]]:
    wanted: list[tuple[ColumnElement[Any], Sequence[object]]] = [
        (_jobs.c.status, where.status),
        (_jobs.c.error_code, where.error_code),
    ]
    return [_is_any(field, values) for field, values in wanted if values]


def _is_any(field: ColumnElement[Any], values: Sequence[object]) -> ColumnElement[bool]:
    # One value as an equation: only then does an index that begins with it also give the order.
    if len(values) == 1:
        return field == bindparam(None, values[0], type_=field.type)
    return field == any_(bindparam(None, list(values), type_=ARRAY(field.type)))


def _beyond(place: tuple[Any, Any], after: Place, *, newest_first: bool) -> ColumnElement[bool]:
    here = tuple_(_moment(after.created_at), bindparam(None, after.seq, type_=BigInteger))
    return tuple_(*place) < here if newest_first else tuple_(*place) > here


def _moment(at: object) -> ColumnElement[Any]:
    return bindparam(None, at, type_=DateTime(timezone=True))


def _compiled(statement: Select[Any]) -> Statement:
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), [compiled.params[name] for name in compiled.positiontup or ()]
