from __future__ import annotations

from uuid import uuid4

import pytest
from msgspec import Raw
from msgspec.structs import asdict, replace

from domain.job import Job, JobStatus, Priority
from domain.ports import Added, JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, STATES, State
from tests.factories import new_job
from tests.moves import found, ids, one, several, take, taken_ids

AWKWARD = """'; DROP TABLE jobs; -- "quoted" \\ % $1 {} \t\n ünïcødé 日本語 🦊 """
LONG = (AWKWARD * 20)[:500]
NOT_OF_THE_JOB = {"run_at", "idempotency", "weight", "upload_id", "traceparent"}
LONG_NAME = "A9._:/@+-z" * 10


async def test_a_new_job_has_every_field_as_sent_and_the_stores_own_times(rig: Rig):
    now = await rig.now()
    sent = new_job(
        owner_service="lion",
        owner_ref="beeline/42",
        task_type="their_own",
        model_profile="m@1:2/3+4",
        queue="gpu.speech",
        priority=Priority.HIGH,
        max_attempts=7,
        run_at=now + A_MINUTE,
        deadline_at=now + 2 * A_MINUTE,
        labels={"team": "red", "a/b.c_d-e": ""},
        batch_id=uuid4(),
        give_backs=10,
    )
    [added] = await rig.store.add([sent])
    job = added.job
    assert added.created
    assert job == Job(
        **{name: value for name, value in asdict(sent).items() if name not in NOT_OF_THE_JOB},
        seq=job.seq,
        level=1,
        status=JobStatus.PENDING,
        run_at=now + A_MINUTE,
        due=False,
        created_at=now,
        updated_at=now,
    )


async def test_what_add_returns_is_what_is_stored(store: JobStore):
    job = await one(store)
    assert await store.get(job.id) == job


async def test_without_a_time_of_its_own_a_job_is_due_now(rig: Rig):
    job = await one(rig.store)
    assert (job.run_at, job.due) == (await rig.now(), True)


async def test_a_time_that_has_passed_is_kept_and_due(rig: Rig):
    earlier = await rig.now() - A_MINUTE
    job = await one(rig.store, run_at=earlier)
    assert (job.run_at, job.due) == (earlier, True)


async def test_jobs_take_their_places_in_the_order_given(store: JobStore):
    sent = [new_job() for _ in range(5)]
    sent.reverse()
    jobs = [*(added.job for added in await store.add(sent)), await one(store)]
    assert ids(jobs[:5]) == [job.id for job in sent]
    assert [job.seq for job in jobs] == sorted({job.seq for job in jobs})


async def test_adding_a_job_again_changes_nothing_and_tells_what_it_has_become(rig: Rig):
    job = await one(rig.store)
    [held] = await take(rig.store)
    await rig.advance(A_MINUTE)
    before = await rig.store.get(job.id)
    [again] = await rig.store.add([new_job(id=job.id, owner_ref="other", priority=Priority.HIGH)])
    assert again == Added(replace(before, input=None, result=None), created=False)
    assert (again.job.lease, await rig.store.get(job.id)) == (held.lease, before)


@pytest.mark.parametrize("state", STATES)
async def test_a_job_that_is_there_is_there_in_whatever_state(rig: Rig, state: State):
    job_id = await state(rig)
    before = await rig.store.get(job_id)
    [again] = await rig.store.add([new_job(id=job_id)])
    assert again == Added(replace(before, input=None, result=None), created=False)


async def test_known_jobs_among_new_ones_keep_their_places(store: JobStore):
    known = await one(store)
    first, last = new_job(), new_job()
    added = await store.add([first, new_job(id=known.id), last])
    assert [each.job.id for each in added] == [first.id, known.id, last.id]
    assert [each.created for each in added] == [True, False, True]
    assert await found(store) == [last.id, first.id, known.id]


async def test_a_job_given_twice_in_one_go_is_the_first_of_them(store: JobStore):
    sent, other = new_job(), new_job()
    first, between, second = await store.add([sent, other, replace(sent, owner_ref="twin")])
    assert (first.created, between.created, second.created) == (True, True, False)
    assert second.job == replace(first.job, input=None)
    assert (await store.get(sent.id)).owner_ref == ""
    assert await found(store) == [other.id, sent.id]


async def test_nothing_is_added_to_nothing(store: JobStore):
    assert await store.add([]) == []


@pytest.mark.parametrize("jobs", [500, 2_500])
async def test_many_jobs_are_stored_in_one_go(store: JobStore, jobs: int):
    added = await several(store, jobs)
    assert await found(store, limit=10_000) == ids(added)[::-1]


async def test_many_jobs_of_which_some_are_known_are_stored_in_one_go(store: JobStore):
    sent = [new_job() for _ in range(2_500)]
    await store.add(sent[::5])
    added = await store.add(sent)
    assert [each.job.id for each in added] == [new.id for new in sent]
    assert [each.created for each in added] == [place % 5 != 0 for place in range(2_500)]


async def test_each_job_has_its_own_labels_and_the_details_of_no_other(store: JobStore):
    batch = uuid4()
    sent = [
        new_job(labels={"team": "red", "n": "1"}, batch_id=batch),
        new_job(),
        new_job(labels={"team": "blue"}, owner_ref="call/7"),
    ]
    await store.add(sent)
    assert [(job.labels, job.batch_id, job.owner_ref) for job in [await store.get(new.id) for new in sent]] == [
        (new.labels, new.batch_id, new.owner_ref) for new in sent
    ]


async def test_labels_may_be_as_many_and_as_odd_as_the_contract_allows(store: JobStore):
    labels = {f"{LONG_NAME[:60]}{place}": LONG[:200] for place in range(16)}
    assert (await store.get((await one(store, labels=labels)).id)).labels == labels


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"{}", id="empty"),
        pytest.param(b'{ "b" :1,\n\t"a":2.50, "c": 1e3 }', id="spaces, order, numbers"),
        pytest.param(b'{"a":1,"a":2}', id="a name twice"),
        pytest.param('{"text":"Ünïcødé 日本語 🦊 \\u00e9 \\ud83e\\udd8a"}'.encode(), id="unicode"),
        pytest.param(b'{"text":"\\u0000 \\" \\\\ \' % $1"}', id="escapes"),
        pytest.param(b'{"big":123456789012345678901234567890}', id="a large number"),
        pytest.param(b'{"text":"' + b"x" * 1_048_000 + b'"}', id="1 MiB"),
    ],
)
async def test_an_input_is_kept_byte_for_byte(store: JobStore, given: bytes):
    job = await one(store, input=Raw(given))
    [held] = await take(store)
    stored = (await store.get(job.id)).input
    assert stored is not None
    assert (bytes(stored), bytes(held.input)) == (given, given)


async def test_names_and_texts_may_be_as_long_and_odd_as_the_contract_allows(store: JobStore):
    names = dict.fromkeys(("owner_service", "task_type", "model_profile", "queue"), LONG_NAME)
    job = await store.get((await one(store, owner_ref=LONG, **names)).id)
    assert {name: getattr(job, name) for name in names} == names
    assert job.owner_ref == LONG
    assert await taken_ids(
        store, queue=LONG_NAME, task_types=(LONG_NAME,), model_profiles=(LONG_NAME,), worker_id=LONG
    ) == [job.id]
    assert (await store.get(job.id)).worker_id == LONG
