"""Jobs as a user writes them down: one document, or many as JSON lines, from a file or a pipe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from msgspec import Struct

from app import client
from app.client import BadRequest, Batch, BatchJob, Client, chunks
from domain.errors import ServiceError

STDIN = "-"
JOBS_PER_CALL = 1_000


class Written(Struct, frozen=True):
    """A job as it was written down, and where."""

    line: int
    job: dict[str, Any]


@contextmanager
def opened(name: str | None) -> Iterator[TextIO | None]:
    """The file, standard input, or nothing.

    Raises:
        ServiceError: it cannot be read.
    """
    if name is None:
        yield None
        return
    if name == STDIN:
        sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # of Python's own it always can
        yield sys.stdin
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(name).open(encoding="utf-8-sig"))
        except OSError as error:
            raise ServiceError(f"{name} cannot be read: {error.strerror}.") from error
        yield file


def read_jobs(text: TextIO) -> Iterator[Written]:
    """The jobs in one JSON document (a job or a list of them), or in JSON lines, which are read as they come.

    Raises:
        ServiceError: something is no JSON object; says in which line.
    """
    lines = ((number, line) for number, line in enumerate(_decoded(text), 1) if line.strip())
    first = list(islice(lines, 1))
    if not first:
        raise ServiceError("There is nothing to submit: the input is empty.")
    if _is_whole(first[0][1]):
        yield from (_written(number, _parsed(line, number)) for number, line in chain(first, lines))
        return
    document = _parsed("".join(line for _, line in chain(first, lines)), None)
    for number, job in enumerate(document if isinstance(document, list) else [document], 1):
        yield _written(number, job)


def parse_input(given: str) -> dict[str, Any]:
    """The input of a job.

    Raises:
        ServiceError: it is no JSON object.
    """
    document = _parsed(given, None)
    if not isinstance(document, dict):
        raise ServiceError("The input must be a JSON object.")
    return document


def with_options(job: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A job with what was said on the command line, which wins; labels add up."""
    labels = {"labels": {**(job.get("labels") or {}), **options["labels"]}} if options.get("labels") else {}
    return {**job, **options, **labels}


def _decoded(text: TextIO) -> Iterator[str]:
    try:
        yield from text
    except UnicodeDecodeError as error:
        raise ServiceError("The input is not UTF-8.") from error


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parsed(text: str, line: int | None) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        where = f"Line {line}" if line else "The input"
        raise ServiceError(f"{where} is not JSON: {error}") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number there")


def _written(line: int, job: Any) -> Written:
    if not isinstance(job, dict):
        raise ServiceError(f"Job {line} is not a JSON object.")
    return Written(line, job)


@dataclass
class Sender:
    """Sends jobs in batches, each all or nothing, and knows which lines were in which.

    Args:
        key: makes the whole repeatable: the nth line's job gets `key/n`, unless it has a key of its own.
    """

    client: Client
    key: str | None = None
    lines: list[int] = field(default_factory=list)
    """Of the jobs so far, in their order."""
    stored: int = 0
    """How many of them are safe."""

    def batches(self, written: Iterable[Written]) -> Iterator[Batch]:
        """Send them all, chunk by chunk.

        Raises:
            ServiceError: a job is refused; names its line, and says what is stored already.
        """
        for some in chunks(self._numbered(written), jobs_per_call=JOBS_PER_CALL):
            try:
                batch = self.client.submit_many(some)
            except BadRequest as error:
                raise ServiceError(f"{self._located(error).rstrip('.')}. {self._advice()}") from error
            except client.ServiceError as error:
                raise ServiceError(f"{error} {self._advice()}") from error
            yield batch
            self.stored += len(some)

    def line_of(self, index: int) -> int:
        """The line of the job at this place of the batch that was sent last."""
        return self.lines[self.stored + index]

    def _numbered(self, written: Iterable[Written]) -> Iterator[BatchJob]:
        for each in written:
            self.lines.append(each.line)
            key = {"idempotency_key": f"{self.key}/{each.line}"} if self.key else {}
            yield cast("BatchJob", {**key, **each.job})

    def _located(self, error: BadRequest) -> str:
        located = [
            f"Line {self.line_of(int(found[1]))}: {found[2] or '/'}: {problem.get('detail')}"
            for problem in error.errors
            if (found := re.fullmatch(r"/jobs/(\d+)(/.*)?", problem.get("pointer", "")))
        ]
        return "; ".join(located[:3]) or str(error)

    def _advice(self) -> str:
        if not self.stored:
            return "Nothing was stored."
        again = "send all of it again with the same --key" if self.key else "send only the rest again"
        return f"Lines up to {self.lines[self.stored - 1]} are stored: {again}."
