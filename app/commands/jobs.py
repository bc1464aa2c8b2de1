"""`ai-service jobs …`: what a caller does from a terminal or a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.client import Batch, Client, Filters, Job, NewJob
from app.commands import output, watching
from app.commands.connection import SOMETHING_FAILED, async_service, one_line, service
from app.commands.options import (
    DryRun,
    Everything,
    JobIds,
    Json,
    PriorityName,
    Quiet,
    Yes,
    filtered,
    labels_of,
    moment,
)
from app.commands.output import Form
from app.commands.steering import CANCEL, RETRY, Verb, steer_all, steer_each
from app.commands.submission import Sender, Written, opened, parse_input, read_jobs, with_options
from domain.errors import ServiceError

cli = typer.Typer(
    name="jobs",
    help="Submit jobs, look at them, follow them, steer them. AI_SERVICE_URL says where, AI_SERVICE_TOKEN who.",
    no_args_is_help=True,
    add_completion=False,
)

Wait = Annotated[bool, typer.Option("--wait", help="Until it is final; exit code 3 where it has not completed then.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most. Default: for ever.")]


@cli.command(
    "submit",
    epilog="Example: ai-service jobs submit --owner me --task-type llm_chat --profile practice "
    """--input '{"user": "Hello!"}' --wait""",
)
def submit_command(
    *,
    owner: Annotated[str | None, typer.Option("--owner", help="The owner_service; a token may have its own.")] = None,
    owner_ref: Annotated[str | None, typer.Option("--owner-ref", help="Your own name for what it is about.")] = None,
    task_type: Annotated[str | None, typer.Option("--task-type", help="What kind of work.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="The model_profile: which model does it.")] = None,
    input_: Annotated[str | None, typer.Option("--input", metavar="JSON", help="Its input, a JSON object.")] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Whole jobs: a JSON document, or JSON lines, sent in batches; - is stdin."),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option("--audio", metavar="FILE", help="A recording: uploaded, and named in the input as `upload_id`."),
    ] = None,
    priority: Annotated[PriorityName | None, typer.Option("--priority", help="Higher ones start first.")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", help="Failed runs until it fails.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE; may be repeated.")] = None,
    run_at: Annotated[
        str | None, typer.Option("--run-at", metavar="TIME", help="Not started before this time, or for so long (10m).")
    ] = None,
    deadline_at: Annotated[
        str | None, typer.Option("--deadline-at", metavar="TIME", help="Cancelled where not started by then (2h).")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: with it, sending again is safe. Of many, line n gets KEY/n."),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    machine: Json = False,
    quiet: Quiet = False,
) -> None:
    """Submit a job, or many from JSON lines. What is said here wins over what a file says."""
    said = {
        "owner_service": owner,
        "owner_ref": owner_ref,
        "task_type": task_type,
        "model_profile": profile,
        "priority": priority,
        "max_attempts": max_attempts,
        "labels": {name: values[-1] for name, values in labels_of(label).items()},
        "run_at": run_at and moment(run_at, ahead=True),
        "deadline_at": deadline_at and moment(deadline_at, ahead=True),
    }
    options = {name: value for name, value in said.items() if value not in (None, {})}
    if (input_ is None and audio is None) == (file is None):
        raise typer.BadParameter("give either --input or --audio (or both), for one job, or --file.")
    form = Form.of(json=machine, quiet=quiet)
    with opened(file) as text, service() as client:
        written = read_jobs(text) if text else iter([Written(1, {"input": _input(client, input_, audio, owner)})])
        ready = (Written(each.line, with_options(each.job, options)) for each in written)
        first = list(islice(ready, 2))
        if len(first) == 1:
            job = _submit_one(client, first[0].job, key)
            _ended(client.wait(job.id, timeout), form) if wait else output.tell(job, form)
            return
        job_ids = _submit_many(Sender(client, key), chain(first, ready), None if wait else form)
        if wait:
            _all_ended(_waited(client, job_ids, timeout), form)


def _input(client: Client, given: str | None, audio: Path | None, owner: str | None) -> dict[str, Any]:
    """The input of one job, with its recording uploaded."""
    parsed = parse_input(given) if given is not None else {}
    if audio is None:
        return parsed
    try:
        return parsed | {"upload_id": client.upload(audio, owner_service=owner).upload_id}
    except OSError as error:
        raise ServiceError(f"{audio} cannot be read: {error.strerror}.") from error


def _submit_one(client: Client, job: dict[str, Any], key: str | None) -> Job:
    return client.submit(**cast("NewJob", job | ({"idempotency_key": key} if key else {})))


def _submit_many(sender: Sender, written: Iterable[Written], form: Form | None) -> list[str]:
    """Send them, and say so where that is all that is wanted. Returns the jobs' ids."""
    job_ids: list[str] = []
    with _bar() as bar:
        task = bar.add_task("jobs submitted", total=None)
        for batch in sender.batches(written):
            job_ids += [job.id for job in batch.jobs]
            bar.update(task, completed=len(job_ids))
            if form:
                _tell_batch(sender, batch, form)
    return job_ids


def _tell_batch(sender: Sender, batch: Batch, form: Form) -> None:
    if form is Form.PEOPLE:
        typer.echo(f"batch {batch.batch_id}: {batch.created:,} created, {batch.existing:,} existing")
        return
    for job in batch.jobs:
        if form is Form.IDS:
            typer.echo(job.id)
        else:
            output.as_json({"line": sender.line_of(job.index), **job.raw, "batch_id": batch.batch_id})


