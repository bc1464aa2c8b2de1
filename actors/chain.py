"""Asks a job's provider, and where that fails, those that its profile falls back on, and keeps account of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec import UNSET

from domain.errors import ErrorCode, RunFailed, TooLong
from domain.job import LeasedJob
from domain.results import ProviderAttempt

P = TypeVar("P")
A = TypeVar("A")

FALL_BACK_ON = frozenset(
    {
        ErrorCode.PROVIDER_UNAVAILABLE,
        ErrorCode.MODEL_UNAVAILABLE,
        ErrorCode.PROVIDER_ERROR,
        ErrorCode.TIMEOUT,
        ErrorCode.BAD_RESPONSE,
        ErrorCode.CONTEXT_LENGTH,
        ErrorCode.RATE_LIMITED,
        ErrorCode.AUTH_ERROR,
        ErrorCode.QUOTA_EXHAUSTED,
        ErrorCode.TRANSCRIPT_HALLUCINATION,
        ErrorCode.TRANSCRIPT_INCOMPLETE,
    }
)
"""What another provider may do better. What is wrong with the job itself is wrong everywhere."""


@dataclass(frozen=True)
class Backend(Generic[P]):
    """What serves a profile."""

    profile: str
    provider: P
    name: str
    """What kind of server it is."""
    model: str
    fallbacks: tuple[str, ...] = ()
    """Profiles that are asked in turn where this one fails."""


@dataclass(frozen=True)
class Answered(Generic[A]):
    """An answer, and the calls that it took."""

    answer: A
    provider: str
    attempts: tuple[ProviderAttempt, ...]
    """Empty where one call did."""


class AllFailed(RunFailed):
    """No provider of a chain answered. It stands for how the first of them failed: the one that the job asked for."""

    def __init__(self, first: RunFailed, attempts: tuple[ProviderAttempt, ...]) -> None:
        failure = first.failure
        super().__init__(failure.code, failure.message, retry_after=failure.retry_after)
        self.attempts = attempts


@dataclass(frozen=True)
class Chain(Generic[P]):
    backends: Callable[[], Mapping[str, Backend[P]]]
    """By model profile; those of this moment."""
    monotonic: Callable[[], float] = time.monotonic

    async def ask(
        self, job: LeasedJob, call: Callable[[Backend[P]], Awaitable[A]], *, bound: Callable[[], bool] = lambda: False
    ) -> Answered[A]:
        """The first answer.

        Args:
            call: asks one of them.
            bound: whether something of an answer has been given away, so that no other may follow it.

        Raises:
            RunFailed: none answered; `AllFailed` where several were asked.
        """
        first: RunFailed | None = None
        attempts: list[ProviderAttempt] = []
        for backend in self._chain(job.model_profile):
            began = self.monotonic()
            try:
                answer = await call(backend)
            except RunFailed as error:
                attempts.append(_attempt(backend, self.monotonic() - began, error))
                first = first or error
                if not _may_another_do_better(error) or bound():
                    break
            else:
                made = (*attempts, _attempt(backend, self.monotonic() - began)) if attempts else ()
                return Answered(answer, backend.name, made)
        if first is None:
            raise RunFailed(ErrorCode.MODEL_UNAVAILABLE, f"This worker does not serve {job.model_profile}.")
        if len(attempts) == 1:
            raise first
        raise AllFailed(first, tuple(attempts)) from first

    def _chain(self, profile: str) -> list[Backend[P]]:
        backends = self.backends()
        own = backends.get(profile)
        return [own, *(backends[name] for name in own.fallbacks if name in backends)] if own else []


def _may_another_do_better(error: RunFailed) -> bool:
    return error.failure.code in FALL_BACK_ON or isinstance(error, TooLong)


def _attempt(backend: Backend[P], seconds: float, error: RunFailed | None = None) -> ProviderAttempt:
    return ProviderAttempt(
        provider=backend.name,
        model=backend.model,
        error_code=error.failure.code if error else UNSET,
        error_message=error.failure.message if error else UNSET,
        duration_ms=round(max(0.0, seconds) * 1000),
    )
