"""Ask a chat model and get its answer: a job underneath, which fails at once where others wait for better times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from domain.access import Caller
from domain.circuit import CircuitState
from domain.errors import BadInput, ChatFailed, ChatRefused, ErrorCode, Failure, Problem
from domain.job import (
    DEADLINE_PASSED,
    OUT_OF_TIME,
    IdempotencyKey,
    Job,
    JobStatus,
    Priority,
)
from domain.ports import Added, QueueStore
from domain.results import ChatResult, Usage
from domain.retry import MAX_GIVE_BACKS
from domain.routing import Profile, Routes
from domain.usecases.steer import Steer
from domain.usecases.submit import Submission, Submit

TASK_TYPE = "chat_completion"

NOT_CONFIGURED = Failure(ErrorCode.MODEL_UNAVAILABLE, "No chat model is configured here.")
CIRCUIT_OPEN = "The model server is sick, and nothing is started until it is well again."
NO_OWNER = "default"

CIRCUITS_LAST = 0.5
"""Seconds for which what was read of the queues' circuits holds: all who wait look at it."""

USUAL_PATIENCE = timedelta(seconds=5)
"""Before a caller is to come back, where nobody knows better."""


class Question(Struct, frozen=True, kw_only=True):
    """What a caller asks a chat model."""

    input: Raw
    """As a chat job's input."""
    model: str | None = None
    owner_service: str | None = None
    owner_ref: str = ""
    priority: Priority | None = None
    labels: dict[str, str] = {}
    timeout: timedelta | None = None
    idempotency: IdempotencyKey | None = None


class Chatted(Struct, frozen=True, kw_only=True):
    """What a chat model answered."""

    job: Job
    content: str
    model: str
    provider: str
    usage: Usage | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    duration_ms: int


@dataclass
class Converse:
    submit: Submit
    steer: Steer
    routes: Callable[[], Routes]
    """Those of this moment."""
    queues: QueueStore
    clock: Callable[[], datetime]
    circuits_last: float = CIRCUITS_LAST
    _circuits: dict[str, datetime | None] | None = None
    """Open ones, and when their servers are asked again."""
    _read_at: float = 0.0

    async def ask(self, caller: Caller, question: Question, within: timedelta) -> Added:
        """Store a chat that somebody waits for. It is tried once, and does not begin after its time is up.

        Raises:
            ChatRefused: nobody can answer it now.
            BadInput, TooLarge, Forbidden, TooManyPending, StorageUnavailable: nothing was stored.
        """
        profile = self._profile(question)
        if question.idempotency is None:  # else its answer may be there already
            await self.must_be_open(profile.queue)
        submission = self._submission(caller, question, profile)
        return await self._store(
            caller,
            replace(
                submission,
                max_attempts=1,
                # Whoever waits wants to hear of it at once: what would be given back fails.
                give_backs=MAX_GIVE_BACKS,
                deadline_at=self.clock() + within,
            ),
        )

    async def enqueue(self, caller: Caller, question: Question) -> Added:
        """Store a chat whose answer is fetched later.

        Raises:
            ChatRefused: no model is configured for it.
            BadInput, TooLarge, Forbidden, TooManyPending, StorageUnavailable: nothing was stored.
        """
        submission = self._submission(caller, question, self._profile(question))
        deadline = self.clock() + question.timeout if question.timeout else None
        return await self._store(caller, replace(submission, deadline_at=deadline))

    async def must_be_open(self, queue: str | None, job: Job | None = None) -> None:
        """
        Raises:
            ChatRefused: nothing of the queue starts, for its model server is sick.
        """
        if self._circuits is None or monotonic() - self._read_at >= self.circuits_last:
            self._read_at = monotonic()
            states = await self.queues.states()
            self._circuits = {
                state.name: state.circuit.probe_at for state in states if state.circuit.state is CircuitState.OPEN
            }
        if queue is None or queue not in self._circuits:
            return
        again = self._circuits[queue]
        patience = max(timedelta(seconds=1), again - self.clock()) if again else USUAL_PATIENCE
        raise ChatRefused(Failure(ErrorCode.PROVIDER_UNAVAILABLE, CIRCUIT_OPEN, patience), job.id if job else None)

    def answer(self, job: Job) -> Chatted:
        """What came of a chat that is final.

        Raises:
            ChatFailed: no answer.
        """
        if job.status is not JobStatus.COMPLETED or job.result is None:
            failure = reason(job)
            refused = failure.message == CIRCUIT_OPEN
            raise (ChatRefused if refused else ChatFailed)(failure, job.id)
        try:
            result = _results.decode(job.result)
        except msgspec.MsgspecError:  # an external worker may have completed it with anything
            raise ChatFailed(Failure(ErrorCode.BAD_RESPONSE, "The result is no chat's."), job.id) from None
        provider = "" if result.provider is UNSET else result.provider
        return Chatted(
            job=job,
            content=result.content,
            model=result.model,
            provider=provider or self._provider(job),
            usage=result.usage,
            finish_reason=result.finish_reason,
            duration_ms=result.duration_ms,
        )

    async def give_up(self, job: Job, failure: Failure, among: Sequence[JobStatus] | None = None) -> bool:
        """Nobody waits for it any more. One that has ended meanwhile, or is not among these, stays as it is."""
        return await self.steer.stop(job.id, failure, among)

    def _profile(self, question: Question) -> Profile:
        profile = self.routes().chat_profile(question.model)
        if profile is None:
            raise ChatRefused(NOT_CONFIGURED)
        return profile

    def _submission(self, caller: Caller, question: Question, profile: Profile) -> Submission:
        return Submission(
            owner_service=question.owner_service or (None if caller.owner else NO_OWNER),
            owner_ref=question.owner_ref,
            task_type=TASK_TYPE,
            model_profile=profile.name,
            input=question.input,
            priority=question.priority,
            labels=question.labels,
            idempotency=question.idempotency,
        )

    async def _store(self, caller: Caller, submission: Submission) -> Added:
        try:
            return await self.submit.one(caller, submission)
        except BadInput as error:
            # The caller sent no `input`: its fields were those of the body.
            problems = [Problem(each.pointer.removeprefix("/input"), each.detail) for each in error.problems]
            raise BadInput(problems, error.code) from None

    def _provider(self, job: Job) -> str:
        served = (profile for profile in self.routes() if profile.name == job.model_profile)
        return next((profile.provider for profile in served), "")


def reason(job: Job) -> Failure:
    """Why a final job has no answer."""
    failure = job.failure or Failure(ErrorCode.UNKNOWN, f"The job is {job.status}.")
    if failure.message in (DEADLINE_PASSED.message, OUT_OF_TIME.message):
        return Failure(ErrorCode.TIMEOUT, OUT_OF_TIME.message)
    return failure


_results = msgspec.json.Decoder(ChatResult)
