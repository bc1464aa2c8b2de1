"""Which GPU queue a job belongs to: its task type needs a kind of model, its model profile is bound to a queue.

A task type that the installation brings itself may have a queue of its own instead, which needs no model. What is not
served here has no queue, task type or profile: such a job waits for an external worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


class OwnQueue(Struct, frozen=True):
    """Where jobs wait that need no model: what they name as their model profile, and the queue."""

    profile: str
    queue: str


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

    def __init__(
        self,
        profiles: Iterable[Profile] = (),
        active: str | None = None,
        brought: Mapping[str, ModelKind | OwnQueue] = {},
    ) -> None:
        """
        Args:
            active: the profile of chats that name none.
            brought: what the installation's own task types need.
        """
        self._profiles = {profile.name: profile for profile in profiles}
        self._active = active
        self._needs = {**TASK_KINDS, **brought}
        self._own = {need.profile: need.queue for need in brought.values() if isinstance(need, OwnQueue)}

    def __iter__(self) -> Iterator[Profile]:
        """Those of models."""
        return iter(self._profiles.values())

    @property
    def profiles(self) -> tuple[str, ...]:
        """The names that jobs can give as their model profile and are served here."""
        return (*self._profiles, *self._own)

    @property
    def active(self) -> Profile | None:
        """The profile of chats that name none; None: they cannot be served."""
        return self._profiles.get(self._active or "")

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that a profile is bound to, each once."""
        return tuple(dict.fromkeys((*(profile.queue for profile in self), *self._own.values())))

    def profiles_of(self, queue: str) -> tuple[str, ...]:
        """The models' profiles that are bound to the queue."""
        return tuple(profile.name for profile in self if profile.queue == queue)

    def chat_profile(self, model: str | None) -> Profile | None:
        """Who serves a chat that asks for this: its name, else its model, else the active one."""
        chats = [profile for profile in self if profile.kind is ModelKind.CHAT]
        named = (profile for profile in chats if model == profile.name)
        served = (profile for profile in chats if model and model == profile.model)
        return next(named, None) or next(served, None) or self.active

    def bindings(self) -> dict[tuple[str, str], str]:
        """The queue of every task type on every profile that can run it."""
        return {
            (task_type, profile): queue
            for task_type, need in self._needs.items()
            for profile, queue in self._places(need)
        }

    def _places(self, need: ModelKind | OwnQueue) -> Iterator[tuple[str, str]]:
        if isinstance(need, OwnQueue):
            yield need.profile, need.queue
        else:
            yield from ((profile.name, profile.queue) for profile in self if profile.kind is need)

    def queue_of(self, task_type: str, model_profile: str) -> str | None:
        """The queue of such a job, or None when it is not served here.

        Raises:
            BadInput: a task type on a profile that is served here, and not for it (`unsupported_task`).
        """
        need, profile = self._needs.get(task_type), self._profiles.get(model_profile)
        if need is None or (profile is None and model_profile not in self._own):
            return None
        if isinstance(need, OwnQueue):
            if model_profile == need.profile:
                return need.queue
            raise _unsupported(f"{task_type} needs no model: its model_profile is {need.profile}")
        if profile is None:
            raise _unsupported(f"{task_type} needs a model for {need}; {model_profile} is the name of no model")
        if profile.kind is not need:
            raise _unsupported(f"{task_type} needs a model for {need}; {model_profile} is one for {profile.kind}")
        return profile.queue


def _unsupported(detail: str) -> BadInput:
    return BadInput([Problem("/model_profile", detail)], ErrorCode.UNSUPPORTED_TASK)
