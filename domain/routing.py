"""Which GPU queue a job belongs to: its task type needs a kind of model, its model profile is bound to a queue.

A task type or a profile that is not served here has no queue: such a job waits for an external worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    provider: str = ""
    """What kind of server serves it: `vllm`, `ollama` ..."""
    model: str = ""
    """The model, as that server knows it."""
    fallbacks: tuple[str, ...] = ()
    """Profiles that are asked in turn when it fails."""


class Routes:
    """The profiles of this installation."""

    def __init__(self, profiles: Iterable[Profile] = (), active: str | None = None) -> None:
        """
        Args:
            active: the profile of chats that name none.
        """
        self._profiles = {profile.name: profile for profile in profiles}
        self._active = active

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._profiles.values())

    @property
    def profiles(self) -> tuple[str, ...]:
        """The names of the profiles that are served here."""
        return tuple(self._profiles)

    @property
    def active(self) -> Profile | None:
        """The profile of chats that name none; None: they cannot be served."""
        return self._profiles.get(self._active or "")

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that a profile is bound to, each once."""
        return tuple(dict.fromkeys(profile.queue for profile in self))

    def profiles_of(self, queue: str) -> tuple[str, ...]:
        """The profiles that are bound to the queue."""
        return tuple(profile.name for profile in self if profile.queue == queue)

    def chat_profile(self, model: str | None) -> Profile | None:
        """Who serves a chat that asks for this: its name, else its model, else the active one."""
        chats = [profile for profile in self if profile.kind is ModelKind.CHAT]
        named = (profile for profile in chats if model == profile.name)
        served = (profile for profile in chats if model and model == profile.model)
        return next(named, None) or next(served, None) or self.active

    def bindings(self) -> dict[tuple[str, str], str]:
        """The queue of every built-in task type on every profile that can run it."""
        return {
            (task_type, profile.name): profile.queue
            for task_type, kind in TASK_KINDS.items()
            for profile in self
            if profile.kind is kind
        }

    def queue_of(self, task_type: str, model_profile: str) -> str | None:
        """The queue of such a job, or None when it is not served here.

        Raises:
            BadInput: a built-in task type on a profile of another kind (`unsupported_task`).
        """
        kind, profile = TASK_KINDS.get(task_type), self._profiles.get(model_profile)
        if kind is None or profile is None:
            return None
        if profile.kind is not kind:
            detail = f"{task_type} needs a model for {kind}; {model_profile} is one for {profile.kind}"
            raise BadInput([Problem("/model_profile", detail)], ErrorCode.UNSUPPORTED_TASK)
        return profile.queue
