from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw, Struct
from msgspec.structs import replace

from domain.access import ANYBODY, Caller
from domain.errors import (
    BadInput,
    ErrorCode,
    Forbidden,
    StorageUnavailable,
    TooLarge,
    TooManyPending,
    UploadInUse,
)
from domain.events import JobEvent
from domain.job import IdempotencyKey, Job, JobStatus, NewJob, Priority
from domain.policy import OwnerPolicy, Policies
from domain.ports import Added
from domain.routing import OwnQueue, Routes
from domain.task_type import TaskType
from domain.upload import Upload
from domain.usecases.preempt import Preempt
from domain.usecases.submit import MOST_PROBLEMS, Submission, Submit
from domain.usecases.wake import Wake
from tests.factories import NO_JOB, NOW, QUEUE, new_id, submission
from tests.fakes import FakeClock, FakeSchemas, FragileStore, RecordingEvents, RecordingTickets
from tests.moves import cancel, found, take

LIMIT = 1_000
AN_HOUR = timedelta(hours=1)
BAD = Raw(b'{"messages": []}')
KEY = IdempotencyKey("call-7", b"fingerprint")
SPEECH_INPUT = Raw(b'{"audio_url": "https://example.com/a.wav"}')
LION = Caller(owner="lion", priority=Priority.LOW)


@pytest.fixture
def submit(store: FragileStore, routes: Routes, wake: Wake, events: RecordingEvents) -> Submit:
    return Submit(store, lambda: routes, wake, events, Preempt(store, events), Policies, new_id, LIMIT, FakeSchemas())


@pytest.fixture
def nothing_happened(store: FragileStore, tickets: RecordingTickets, events: RecordingEvents) -> Any:
    async def check() -> None:
        assert (await found(store), tickets.published, events.published) == ([], [], [])

    return check


async def stored(submit: Submit, caller: Caller = ANYBODY, **asked: Any) -> Job:
    return (await submit.one(caller, submission(**asked))).job


async def uploaded(store: FragileStore) -> Upload:
    upload_id = new_id()
    await store.uploads.append(upload_id, 0, b"abc")
    return await store.uploads.finish(upload_id, "beeline", chunks=1, size=3)


NO_UPLOAD = Upload(UUID(NO_JOB), "beeline", 3, NOW)


def speech(upload: Upload) -> dict[str, Any]:
    """A job that uses it."""
    given = Raw(f'{{"upload_id": "{upload.id}"}}'.encode())
    return {"task_type": "transcription", "model_profile": "whisper-large-v3", "input": given}


def pointers(refusal: pytest.ExceptionInfo[BadInput]) -> list[str]:
    return [problem.pointer for problem in refusal.value.problems]


def submitted(job: Job) -> JobEvent:
    return JobEvent(job.id, job.owner_service, job.task_type, job.queue, "pending", 1)


