from __future__ import annotations

import pytest

from domain.errors import BadInput, ErrorCode
from domain.routing import CHAT_TASKS, TASK_KINDS, ModelKind, Profile, Routes

ROUTES = Routes(
    [
        Profile("qwen2.5-14b", ModelKind.CHAT, "gpu.llm"),
        Profile("ollama", ModelKind.CHAT, "gpu.llm"),
        Profile("whisper-large-v3", ModelKind.SPEECH, "gpu.speech"),
        Profile("bge-m3", ModelKind.EMBEDDINGS, "gpu.embed"),
    ]
)
QUEUES = {
    ModelKind.CHAT: ("qwen2.5-14b", "gpu.llm"),
    ModelKind.SPEECH: ("whisper-large-v3", "gpu.speech"),
    ModelKind.EMBEDDINGS: ("bge-m3", "gpu.embed"),
}


def test_the_built_in_task_types_are_the_documented_ones():
    assert {kind: {task for task, of in TASK_KINDS.items() if of is kind} for kind in ModelKind} == {
        ModelKind.CHAT: set(CHAT_TASKS),
        ModelKind.SPEECH: {"transcription", "transcribe"},
        ModelKind.EMBEDDINGS: {"embedding"},
    }


@pytest.mark.parametrize("task_type", TASK_KINDS)
def test_a_built_in_task_goes_to_the_queue_of_its_profile(task_type: str):
    profile, queue = QUEUES[TASK_KINDS[task_type]]
    assert ROUTES.queue_of(task_type, profile) == queue


@pytest.mark.parametrize(
    ("task_type", "kind"),
    [(task_type, kind) for task_type, needed in TASK_KINDS.items() for kind in ModelKind if kind is not needed],
)
def test_a_built_in_task_on_a_profile_of_another_kind_is_unsupported(task_type: str, kind: ModelKind):
    with pytest.raises(BadInput) as refusal:
        ROUTES.queue_of(task_type, QUEUES[kind][0])
    assert refusal.value.code is ErrorCode.UNSUPPORTED_TASK
    assert [problem.pointer for problem in refusal.value.problems] == ["/model_profile"]


@pytest.mark.parametrize(
    ("task_type", "model_profile"),
    [("llm_chat", "their-own-model"), ("their_own_task", "qwen2.5-14b"), ("their_own_task", "their-own-model")],
)
def test_what_is_not_served_here_has_no_queue(task_type: str, model_profile: str):
    assert ROUTES.queue_of(task_type, model_profile) is None


def test_every_queue_is_listed_once():
    assert ROUTES.queues == ("gpu.llm", "gpu.speech", "gpu.embed")


def test_an_installation_without_profiles_has_no_queues():
    assert Routes([]).queues == ()
