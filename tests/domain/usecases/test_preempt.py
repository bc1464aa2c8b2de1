from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import Raw

from domain.access import ANYBODY
from domain.errors import StorageUnavailable
from domain.events import REVOKED, JobEvent
from domain.job import JobStatus, LeasedJob, Priority
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.routing import Routes
from domain.usecases.preempt import Preempt
from domain.usecases.submit import Submit
from domain.usecases.wake import Wake
from domain.usecases.work import Work
from tests.factories import NOW, QUEUE, new_beat, new_id, submission
from tests.fakes import FakeClock, FakeSchemas, FragileStore, RecordingEvents
from tests.moves import one, several, statuses, take, taken_ids

PREEMPT = Policies({QUEUE: QueuePolicy(preempt=True)})
HIGH, LOW = Priority.HIGH, Priority.LOW
SPEECH = {
    "task_type": "transcribe",
    "model_profile": "whisper-large-v3",
    "input": Raw(b'{"audio_url": "https://example.com/a.wav"}'),
}
SLOTS = 2


@pytest.fixture
def preempt(store: FragileStore, events: RecordingEvents) -> Preempt:
    return Preempt(store, events)


async def all_slots_run(store: FragileStore, policies: Policies = PREEMPT, priority: int = LOW) -> list[LeasedJob]:
    """By jobs of this priority, of the one worker that there is."""
    await store.queues.configure(policies, [QUEUE])
    await store.beat(new_beat(slots_per_queue=SLOTS, running={QUEUE: SLOTS}))
    await several(store, SLOTS, priority=priority)
    return await take(store, limit=SLOTS)


class TestMakeRoom:
    async def test_the_run_that_began_last_makes_room(self, preempt: Preempt, store: FragileStore, clock: FakeClock):
        await store.queues.configure(PREEMPT, [QUEUE])
        await store.beat(new_beat(slots_per_queue=SLOTS))
        await several(store, SLOTS, priority=LOW)
        [early] = await take(store)
        clock.advance(timedelta(seconds=1))
        [late] = await take(store)
        await one(store, priority=HIGH)
        assert await preempt.make_room(QUEUE) == 1
        assert await statuses(store, [early.id, late.id]) == {
            early.id: JobStatus.RUNNING,
            late.id: JobStatus.PENDING,
        }

    async def test_it_is_told_that_the_job_waits_again_and_that_its_run_has_lost_it(
        self, preempt: Preempt, store: FragileStore, events: RecordingEvents
    ):
        _, victim = await all_slots_run(store)
        await one(store, priority=HIGH)
        await preempt.make_room(QUEUE)
        pending = JobEvent(victim.id, victim.owner_service, victim.task_type, QUEUE, "pending", victim.number + 1)
        revoked = JobEvent(victim.id, victim.owner_service, victim.task_type, QUEUE, REVOKED, victim.number + 1)
        assert events.published == [pending, revoked]

    async def test_the_job_goes_back_unharmed_and_in_its_old_place(self, preempt: Preempt, store: FragileStore):
        _, victim = await all_slots_run(store)
        younger = await one(store, priority=LOW)
        urgent = await one(store, priority=HIGH)
        await preempt.make_room(QUEUE)
        back = await store.get(victim.id)
        assert (back.attempts, back.give_backs, back.crashes, back.failure) == (0, 0, 0, None)
        assert await taken_ids(store, limit=3) == [urgent.id, victim.id, younger.id]

    async def test_its_slot_is_free_once_its_worker_says_that_the_call_is_closed(
        self, preempt: Preempt, store: FragileStore, work: Work
    ):
        _, victim = await all_slots_run(store, Policies({QUEUE: QueuePolicy(concurrency=SLOTS, preempt=True)}))
        urgent = await one(store, priority=HIGH)
        await preempt.make_room(QUEUE)
        assert await take(store) == []
        await work.exchange([work.released(victim)], None)
        assert [job.id for job in await take(store)] == [urgent.id]

    async def test_while_a_slot_is_being_freed_no_second_one_is_taken_for_it(
        self, preempt: Preempt, store: FragileStore
    ):
        await all_slots_run(store)
        await one(store, priority=HIGH)
        assert [await preempt.make_room(QUEUE), await preempt.make_room(QUEUE)] == [1, 0]

    @pytest.mark.parametrize("priority", [Priority.HIGH, Priority.NORMAL])
    async def test_only_low_jobs_make_room(
        self, preempt: Preempt, store: FragileStore, events: RecordingEvents, priority: Priority
    ):
        await all_slots_run(store, priority=priority)
        await one(store, priority=HIGH)
        assert (await preempt.make_room(QUEUE), events.published) == (0, [])

    async def test_only_for_high_jobs(self, preempt: Preempt, store: FragileStore):
        await all_slots_run(store)
        await one(store, priority=Priority.NORMAL)
        assert await preempt.make_room(QUEUE) == 0

    async def test_not_where_the_policy_does_not_allow_it(self, preempt: Preempt, store: FragileStore):
        await all_slots_run(store, Policies())
        await one(store, priority=HIGH)
        assert await preempt.make_room(QUEUE) == 0

    async def test_not_while_the_queue_is_held(self, preempt: Preempt, store: FragileStore):
        await all_slots_run(store)
        await one(store, priority=HIGH)
        await store.queues.hold([QUEUE], paused=True)
        assert await preempt.make_room(QUEUE) == 0

    async def test_not_for_a_job_whose_owner_may_run_no_more(self, preempt: Preempt, store: FragileStore):
        from_one = Policies(PREEMPT.queues, {"lion": OwnerPolicy(max_running=1)})
        await all_slots_run(store, from_one)
        await store.queues.configure(from_one, [QUEUE])
        await one(store, owner_service="lion", priority=HIGH, queue="gpu.speech")
        assert len(await take(store, queue="gpu.speech")) == 1
        await one(store, owner_service="lion", priority=HIGH)
        assert await preempt.make_room(QUEUE) == 0