class TestOne:
    async def test_a_schema_that_is_none_is_refused_where_it_stands(self, submit: Submit, nothing_happened: Any):
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": False}}
        asked = submission(input=Raw(msgspec.json.encode({"user": "Hi", "response_format": wanted})))
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, asked)
        assert pointers(refusal) == ["/input/response_format/json_schema/schema/type"]
        await nothing_happened()

    async def test_a_job_is_stored_as_it_was_asked_for(self, submit: Submit, store: FragileStore):
        asked = submission(
            owner_ref="beeline/42",
            priority=Priority.HIGH,
            max_attempts=7,
            run_at=NOW + AN_HOUR,
            deadline_at=NOW + 2 * AN_HOUR,
            labels={"team": "red"},
        )
        job = await store.get((await submit.one(ANYBODY, asked)).job.id)
        assert (job.status, job.queue, job.batch_id) == (JobStatus.PENDING, QUEUE, None)
        assert {name: getattr(job, name) for name in Submission.__struct_fields__ if name != "idempotency"} == {
            name: getattr(asked, name) for name in Submission.__struct_fields__ if name != "idempotency"
        }

    async def test_a_new_job_comes_back_whole(self, submit: Submit, store: FragileStore):
        added = await submit.one(ANYBODY, submission())
        assert added == Added(await store.get(added.job.id), created=True)

    async def test_a_worker_is_woken_and_the_event_told_once_the_job_is_stored(
        self,
        submit: Submit,
        store: FragileStore,
        tickets: RecordingTickets,
        events: RecordingEvents,
        monkeypatch: pytest.MonkeyPatch,
    ):
        known_at_commit: list[int] = []
        add = store.add

        async def watched(jobs: Sequence[NewJob], ceilings: Mapping[str, int]) -> list[Added]:
            known_at_commit.append(len(tickets.published) + len(events.published))
            return await add(jobs, ceilings)

        monkeypatch.setattr(store, "add", watched)
        job = await stored(submit)
        assert known_at_commit == [0]
        assert (tickets.published, events.published) == ([(QUEUE, 1)], [submitted(job)])

    async def test_a_job_that_is_not_due_wakes_nobody_and_is_told_all_the_same(
        self, submit: Submit, tickets: RecordingTickets, events: RecordingEvents
    ):
        job = await stored(submit, run_at=NOW + timedelta(seconds=1))
        assert (tickets.published, events.published) == ([], [submitted(job)])

    @pytest.mark.parametrize("changes", [{"task_type": "their_own"}, {"model_profile": "their-own"}])
    async def test_a_job_that_is_not_served_here_has_no_queue_and_wakes_nobody(
        self, submit: Submit, tickets: RecordingTickets, events: RecordingEvents, changes: dict[str, Any]
    ):
        job = await stored(submit, **changes)
        assert job.queue is None
        assert (tickets.published, events.published) == ([], [submitted(job)])

    async def test_the_input_of_a_job_that_is_not_served_here_is_its_workers_business(self, submit: Submit):
        job = await stored(submit, task_type="their_own", input=Raw(b'{"messages": 5}'))
        assert job.status is JobStatus.PENDING

    async def test_the_input_of_a_speech_job_is_not_read_as_chat(self, submit: Submit):
        job = await stored(submit, task_type="transcription", model_profile="whisper-large-v3", input=SPEECH_INPUT)
        assert job.queue == "gpu.speech"

    async def test_the_upload_that_a_speech_job_names_is_kept_for_it(self, submit: Submit, store: FragileStore):
        upload = await uploaded(store)
        await stored(submit, **speech(upload))
        with pytest.raises(UploadInUse):
            await store.uploads.remove(upload.id)

    async def test_one_that_an_external_workers_job_names_is_kept_for_it_as_well(
        self, submit: Submit, store: FragileStore
    ):
        upload = await uploaded(store)
        job = await stored(submit, **speech(upload) | {"model_profile": "their_own"})
        assert job.queue is None
        with pytest.raises(UploadInUse):
            await store.uploads.remove(upload.id)

    @pytest.mark.parametrize("upload_id", [f'"{NO_JOB}"', '"our-own-7"', "7"])
    async def test_what_an_external_workers_job_names_need_not_be_there(self, submit: Submit, upload_id: str):
        given = Raw(f'{{"upload_id": {upload_id}}}'.encode())
        job = await stored(submit, task_type="transcribe", model_profile="their_own", input=given)
        assert job.status is JobStatus.PENDING

    async def test_the_same_job_again_is_found_when_its_upload_is_long_gone(self, submit: Submit, store: FragileStore):
        upload = await uploaded(store)
        asked = submission(**speech(upload), idempotency=KEY)
        first = await submit.one(ANYBODY, asked)
        await cancel(store, first.job.id)
        await store.uploads.prune()
        again = await submit.one(ANYBODY, asked)
        assert (again.created, again.job.id, again.job.status) == (False, first.job.id, JobStatus.CANCELLED)

    async def test_without_storage_nobody_is_woken_or_told(
        self, submit: Submit, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        store.away = True
        with pytest.raises(StorageUnavailable):
            await submit.one(ANYBODY, submission())
        assert (tickets.published, events.published) == ([], [])


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "pointer"),
        [
            (b'{"messages": []}', "/input/messages"),
            (b'{"messages": [{"role": "robot", "content": ""}]}', "/input/messages/0/role"),
            (b"{}", "/input"),
        ],
    )
    async def test_a_bad_chat_input_is_refused_with_its_place_in_the_request(
        self, submit: Submit, nothing_happened: Any, given: bytes, pointer: str
    ):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(input=Raw(given)))
        assert pointers(refusal) == [pointer]
        await nothing_happened()

    @pytest.mark.parametrize(
        ("task_type", "profile", "given", "pointer"),
        [
            ("transcription", "whisper-large-v3", b"{}", "/input"),
            ("transcription", "whisper-large-v3", b'{"upload_id": "x"}', "/input/upload_id"),
            ("transcribe", "whisper-large-v3", b'{"audio_url": "ftp://a"}', "/input/audio_url"),
            ("transcribe", "whisper-large-v3", b'{"audio_base64": "YWJj", "audio_url": "http://a"}', "/input"),
            ("transcribe", "whisper-large-v3", b'{"audio_base64": "YWJj", "their": "\xff"}', "/input"),
            ("embedding", "bge-m3", b'{"input": []}', "/input/input"),
            ("embedding", "bge-m3", b'{"input": "a", "dimensions": 0}', "/input/dimensions"),
        ],
    )
    async def test_a_bad_input_for_a_model_of_another_kind_is_refused_with_its_place(
        self, submit: Submit, nothing_happened: Any, task_type: str, profile: str, given: bytes, pointer: str
    ):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(task_type=task_type, model_profile=profile, input=Raw(given)))
        assert pointers(refusal) == [pointer]
        await nothing_happened()

    async def test_an_upload_that_is_not_there_is_refused(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(**speech(NO_UPLOAD)))
        assert pointers(refusal) == ["/input/upload_id"]
        await nothing_happened()

    async def test_another_owners_upload_is_as_good_as_none(
        self, submit: Submit, store: FragileStore, nothing_happened: Any
    ):
        upload = await uploaded(store)
        with pytest.raises(BadInput) as refusal:
            await submit.one(LION, submission(**speech(upload), owner_service=None))
        assert pointers(refusal) == ["/input/upload_id"]
        await nothing_happened()

    async def test_of_a_batch_every_job_whose_upload_is_not_there_is_pointed_at(
        self, submit: Submit, store: FragileStore, nothing_happened: Any
    ):
        upload = await uploaded(store)
        elsewhere = speech(NO_UPLOAD) | {"model_profile": "their_own"}
        asked = [submission(**each) for each in (speech(upload), speech(NO_UPLOAD), elsewhere, speech(NO_UPLOAD))]
        with pytest.raises(BadInput) as refusal:
            await submit.batch(ANYBODY, asked)
        assert pointers(refusal) == ["/jobs/1/input/upload_id", "/jobs/3/input/upload_id"]
        await nothing_happened()

    @pytest.mark.parametrize("task_type", ["llm_chat", "their_own"])
    @pytest.mark.parametrize("given", [b"[]", b"null", b'"Hello"', b"7", b'{"user": "\xff"}', b'{"user": ', b""])
    async def test_an_input_that_is_no_object_is_refused_whoever_would_run_it(
        self, submit: Submit, nothing_happened: Any, given: bytes, task_type: str
    ):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(task_type=task_type, input=Raw(given)))
        assert pointers(refusal) == ["/input"]
        await nothing_happened()

    async def test_a_task_on_a_model_of_another_kind_is_refused(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(model_profile="whisper-large-v3"))
        assert refusal.value.code is ErrorCode.UNSUPPORTED_TASK
        await nothing_happened()

    async def test_an_input_may_be_as_large_as_the_limit(self, submit: Submit):
        assert (await stored(submit, input=input_of(LIMIT))).status is JobStatus.PENDING

    async def test_an_input_over_the_limit_is_refused(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(TooLarge):
            await submit.one(ANYBODY, submission(input=input_of(LIMIT + 1)))
        await nothing_happened()

    @pytest.mark.parametrize("before", [timedelta(0), timedelta(seconds=1)])
    async def test_a_deadline_must_be_later_than_the_start(
        self, submit: Submit, nothing_happened: Any, before: timedelta
    ):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(run_at=NOW + AN_HOUR, deadline_at=NOW + AN_HOUR - before))
        assert pointers(refusal) == ["/deadline_at"]
        await nothing_happened()

    async def test_a_deadline_that_has_passed_is_none_of_the_doors_business(self, submit: Submit):
        assert (await stored(submit, deadline_at=NOW - AN_HOUR)).deadline_at == NOW - AN_HOUR


