"""Options that several commands share: what names a job, what filters jobs, what says how to show them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, cast, get_type_hints

import typer

from app.client import Filters
from app.durations import duration
from domain.errors import ErrorCode
from domain.job import JobStatus


class PriorityName(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


Json = Annotated[bool, typer.Option("--json", help="JSON for programs: one document a line, nothing else on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only ids, one a line.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many jobs match.")]
Everything = Annotated[bool, typer.Option("--all", help="Allow to leave out every filter.")]
JobIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Jobs by their ids.", show_default=False)]


def moment(given: str, *, ahead: bool) -> datetime:
    """A time as RFC 3339 (without a zone: here), or a duration from now.

    Raises:
        BadParameter: it is neither.
    """
    now = datetime.now().astimezone()
    try:
        return now + duration(given) if ahead else now - duration(given)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{given!r} is no time: give one like 2026-03-01T12:00:00Z, or 90s, 2h, 7d.") from None


def labels_of(given: list[str] | None) -> dict[str, list[str]]:
    """`NAME=VALUE` pairs by their names.

    Raises:
        BadParameter: a pair has no `=`.
    """
    labels: dict[str, list[str]] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no label: give NAME=VALUE.", param_hint="--label")
        labels.setdefault(name, []).append(value)
    return labels


def _filter_options(
    *,
    owner: Annotated[list[str] | None, typer.Option("--owner", help="Of this owner_service.")] = None,
    owner_ref: Annotated[list[str] | None, typer.Option("--owner-ref", help="About this object of its owner.")] = None,
    task_type: Annotated[list[str] | None, typer.Option("--task-type", help="Of this task type.")] = None,
    profile: Annotated[list[str] | None, typer.Option("--profile", help="Of this model profile.")] = None,
    queue: Annotated[list[str] | None, typer.Option("--queue", "-Q", help="In this queue.")] = None,
    status: Annotated[
        list[JobStatus] | None, typer.Option("--status", "-s", metavar="STATE", help="In this state.")
    ] = None,
    error_code: Annotated[
        list[ErrorCode] | None, typer.Option("--error-code", metavar="CODE", help="With this last error.")
    ] = None,
    priority: Annotated[list[PriorityName] | None, typer.Option("--priority", help="Of this priority.")] = None,
    batch: Annotated[list[str] | None, typer.Option("--batch", help="Of this batch.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="With this label, NAME=VALUE.")] = None,
    created_after: Annotated[
        str | None, typer.Option("--created-after", metavar="TIME", help="Since this time, or this long ago (2h).")
    ] = None,
    created_before: Annotated[
        str | None, typer.Option("--created-before", metavar="TIME", help="Before this time, or longer ago than this.")
    ] = None,
) -> Filters:
    given: dict[str, Any] = {
        "owner_service": owner,
        "owner_ref": owner_ref,
        "task_type": task_type,
        "model_profile": profile,
        "queue": queue,
        "status": status,
        "error_code": error_code,
        "priority": priority,
        "batch_id": batch,
        "labels": labels_of(label),
        "created_after": created_after and moment(created_after, ahead=False),
        "created_before": created_before and moment(created_before, ahead=False),
    }
    return cast("Filters", {name: value for name, value in given.items() if value})


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the filters as options; it gets what was given as `filters`. Each option may be repeated."""
    own = inspect.signature(command).parameters
    options = inspect.signature(_filter_options).parameters
    hints = get_type_hints(command, include_extras=True) | get_type_hints(_filter_options, include_extras=True)

    def run(**given: Any) -> None:
        filters = _filter_options(**{name: given.pop(name) for name in options})
        command(**given, filters=filters)

    run.__doc__, run.__name__ = command.__doc__, command.__name__
    kept = [parameter for name, parameter in own.items() if name != "filters"]
    run.__annotations__ = {name: hints[name] for name in (*(each.name for each in kept), *options)}
    shown = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name])
        for each in (*kept, *options.values())
    ]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # any function may carry one
    return run
