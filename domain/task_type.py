"""A task type that an installation brings itself: what its input is, where its jobs wait, and what runs them.

Plug-ins are written against what stands here; `app/extend.py` is where they find it. Whoever changes it breaks theirs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec
from msgspec import Raw

from domain.errors import BadInput, ErrorCode, Problem, RunFailed
from domain.identity import NAME
from domain.inputs import read_input
from domain.results import ChatResult, EmbeddingResult, TranscriptionResult, check_result
from domain.routing import TASK_KINDS, ModelKind, OwnQueue

I = TypeVar("I")  # noqa: E741  # the input
T = TypeVar("T")


class Tools(Protocol):
    """What the service does for a run."""

    async def chat(self, request: Mapping[str, Any], *, profile: str | None, stream: bool) -> ChatResult: ...

    async def embed(self, request: Mapping[str, Any], *, profile: str | None) -> EmbeddingResult: ...

    async def transcribe(self, request: Mapping[str, Any], *, profile: str | None) -> TranscriptionResult: ...

    def file(self, source: UUID | str) -> AbstractAsyncContextManager[Path]: ...

    async def in_thread(self, call: Callable[[], T]) -> T: ...

    def progress(self, figures: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Job(Generic[I]):
    """A job as its task type sees it, and what may be asked of the service while it runs.

    Models are asked as the built-in task types ask them: by a profile and those that it falls back on, with the same
    errors, and the call is closed when the run is stopped. Without `profile` that of the job is asked.
    """

    id: UUID
    owner_service: str
    task_type: str
    model_profile: str
    attempt: int
    """1 the first time; it counts runs that failed, not those that were given back."""
    input: I
    tools: Tools = field(repr=False)

    async def chat(self, *, profile: str | None = None, stream: bool = False, **request: Any) -> ChatResult:
        """What a chat model answers.

        Args:
            stream: whether its text is told, as it comes, to those who follow the job; of one call at a time.
            request: the fields of a chat job's input: `system` and `user`, or `messages`; `temperature` ...

        Raises:
            RunFailed: nobody answered.
            BadInput: the request is not valid.
        """
        return await self.tools.chat(request, profile=profile, stream=stream)

    async def extract(self, wanted: type[T], *, profile: str | None = None, **request: Any) -> T:
        """What a chat model answers, made to fit a `msgspec.Struct`: the schema of its answer.

        Args:
            request: as of `chat`.

        Raises:
            RunFailed: likewise; `bad_response`: the answer does not fit.
        """
        response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema_of(wanted)}}
        answer = await self.chat(profile=profile, response_format=response_format, **request)
        try:
            return msgspec.json.decode(answer.content, type=wanted)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise RunFailed(ErrorCode.BAD_RESPONSE, "The answer does not fit what was asked for.") from None

    async def embed(self, *, profile: str | None = None, **request: Any) -> EmbeddingResult:
        """Vectors for texts.

        Args:
            request: the fields of an embedding job's input: `input`, `dimensions`.

        Raises:
            RunFailed, BadInput: as `chat`.
        """
        return await self.tools.embed(request, profile=profile)

    async def transcribe(self, *, profile: str | None = None, **request: Any) -> TranscriptionResult:
        """What is said in a recording.

        Args:
            request: the fields of a speech job's input: `upload_id`, `audio_url` or `audio_base64`; `language` ...

        Raises:
            RunFailed, BadInput: as `chat`.
        """
        return await self.tools.transcribe(request, profile=profile)

    def file(self, source: UUID | str) -> AbstractAsyncContextManager[Path]:
        """`async with job.file(...) as path`: a copy of an upload of the job's owner, or of what lies at a URL.

        A caller's URL leads to public addresses only, and to those that `ALLOWED_HOSTS` names.

        Raises:
            RunFailed: `bad_input`, `dependency_error`, `timeout` or `storage_error`: it cannot be had.
        """
        return self.tools.file(source)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns, called in a thread of its own: whatever computes or blocks belongs there.

        A thread cannot be stopped: a run that loses its job waits for it, and its slot is taken until then.
        """
        return await self.tools.in_thread(lambda: function(*arguments))

    def progress(self, **figures: Any) -> None:
        """Tell how far the run is, as a JSON object of these. Returns at once; may be called in any thread.

        About once a second the last of them is stored and told to those who follow the job.
        """
        self.tools.progress(figures)


def schema_of(wanted: type) -> dict[str, Any]:
    """The JSON schema of a Struct; itself at the root, which not every server follows a reference to."""
    (schema,), known = msgspec.json.schema_components((wanted,), ref_template="#/$defs/{name}")
    root = known.get(str(schema.get("$ref", "")).removeprefix("#/$defs/"), schema)
    return {**root, "$defs": known} if "#/$defs/" in str(known) else dict(root)


@dataclass(frozen=True, eq=False)
class TaskType(Generic[I]):
    """A task type of an installation."""

    name: str
    run: Callable[[Job[I]], Awaitable[object]]
    input: type[I]
    needs: ModelKind | OwnQueue
    """A model of a kind: it runs on every such profile, and waits in its queue. Else a queue of its own, and the name
    that jobs give as their model profile."""
    _decoder: msgspec.json.Decoder[I] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: it cannot be a task type.
        """
        _must_be_name(self.name, "the name of a task type")
        if self.name in TASK_KINDS:
            raise ValueError(f"{self.name} is a built-in task type")
        if isinstance(self.needs, OwnQueue):
            _must_be_name(self.needs.profile, f"the profile of {self.name}")
            # A queue is a step of a path, where a slash cannot be sent.
            _must_be_name(self.needs.queue, f"the queue of {self.name}", without="/")
        if not inspect.iscoroutinefunction(self.run):
            raise ValueError(f"what runs {self.name} is no 'async def' function")
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(self.input))

    async def __call__(self, job: Job[I]) -> object:
        return await self.run(job)

    def read(self, given: bytes | Raw) -> I:
        """What a job's input says.

        Raises:
            BadInput: with the JSON pointer of what is wrong, from the input's root.
        """
        try:
            return read_input(self._decoder, given)
        except BadInput:
            raise
        except Exception as error:  # out of a check of the Struct's own; what it says may be the input
            raise BadInput([Problem("", f"cannot be checked: {type(error).__name__}")]) from error

    async def result(self, job: Job[I]) -> bytes:
        """Run the job: the JSON object that it returned.

        Raises:
            Exception: whatever ended the run. `RunFailed` with `internal_error`: it returned something else.
        """
        result = msgspec.json.encode(await self.run(job))
        if not result.startswith(b"{"):
            raise RunFailed(ErrorCode.INTERNAL_ERROR, f"The task type {self.name} returned no JSON object.")
        try:
            check_result(result)
        except BadInput as error:
            message = f"The task type {self.name} returned what does not fit its schema_version: {error}"
            raise RunFailed(ErrorCode.INTERNAL_ERROR, message) from None
        return result


def _must_be_name(given: str, what: str, without: str = "") -> None:
    if not re.fullmatch(NAME, given) or (without and without in given):
        allowed = "._:@+-" if without else "._:/@+-"
        raise ValueError(f"{what} has to be a letter or digit, then up to 99 letters, digits or {allowed}: {given!r}")
