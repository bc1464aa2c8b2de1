from __future__ import annotations

import pytest

from domain.errors import BadInput, ErrorCode
from domain.routing import CHAT_TASKS, TASK_KINDS, ModelKind, OwnQueue, Profile, Routes

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


class TestTaskTypesOfAnInstallationsOwn:
    ROUTES = Routes(ROUTES, "ollama", {"keywords": ModelKind.CHAT, "ocr": OwnQueue("tesseract", "cpu.ocr")})

    def test_one_that_needs_a_model_goes_where_such_models_are(self):
        assert self.ROUTES.queue_of("keywords", "ollama") == "gpu.llm"
        assert self.ROUTES.queue_of("keywords", "their-own-model") is None

    def test_one_with_a_queue_of_its_own_goes_there(self):
        assert self.ROUTES.queue_of("ocr", "tesseract") == "cpu.ocr"
        assert self.ROUTES.queue_of("ocr", "their-own-model") is None
        assert self.ROUTES.queue_of("their_own_task", "tesseract") is None

    @pytest.mark.parametrize(
        ("task_type", "model_profile", "said"),
        [
            ("keywords", "bge-m3", "bge-m3 is one for embeddings"),
            ("keywords", "tesseract", "tesseract is the name of no model"),
            ("llm_chat", "tesseract", "tesseract is the name of no model"),
            ("ocr", "ollama", "its model_profile is tesseract"),
        ],
    )
    def test_none_goes_where_it_cannot_run(self, task_type: str, model_profile: str, said: str):
        with pytest.raises(BadInput, match=said) as refusal:
            self.ROUTES.queue_of(task_type, model_profile)
        assert refusal.value.code is ErrorCode.UNSUPPORTED_TASK

    def test_their_queues_and_profiles_are_served_and_their_jobs_are_bound(self):
        assert self.ROUTES.queues == (*ROUTES.queues, "cpu.ocr")
        assert self.ROUTES.profiles == (*ROUTES.profiles, "tesseract")
        brought = self.ROUTES.bindings().items() - ROUTES.bindings().items()
        assert brought == {
            (("keywords", "qwen2.5-14b"), "gpu.llm"),
            (("keywords", "ollama"), "gpu.llm"),
            (("ocr", "tesseract"), "cpu.ocr"),
        }

    def test_what_needs_no_model_is_no_profile_of_one(self):
        assert [profile.name for profile in self.ROUTES] == list(ROUTES.profiles)
        assert self.ROUTES.profiles_of("cpu.ocr") == ()
        assert self.ROUTES.chat_profile("tesseract") == self.ROUTES.active