def _waited(client: Client, job_ids: Sequence[str], timeout: float | None) -> Iterator[Job]:
    """The jobs, each once it is final."""
    until = None if timeout is None else time.monotonic() + timeout
    with _bar() as bar:
        for job_id in bar.track(job_ids, description="jobs finished"):
            yield client.wait(job_id, None if until is None else max(0.0, until - time.monotonic()))


def _bar() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = output.remarks()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@cli.command("get", epilog="Example: ai-service jobs get ID --wait --timeout 60 --json")
def get_command(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    wait: Wait = False,
    timeout: Timeout = None,
    machine: Json = False,
) -> None:
    """Show a job in full, with its input and result."""
    with service() as client:
        if wait:
            _ended(client.wait(job_id, timeout), Form.of(json=machine))
        else:
            output.tell(client.get(job_id), Form.of(json=machine))


@cli.command("list", epilog="Example: ai-service jobs list --status failed --created-after 24h --label shop=7")
@filtered
def list_command(
    *,
    filters: Filters,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Instead of newest first.")] = False,
    payloads: Annotated[bool, typer.Option("--payloads", help="With input and result; for --json.")] = False,
    machine: Json = False,
    quiet: Quiet = False,
) -> None:
    """List jobs, newest first. A filter may be repeated: any of its values."""
    with service() as client:
        wanted = client.list(
            **filters,
            include=("input", "result") if payloads else (),
            oldest_first=oldest_first,
            page_size=100 if everything else min(100, limit + 1),
        )
        shown = wanted if everything else islice(wanted, limit)
        output.tell_all(shown, Form.of(json=machine, quiet=quiet))
        if not everything and next(wanted, None):
            output.remark(f"There are more than these {limit}: --limit or --all shows them.")


@cli.command("watch", epilog="Example: ai-service jobs watch --owner me --status pending --status running")
@filtered
def watch_command(
    *,
    filters: Filters,
    job_ids: JobIds = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Without ids: how many at most.")] = 100,
    machine: Json = False,
) -> None:
    """Follow jobs to their ends: these, or those that match now (by default, pending and running ones).

    Exit code 3 where one of them failed or was cancelled.
    """
    with service() as client:
        if job_ids:
            followed = [client.get(job_id) for job_id in job_ids]
        else:
            unfinished: Filters = {"status": ["pending", "running"]}
            followed = list(islice(client.list(**(unfinished | filters)), limit))
    if not followed:
        output.remark("No job matches.")
        return
    try:
        ended = asyncio.run(_follow(followed, machine=machine))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    _exit_for(ended)


async def _follow(followed: Sequence[Job], *, machine: bool) -> list[Job]:
    ids = [job.id for job in followed]
    console = output.out()
    with one_line():
        async with async_service() as client:
            if machine or not console.is_terminal:
                show = watching.tell_as_json if machine else watching.tell_as_lines
                return await watching.follow(client, ids, show)
            with watching.Board(followed, console) as board:
                return await watching.follow(client, ids, board.tell)


@cli.command("retry", epilog="Example: ai-service jobs retry --status failed --error-code timeout --dry-run")
@filtered
def retry_command(
    *,
    filters: Filters,
    job_ids: JobIds = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    machine: Json = False,
) -> None:
    """Start jobs afresh: these, or all that match (without --status: failed and running ones)."""
    _steer(RETRY, filters, job_ids, everything=everything, dry_run=dry_run, yes=yes, machine=machine)


@cli.command("cancel", epilog="Example: ai-service jobs cancel --owner me --label shop=7 --yes")
@filtered
def cancel_command(
    *,
    filters: Filters,
    job_ids: JobIds = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    machine: Json = False,
) -> None:
    """Stop jobs for good: these, or all that match (without --status: pending and running ones)."""
    _steer(CANCEL, filters, job_ids, everything=everything, dry_run=dry_run, yes=yes, machine=machine)


def _steer(
    verb: Verb,
    filters: Filters,
    job_ids: list[str] | None,
    *,
    everything: bool,
    dry_run: bool,
    yes: bool,
    machine: bool,
) -> None:
    if not (job_ids or filters or everything):
        raise typer.BadParameter("say which jobs: ids, filters, or --all.")
    with service() as client:
        if job_ids and not filters and not dry_run:
            steer_each(client, verb, job_ids, machine=machine)
        else:
            which = filters | ({"ids": job_ids} if job_ids else {}) | ({"everything": True} if everything else {})
            steer_all(client, verb, which, dry_run=dry_run, yes=yes, machine=machine)


def _ended(job: Job, form: Form) -> None:
    output.tell(job, form)
    _exit_for([job])


def _all_ended(jobs: Iterable[Job], form: Form) -> None:
    seen: list[Job] = []
    output.tell_all(_kept(jobs, seen), form)
    _exit_for(seen)


def _kept(jobs: Iterable[Job], seen: list[Job]) -> Iterator[Job]:
    for job in jobs:
        seen.append(job)
        yield job


def _exit_for(ended: Iterable[Job]) -> None:
    if any(job.status != "completed" for job in ended):
        raise typer.Exit(SOMETHING_FAILED)
