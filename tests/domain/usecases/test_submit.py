from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from msgspec import Raw

from domain.errors import BadInput, ErrorCode, TooLarge, StorageUnavailable
from domain.job import Job, JobStatus, NewJob, Priority
from domain.ports import JobFilter
from domain.routing import Routes
from domain.usecases.submit import Submission, Submit
from domain.usecases.wake import Wake
from tests.factories import NOW, new_id, submission
from tests.fakes import FragileStore, RecordingTickets

LIMIT = 1_000


@pytest.fixture
def submit(store: FragileStore, routes: Routes, wake: Wake) -> Submit:
    return Submit(store, routes, wake, new_id, LIMIT)


async def stored(store: FragileStore) -> list[Job]:
    return await store.find(JobFilter(), limit=10)


async def test_a_job_is_stored_as_it_was_asked_for(submit: Submit, store: FragileStore):
    at = NOW + timedelta(hours=1)
    asked = submission(owner_ref="beeline/42", priority=Priority.HIGH, max_attempts=7, run_at=at)
    job = await store.get((await submit.one(asked)).id)
    assert (job.status, job.queue) == (JobStatus.PENDING, "gpu.llm")
    assert {name: getattr(job, name) for name in Submission.__struct_fields__ if name != "input"} == {
        name: getattr(asked, name) for name in Submission.__struct_fields__ if name != "input"
    }
    assert job.input is not None
    assert bytes(job.input) == bytes(asked.input)


async def test_a_worker_is_woken_once_the_job_is_stored(
    submit: Submit, store: FragileStore, tickets: RecordingTickets, monkeypatch: pytest.MonkeyPatch
):
    tickets_at_commit: list[int] = []
    add = store.add

    async def watched(jobs: Sequence[NewJob]) -> list[Job]:
        tickets_at_commit.append(len(tickets.published))
        return await add(jobs)

    monkeypatch.setattr(store, "add", watched)
    await submit.one(submission())
    assert tickets_at_commit == [0]
    assert tickets.published == [("gpu.llm", 1)]


async def test_a_job_that_is_not_due_wakes_nobody(submit: Submit, tickets: RecordingTickets):
    await submit.one(submission(run_at=NOW + timedelta(seconds=1)))
    assert tickets.published == []


@pytest.mark.parametrize("changes", [{"task_type": "their_own"}, {"model_profile": "their-own"}])
async def test_a_job_that_is_not_served_here_has_no_queue_and_wakes_nobody(
    submit: Submit, tickets: RecordingTickets, changes: dict[str, str]
):
    job = await submit.one(submission(**changes))
    assert job.queue is None
    assert tickets.published == []


async def test_the_input_of_a_job_that_is_not_served_here_is_its_workers_business(submit: Submit):
    job = await submit.one(submission(task_type="their_own", input=Raw(b'{"messages": 5}')))
    assert job.status is JobStatus.PENDING


async def test_the_input_of_a_speech_job_is_not_read_as_chat(submit: Submit):
    job = await submit.one(
        submission(task_type="transcription", model_profile="whisper-large-v3", input=Raw(b'{"user": 1}'))
    )
    assert job.queue == "gpu.speech"


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        (b'{"messages": []}', "/input/messages"),
        (b'{"messages": [{"role": "robot", "content": ""}]}', "/input/messages/0/role"),
        (b"{}", "/input"),
    ],
)
async def test_a_bad_chat_input_is_refused_with_its_place_in_the_request(
    submit: Submit, store: FragileStore, tickets: RecordingTickets, given: bytes, pointer: str
):
    with pytest.raises(BadInput) as refusal:
        await submit.one(submission(input=Raw(given)))
    assert [problem.pointer for problem in refusal.value.problems] == [pointer]
    assert (await stored(store), tickets.published) == ([], [])


@pytest.mark.parametrize("task_type", ["llm_chat", "their_own"])
@pytest.mark.parametrize("given", [b"[]", b"null", b'"Hello"', b"7", b'{"user": "\xff"}', b'{"user": ', b""])
async def test_an_input_that_is_no_object_is_refused_whoever_would_run_it(
    submit: Submit, store: FragileStore, given: bytes, task_type: str
):
    with pytest.raises(BadInput) as refusal:
        await submit.one(submission(task_type=task_type, input=Raw(given)))
    assert [problem.pointer for problem in refusal.value.problems] == ["/input"]
    assert await stored(store) == []


async def test_a_task_on_a_model_of_another_kind_is_refused(submit: Submit, store: FragileStore):
    with pytest.raises(BadInput) as refusal:
        await submit.one(submission(model_profile="whisper-large-v3"))
    assert refusal.value.code is ErrorCode.UNSUPPORTED_TASK
    assert await stored(store) == []


def input_of(size: int) -> Raw:
    return Raw(b'{"user": "' + b"x" * (size - len(b'{"user": ""}')) + b'"}')


async def test_an_input_may_be_as_large_as_the_limit(submit: Submit):
    assert (await submit.one(submission(input=input_of(LIMIT)))).status is JobStatus.PENDING


async def test_an_input_over_the_limit_is_refused(submit: Submit, store: FragileStore, tickets: RecordingTickets):
    with pytest.raises(TooLarge):
        await submit.one(submission(input=input_of(LIMIT + 1)))
    assert (await stored(store), tickets.published) == ([], [])


async def test_without_storage_nobody_is_woken(submit: Submit, store: FragileStore, tickets: RecordingTickets):
    store.away = True
    with pytest.raises(StorageUnavailable):
        await submit.one(submission())
    assert tickets.published == []