def input_of(size: int) -> Raw:
    return Raw(b'{"user": "' + b"x" * (size - len(b'{"user": ""}')) + b'"}')


class TestCaller:
    async def test_an_owner_and_a_priority_that_are_left_out_are_the_callers(self, submit: Submit):
        job = await stored(submit, LION, owner_service=None)
        assert (job.owner_service, job.priority) == ("lion", Priority.LOW)

    async def test_a_priority_that_is_named_is_the_jobs(self, submit: Submit):
        assert (await stored(submit, LION, owner_service="lion", priority=Priority.HIGH)).priority is Priority.HIGH

    async def test_a_job_of_another_owner_is_forbidden(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(Forbidden):
            await submit.one(LION, submission(owner_service="bear"))
        await nothing_happened()

    async def test_without_any_owner_there_is_no_job(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(owner_service=None))
        assert pointers(refusal) == ["/owner_service"]
        await nothing_happened()

    async def test_what_is_left_out_in_a_batch_is_the_callers_too(self, submit: Submit):
        batch = await submit.batch(LION, [submission(owner_service=None)])
        assert [(added.job.owner_service, added.job.priority) for added in batch.jobs] == [("lion", Priority.LOW)]

    async def test_a_batch_with_a_job_of_another_owner_is_forbidden(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(Forbidden):
            await submit.batch(LION, [submission(owner_service="lion"), submission(owner_service="bear")])
        await nothing_happened()


class TestCeiling:
    """An owner may have two jobs waiting."""

    @pytest.fixture
    def submit(self, submit: Submit) -> Submit:
        policies = Policies(owners={"lion": OwnerPolicy(max_pending=2), "wolf": OwnerPolicy(weight=3)})
        return dataclasses.replace(submit, policies=lambda: policies)

    async def test_one_more_than_may_wait_is_refused(self, submit: Submit, tickets: RecordingTickets):
        await stored(submit, owner_service="lion")
        await stored(submit, owner_service="lion")
        tickets.published.clear()
        with pytest.raises(TooManyPending, match="2"):
            await stored(submit, owner_service="lion")
        assert tickets.published == []

    async def test_a_batch_that_would_be_too_much_is_refused_whole(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(TooManyPending):
            await submit.batch(ANYBODY, [submission(owner_service="lion")] * 3)
        await nothing_happened()

    async def test_a_batch_that_has_room_is_stored(self, submit: Submit, store: FragileStore):
        await submit.batch(ANYBODY, [submission(owner_service="lion")] * 2)
        assert len(await found(store)) == 2

    async def test_one_that_began_has_made_room(self, submit: Submit, store: FragileStore):
        await submit.batch(ANYBODY, [submission(owner_service="lion")] * 2)
        await take(store)
        assert (await stored(submit, owner_service="lion")).status is JobStatus.PENDING

    async def test_what_is_there_already_is_found_however_many_wait(self, submit: Submit):
        job = await stored(submit, owner_service="lion", idempotency=KEY)
        await stored(submit, owner_service="lion")
        assert (await stored(submit, owner_service="lion", idempotency=KEY)).id == job.id

    @pytest.mark.parametrize("owner", ["bear", "wolf"])
    async def test_others_have_no_ceiling(self, submit: Submit, store: FragileStore, owner: str):
        await submit.batch(ANYBODY, [submission(owner_service=owner)] * 9)
        assert len(await found(store)) == 9


class TestWeight:
    @pytest.mark.parametrize(
        ("caller", "weight"),
        [
            pytest.param(Caller(owner="lion", weight=3.0), 3.0, id="its owner's token says"),
            pytest.param(Caller(weight=3.0), None, id="a token for all owners says nothing of any one"),
        ],
    )
    async def test_a_jobs_weight_is_what_its_owners_token_says(
        self, submit: Submit, store: FragileStore, monkeypatch: pytest.MonkeyPatch, caller: Caller, weight: float | None
    ):
        add, weights = store.add, list[float | None]()

        async def watched(jobs: Sequence[NewJob], ceilings: Mapping[str, int]) -> list[Added]:
            weights.extend(job.weight for job in jobs)
            return await add(jobs, ceilings)

        monkeypatch.setattr(store, "add", watched)
        asked = submission(owner_service="lion")
        await submit.one(caller, asked)
        await submit.batch(caller, [asked])
        assert weights == [weight, weight]


class TestIdempotency:
    async def test_a_job_that_is_erased_while_it_is_found_is_stored_anew(
        self, submit: Submit, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        first = await stored(submit, idempotency=KEY)
        await cancel(store, first.id)
        add = store.add

        async def found_and_erased(jobs: Sequence[NewJob], ceilings: Mapping[str, int]) -> list[Added]:
            answer = await add(jobs, ceilings)
            await store.erase([first.id])
            return answer

        monkeypatch.setattr(store, "add", found_and_erased)
        again = await submit.one(ANYBODY, submission(idempotency=KEY))
        assert (again.created, await found(store)) == (True, [again.job.id])

    async def test_the_same_submission_again_finds_the_same_job_whole(self, submit: Submit, store: FragileStore):
        first = await submit.one(ANYBODY, submission(idempotency=KEY))
        again = await submit.one(ANYBODY, submission(idempotency=KEY))
        assert again == Added(await store.get(first.job.id), created=False)
        assert await found(store) == [first.job.id]

    async def test_it_finds_it_whatever_has_become_of_it(self, submit: Submit, store: FragileStore, clock: FakeClock):
        job = await stored(submit, idempotency=KEY, deadline_at=NOW + AN_HOUR)
        await cancel(store, job.id)
        clock.advance(2 * AN_HOUR)
        assert (await stored(submit, idempotency=KEY, deadline_at=NOW + AN_HOUR)).status is JobStatus.CANCELLED

    async def test_what_is_found_wakes_nobody_and_is_no_news(
        self, submit: Submit, tickets: RecordingTickets, events: RecordingEvents
    ):
        job = await stored(submit, idempotency=KEY)
        await submit.one(ANYBODY, submission(idempotency=KEY))
        assert (tickets.published, events.published) == ([(QUEUE, 1)], [submitted(job)])

    async def test_a_key_that_comes_with_another_request_is_refused_at_its_place(
        self, submit: Submit, store: FragileStore, events: RecordingEvents
    ):
        first = await stored(submit, idempotency=KEY)
        with pytest.raises(BadInput) as refusal:
            await submit.one(ANYBODY, submission(idempotency=replace(KEY, fingerprint=b"another")))
        assert pointers(refusal) == ["/idempotency_key"]
        assert (await found(store), len(events.published)) == ([first.id], 1)

    async def test_another_owner_may_use_the_same_key(self, submit: Submit, store: FragileStore):
        jobs = [await stored(submit, owner_service=owner, idempotency=KEY) for owner in ("lion", "bear")]
        assert await found(store) == [jobs[1].id, jobs[0].id]


class TestBatch:
    async def test_the_jobs_of_a_batch_share_its_id_and_keep_their_order(self, submit: Submit, store: FragileStore):
        batch = await submit.batch(ANYBODY, [submission(owner_ref=str(place)) for place in range(3)])
        assert [added.job.owner_ref for added in batch.jobs] == ["0", "1", "2"]
        assert await found(store, newest_first=False) == [added.job.id for added in batch.jobs]
        assert {added.job.batch_id for added in batch.jobs} == {batch.id}

    async def test_what_is_served_is_asked_where_everything_else_asks_it(self, submit: Submit, routes: Routes):
        asked_on: list[threading.Thread] = []

        def asked() -> Routes:
            asked_on.append(threading.current_thread())
            return routes

        await dataclasses.replace(submit, routes=asked).batch(ANYBODY, [submission(), submission()])
        assert asked_on == [threading.current_thread()]

    async def test_each_batch_has_its_own_id(self, submit: Submit):
        assert (await submit.batch(ANYBODY, [submission()])).id != (await submit.batch(ANYBODY, [submission()])).id

    async def test_it_wakes_workers_by_queue_and_tells_of_every_job(
        self, submit: Submit, tickets: RecordingTickets, events: RecordingEvents
    ):
        speech = {"task_type": "transcription", "model_profile": "whisper-large-v3", "input": SPEECH_INPUT}
        batch = await submit.batch(
            ANYBODY,
            [
                submission(),
                submission(**speech),
                submission(),
                submission(run_at=NOW + AN_HOUR),
                submission(task_type="their_own"),
            ],
        )
        assert sorted(tickets.published) == [(QUEUE, 2), ("gpu.speech", 1)]
        assert events.published == [submitted(added.job) for added in batch.jobs]

    async def test_what_was_there_before_is_counted_apart_and_keeps_its_own_batch(
        self, submit: Submit, tickets: RecordingTickets, events: RecordingEvents
    ):
        asked = submission(task_type="their_own", idempotency=KEY)
        known = (await submit.one(ANYBODY, asked)).job
        events.published.clear()
        batch = await submit.batch(ANYBODY, [submission(), asked, submission()])
        assert ([added.created for added in batch.jobs], batch.created) == ([True, False, True], 2)
        assert (batch.jobs[1].job.id, batch.jobs[1].job.batch_id) == (known.id, None)
        assert tickets.published == [(QUEUE, 2)]
        assert [event.job_id for event in events.published] == [batch.jobs[0].job.id, batch.jobs[2].job.id]

    async def test_the_same_key_twice_in_a_batch_is_one_job(self, submit: Submit, store: FragileStore):
        batch = await submit.batch(ANYBODY, [submission(idempotency=KEY), submission(idempotency=KEY)])
        assert [added.created for added in batch.jobs] == [True, False]
        assert await found(store) == [batch.jobs[0].job.id]

    async def test_one_bad_job_keeps_all_from_being_stored_and_is_named(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(BadInput) as refusal:
            await submit.batch(ANYBODY, [*[submission()] * 17, submission(input=BAD)])
        assert pointers(refusal) == ["/jobs/17/input/messages"]
        await nothing_happened()

    async def test_every_bad_job_is_named_whatever_is_wrong_with_it(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(BadInput) as refusal:
            await submit.batch(
                ANYBODY,
                [
                    submission(owner_service=None),
                    submission(),
                    submission(input=BAD),
                    submission(run_at=NOW, deadline_at=NOW),
                    submission(model_profile="whisper-large-v3"),
                ],
            )
        assert pointers(refusal) == [
            "/jobs/0/owner_service",
            "/jobs/2/input/messages",
            "/jobs/3/deadline_at",
            "/jobs/4/model_profile",
        ]
        await nothing_happened()

    async def test_of_very_many_problems_the_first_are_told(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(BadInput) as refusal:
            await submit.batch(ANYBODY, [submission(input=BAD)] * (MOST_PROBLEMS + 5))
        assert pointers(refusal) == [f"/jobs/{place}/input/messages" for place in range(MOST_PROBLEMS)]
        await nothing_happened()

    async def test_an_input_over_the_limit_is_named_too(self, submit: Submit, nothing_happened: Any):
        with pytest.raises(TooLarge, match="/jobs/1"):
            await submit.batch(ANYBODY, [submission(), submission(input=input_of(LIMIT + 1))])
        await nothing_happened()

    async def test_reused_keys_are_named_and_nothing_is_stored(
        self, submit: Submit, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        known = await stored(submit, idempotency=KEY)
        other = IdempotencyKey("call-8", b"fingerprint")
        with pytest.raises(BadInput) as refusal:
            await submit.batch(
                ANYBODY,
                [
                    submission(idempotency=other),
                    submission(idempotency=replace(KEY, fingerprint=b"another")),
                    submission(idempotency=KEY),
                    submission(idempotency=replace(other, fingerprint=b"another")),
                ],
            )
        assert pointers(refusal) == ["/jobs/1/idempotency_key", "/jobs/3/idempotency_key"]
        assert (await found(store), len(tickets.published), len(events.published)) == ([known.id], 1, 1)

    async def test_a_batch_given_again_finds_its_jobs(self, submit: Submit):
        asked = [submission(idempotency=IdempotencyKey(f"call-{place}", b"f")) for place in range(3)]
        first, again = await submit.batch(ANYBODY, asked), await submit.batch(ANYBODY, asked)
        assert [added.job.id for added in again.jobs] == [added.job.id for added in first.jobs]
        assert (first.created, again.created) == (3, 0)


class TestATaskTypeOfTheInstallationsOwn:
    class Scan(Struct):
        language: Literal["de", "en"]
        upload_id: UUID | None = None

    @pytest.fixture
    def submit(self, submit: Submit) -> Submit:
        async def nothing(job: Any) -> object:
            return {}

        ocr = TaskType("ocr", nothing, self.Scan, OwnQueue("tesseract", "cpu.ocr"))
        routes = Routes(submit.routes(), None, {ocr.name: ocr.needs})
        return dataclasses.replace(submit, routes=lambda: routes, task_types={ocr.name: ocr})

    async def test_it_waits_in_its_queue(self, submit: Submit):
        job = await stored(submit, task_type="ocr", model_profile="tesseract", input=Raw(b'{"language": "de"}'))
        assert job.queue == "cpu.ocr"

    @pytest.mark.parametrize(
        ("given", "pointer"),
        [(b'{"language": "xx"}', "/input/language"), (b"{}", "/input/language"), (b"[]", "/input"), (b"7", "/input")],
    )
    async def test_an_input_that_does_not_fit_is_pointed_at(
        self, submit: Submit, given: bytes, pointer: str, nothing_happened: Any
    ):
        with pytest.raises(BadInput) as refused:
            await stored(submit, task_type="ocr", model_profile="tesseract", input=Raw(given))
        assert [problem.pointer for problem in refused.value.problems] == [pointer]
        await nothing_happened()

    async def test_its_worker_elsewhere_decides_where_it_is_not_served(self, submit: Submit):
        job = await stored(submit, task_type="ocr", model_profile="their_own", input=Raw(b'{"language": "xx"}'))
        assert job.queue is None

    async def test_the_upload_that_it_names_is_kept_for_it(self, submit: Submit, store: FragileStore):
        upload = await uploaded(store)
        given = Raw(f'{{"language": "de", "upload_id": "{upload.id}"}}'.encode())
        await stored(submit, task_type="ocr", model_profile="tesseract", input=given)
        with pytest.raises(UploadInUse):
            await store.uploads.remove(upload.id)

    async def test_an_upload_that_is_not_there_is_refused(self, submit: Submit):
        given = Raw(f'{{"language": "de", "upload_id": "{NO_JOB}"}}'.encode())
        with pytest.raises(BadInput) as refused:
            await stored(submit, task_type="ocr", model_profile="tesseract", input=given)
        assert [problem.pointer for problem in refused.value.problems] == ["/input/upload_id"]
