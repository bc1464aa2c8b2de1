"""Cancelling and retrying from the command line: some jobs by their ids, or all that match, once that was confirmed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from msgspec import Struct
from rich.prompt import Confirm

from app.client import Client, Conflict, Job, NotFound, Steered
from app.commands import output
from domain.errors import ServiceError


class Verb(Struct, frozen=True):
    """What is done to jobs, in the forms that its messages need."""

    name: str
    done: str
    one: Callable[[Client, str], Job]
    all: Callable[..., Steered]


CANCEL = Verb("Cancel", "cancelled", Client.cancel, Client.cancel_all)
RETRY = Verb("Retry", "retried", Client.retry, Client.retry_all)


def steer_each(client: Client, verb: Verb, job_ids: Sequence[str], *, machine: bool) -> None:
    """Do it to each of these jobs.

    Raises:
        ServiceError: some of them are unchanged; the others are done all the same.
    """
    refused = 0
    for job_id in job_ids:
        try:
            job = verb.one(client, job_id)
        except (NotFound, Conflict) as error:
            output.remark(f"{job_id}: {error}")
            refused += 1
        else:
            output.as_json(job.raw) if machine else typer.echo(f"{job.id} {job.status}")
    if refused:
        raise ServiceError(f"{refused} of {len(job_ids)} jobs could not be {verb.done}.")


def steer_all(
    client: Client,
    verb: Verb,
    which: Mapping[str, Any],
    *,
    dry_run: bool,
    yes: bool,
    machine: bool,
) -> None:
    """Do it to all that match, after a look at how many these are."""
    if dry_run or not yes:
        found = verb.all(client, **which, dry_run=True)
        if dry_run and not machine:
            typer.echo(f"{_jobs(found.matched)} would be {verb.done}.")
            return
        if dry_run or not found.matched:
            _tell(verb, found, machine=machine)
            return
        confirm(f"{verb.name} {_jobs(found.matched)}?")
    _tell(verb, verb.all(client, **which), machine=machine)


def confirm(question: str) -> None:
    """Go on where the person before the terminal agrees.

    Raises:
        ServiceError: nobody is there to be asked.
    """
    try:
        # Not typer's own, which lets a space slip onto stdout.
        agreed = Confirm.ask(question, console=output.remarks(), default=False)
    except EOFError:
        raise ServiceError(f"{question} Nobody is there to answer: --yes does it without asking.") from None
    if not agreed:
        raise typer.Exit(1)


def _tell(verb: Verb, steered: Steered, *, machine: bool) -> None:
    if machine:
        output.as_json(steered.raw)
    else:
        typer.echo(f"{steered.changed:,} of {_jobs(steered.matched)} {verb.done}.")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"