class TestSubmit:
    @pytest.fixture
    def policies(self) -> list[Policies]:
        """The last of them is in force."""
        return [PREEMPT]

    @pytest.fixture
    def submit(
        self,
        store: FragileStore,
        routes: Routes,
        wake: Wake,
        events: RecordingEvents,
        preempt: Preempt,
        policies: list[Policies],
    ) -> Submit:
        return Submit(store, lambda: routes, wake, events, preempt, lambda: policies[-1], new_id, 1_000, FakeSchemas())

    async def test_a_high_job_takes_a_slot_at_once(self, submit: Submit, store: FragileStore, events: RecordingEvents):
        _, victim = await all_slots_run(store)
        urgent = (await submit.one(ANYBODY, submission(priority=HIGH))).job
        told = [(event.job_id, event.kind) for event in events.published]
        assert told == [(urgent.id, "pending"), (victim.id, "pending"), (victim.id, REVOKED)]

    async def test_a_batch_takes_as_many_as_it_has_high_jobs(self, submit: Submit, store: FragileStore):
        runs = await all_slots_run(store)
        batch = [submission(priority=priority) for priority in (HIGH, Priority.NORMAL, HIGH, LOW)]
        await submit.batch(ANYBODY, batch)
        assert set((await statuses(store, [job.id for job in runs])).values()) == {JobStatus.PENDING}

    @pytest.mark.parametrize(
        "asked",
        [
            pytest.param({"priority": Priority.NORMAL}, id="not urgent"),
            pytest.param({"priority": HIGH, "run_at": NOW + timedelta(hours=1)}, id="not due"),
            pytest.param({"priority": HIGH, "model_profile": "theirs"}, id="not of a queue"),
            pytest.param({"priority": HIGH, **SPEECH}, id="other"),
        ],
    )
    async def test_any_other_job_takes_none(
        self, submit: Submit, store: FragileStore, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ):
        runs = await all_slots_run(store)
        looked = watched(store, monkeypatch)
        await submit.one(ANYBODY, submission(**asked))
        assert set((await statuses(store, [job.id for job in runs])).values()) == {JobStatus.RUNNING}
        assert looked == []

    async def test_without_the_policy_nobody_even_looks(
        self, submit: Submit, store: FragileStore, policies: list[Policies], monkeypatch: pytest.MonkeyPatch
    ):
        policies.append(Policies({QUEUE: QueuePolicy(concurrency=4)}))
        looked = watched(store, monkeypatch)
        await submit.one(ANYBODY, submission(priority=HIGH))
        assert looked == []

    async def test_a_storage_that_goes_away_after_the_job_is_stored_is_no_error(
        self, submit: Submit, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        async def gone(queue: str, alive_within: timedelta) -> list[JobEvent]:
            raise StorageUnavailable

        monkeypatch.setattr(store, "preempt", gone)
        added = await submit.one(ANYBODY, submission(priority=HIGH))
        assert (await store.get(added.job.id)).status is JobStatus.PENDING


def watched(store: FragileStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues that are looked at for slots to take."""
    looked: list[str] = []

    async def preempt(queue: str, alive_within: timedelta) -> list[JobEvent]:
        looked.append(queue)
        return []

    monkeypatch.setattr(store, "preempt", preempt)
    return looked
