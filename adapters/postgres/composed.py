"""The statements that are put together at run time: lists and counts of jobs by any of their filters.

A list is read in the order of an index and ends at its limit, whatever the number of jobs. So it is ordered by the
columns of the table that its filter is on: `created_at` and `seq` are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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
    union_all,
)
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

from domain.ports import JobFilter, Listing

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

MOST_PAGES = 50
"""Values of one filter that are each read apart; planning for more of them would take longer than it saves."""


def listing(wanted: Listing) -> Statement:
    """The statement and its arguments: matching jobs in the order of their creation."""
    found = _found(wanted).subquery("found")
    source: Any = found.join(_jobs, _jobs.c.id == found.c.job_id).join(_details, _details.c.job_id == found.c.job_id)
    payload: list[ColumnElement[Any]] = [null().label("input"), null().label("result")]
    if wanted.with_input:
        source = source.join(_inputs, _inputs.c.job_id == found.c.job_id)
        payload[0] = _inputs.c.input
    if wanted.with_result:
        source = source.outerjoin(_results, _results.c.job_id == found.c.job_id)
        payload[1] = _results.c.result
    source = source.outerjoin(_progress, _progress.c.job_id == found.c.job_id)
    statement = select(
        literal_column("jobs.*"),
        _details.c.owner_ref,
        _details.c.labels,
        _details.c.batch_id,
        _progress.c.progress,
        *payload,
    ).select_from(source)
    return _compiled(statement.order_by(*_order(found, wanted)))


def counting(where: JobFilter) -> Statement:
    """The statement and its arguments: how many jobs match."""
    source, _, conditions = _matching(where)
    return _compiled(select(func.count().label("jobs")).select_from(source).where(*conditions))


def _found(wanted: Listing) -> Select[Any]:
    """The ids and places of the jobs of this page."""
    spread = _only_filter(wanted.where)
    if spread is None:
        return _page(wanted, *_matching(wanted.where))
    # Each value in its own order and by a plan of its own, then merged: one index scan over all of them would have to
    # sort everything first, and what suits a common value looks for a rare one among all jobs.
    field, values, conditions = spread
    conditions = [*conditions, *_created(field.table, wanted.where)]
    of_each = [
        _page(wanted, field.table, field.table, [*conditions, _is_any(field, [value])]).subquery() for value in values
    ]
    found = union_all(*(select(each.c.job_id, each.c.created_at, each.c.seq) for each in of_each)).subquery("of_all")
    return select(found).order_by(*_order(found, wanted)).limit(wanted.limit)


def _page(wanted: Listing, source: Any, driver: Any, conditions: list[ColumnElement[bool]]) -> Select[Any]:
    job_id = driver.c.id if driver is _jobs else driver.c.job_id
    page = (
        select(job_id.label("job_id"), driver.c.created_at, driver.c.seq)
        .select_from(source)
        .where(*conditions)
        .order_by(*_order(driver, wanted))
        .limit(wanted.limit)
    )
    if wanted.after is None:
        return page
    here = tuple_(_moment(wanted.after.created_at), bindparam(None, wanted.after.seq, type_=BigInteger))
    place = tuple_(driver.c.created_at, driver.c.seq)
    return page.where(place < here if wanted.newest_first else place > here)


def _order(source: Any, wanted: Listing) -> list[Any]:
    place = (source.c.created_at, source.c.seq)
    return [each.desc() if wanted.newest_first else each.asc() for each in place]


def _only_filter(where: JobFilter) -> tuple[Any, list[object], list[ColumnElement[bool]]] | None:
    """The one field that is filtered by, where that is all and there are several values; with what else must hold."""
    asked = [
        *((field, values, ()) for field, values in (*_on_details(where), *_on_jobs(where)) if values),
        *((_labels.c.value, values, (_is_label(_labels, name),)) for name, values in where.labels),
    ]
    if len(asked) != 1:
        return None
    field, values, conditions = asked[0]
    distinct = list(dict.fromkeys(values))
    return (field, distinct, list(conditions)) if 1 < len(distinct) <= MOST_PAGES else None


def _is_label(labels: Any, name: str) -> ColumnElement[bool]:
    return cast("ColumnElement[bool]", labels.c.name == bindparam(None, name, type_=Text))


def _matching(where: JobFilter) -> tuple[Any, Any, list[ColumnElement[bool]]]:
    """Where to read, which table gives the order, and what must hold."""
    details = [_is_any(field, values) for field, values in _on_details(where) if values]
    states = [_is_any(field, values) for field, values in _on_jobs(where) if values]
    source: Any = _details.join(_jobs, _jobs.c.id == _details.c.job_id)
    driver: Any = _jobs if states and not details else _details
    labels: list[ColumnElement[bool]] = []
    for place, (name, values) in enumerate(where.labels):
        label = _labels.alias(f"label_{place}")
        source = source.join(label, label.c.job_id == _details.c.job_id)
        labels += [_is_label(label, name), _is_any(label.c.value, values)]
        if place:  # a point of its index, not a list of all that bear it
            labels += [label.c.created_at == _details.c.created_at, label.c.seq == _details.c.seq]
        else:
            driver = label
    return source, driver, [*details, *states, *labels, *_created(driver, where)]


def _created(driver: Any, where: JobFilter) -> list[ColumnElement[bool]]:
    created = []
    if where.created_from is not None:
        created.append(driver.c.created_at >= _moment(where.created_from))
    if where.created_before is not None:
        created.append(driver.c.created_at < _moment(where.created_before))
    return created


Field = tuple[ColumnElement[Any], Sequence[object]]


def _on_details(where: JobFilter) -> list[Field]:
    return [
        (_details.c.job_id, where.ids),
        (_details.c.owner_service, where.owner_service),
        (_details.c.owner_ref, where.owner_ref),
        (_details.c.task_type, where.task_type),
        (_details.c.model_profile, where.model_profile),
        (_details.c.queue, where.queue),
        (_details.c.priority, where.priority),
        (_details.c.batch_id, where.batch_id),
    ]


def _on_jobs(where: JobFilter) -> list[Field]:
    return [(_jobs.c.status, where.status), (_jobs.c.error_code, where.error_code)]


def _is_any(field: ColumnElement[Any], values: Sequence[object]) -> ColumnElement[bool]:
    # One value as an equation: only then does an index that begins with it also give the order.
    if len(values) == 1:
        return field == bindparam(None, values[0], type_=field.type)
    return field == any_(bindparam(None, list(values), type_=ARRAY(field.type)))


def _moment(at: object) -> ColumnElement[Any]:
    return bindparam(None, at, type_=DateTime(timezone=True))


def _compiled(statement: Select[Any]) -> Statement:
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), [compiled.params[name] for name in compiled.positiontup or ()]
