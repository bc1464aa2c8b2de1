"""Which GPU queue a job belongs to: its task type needs a kind of model, its model profile is bound to a queue.

A task type or a profile that is not served here has no queue: such a job waits for an external worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from domain.errors import BadInput, ErrorCode, Problem


class ModelKind(StrEnum):
    CHAT = "chat"
    SPEECH = "speech"
    EMBEDDINGS = "embeddings"


CHAT_TASKS = ("llm_chat", "chat_completion", "call_analysis", "transcript_summary", "telegram_classification")

TASK_KINDS = {
    **dict.fromkeys(CHAT_TASKS, ModelKind.CHAT),
    "transcription": ModelKind.SPEECH,
    "transcribe": ModelKind.SPEECH,
    "embedding": ModelKind.EMBEDDINGS,
}


class Profile(Struct, frozen=True):
    """A model runtime that is served here, and the queue that it takes its jobs from."""

    name: str
    kind: ModelKind
    queue: str


class Routes:
    """The profiles of this installation."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        self._profiles = {profile.name: profile for profile in profiles}

    @property
    def profiles(self) -> tuple[str, ...]:
        """The names of the profiles that are served here."""
        return tuple(self._profiles)

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that a profile is bound to, each once."""
        return tuple(dict.fromkeys(profile.queue for profile in self._profiles.values()))

    def profiles_of(self, queue: str) -> tuple[str, ...]:
        """The profiles that are bound to the queue."""
        return tuple(profile.name for profile in self._profiles.values() if profile.queue == queue)

    def queue_of(self, task_type: str, model_profile: str) -> str | None:
        """The queue of such a job, or None when it is not served here.

        Raises:
            BadInput: a built-in task type on a profile of another kind (`unsupported_task`).
        """
        kind, profile = TASK_KINDS.get(task_type), self._profiles.get(model_profile)
        if kind is None or profile is None:
            return None
        if profile.kind is not kind:
            detail = f"{task_type} needs a {kind} model; {model_profile} is a {profile.kind} model"
            raise BadInput([Problem("/model_profile", detail)], ErrorCode.UNSUPPORTED_TASK)
        return profile.queue
