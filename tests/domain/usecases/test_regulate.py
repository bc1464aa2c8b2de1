from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from domain.adaptive import START, Adapted, Pressure, Workload
from domain.circuit import Circuit, CircuitState
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.routing import ModelKind, Profile, Routes
from domain.usecases.guard import Guard
from domain.usecases.regulate import LONGEST_LOOK, LOOKED_BACK, Regulate
from domain.usecases.wake import Wake
from tests.factories import PROFILE, QUEUE, new_beat
from tests.fakes import FakeClock, FakeHealth, FakeQueues, FragileStore, RecordingTickets
from tests.moves import several, take

SPEECH = "gpu.speech"
SECOND = timedelta(seconds=1)
OPEN = Circuit(CircuitState.OPEN, model_profile=PROFILE)
HALF_OPEN = Circuit(CircuitState.HALF_OPEN, model_profile=PROFILE)
ADAPTIVE = QueuePolicy(concurrency=8, adaptive=True)


@pytest.fixture
def guard(store: FragileStore, health: FakeHealth) -> Guard:
    return Guard(store.queues, health, threshold=3)


@pytest.fixture
def regulate(store: FragileStore, guard: Guard, routes: Routes, wake: Wake, clock: FakeClock) -> Regulate:
    return Regulate(store.queues, guard, lambda: routes, wake, clock.now)


async def circuit(store: FragileStore, circuit: Circuit) -> None:
    await store.queues.change_circuit(QUEUE, lambda *_: circuit)


async def regulated(regulate: Regulate) -> list[str]:
    """What the leader does each second, one queue after the other. Returns which wanted it."""
    wanting = await regulate.wanting()
    for state in wanting:
        await regulate.regulate(state)
    return [state.name for state in wanting]


class TestPutInForce:
    async def test_queues_that_no_policy_names_are_there_with_the_defaults(
        self, regulate: Regulate, store: FragileStore
    ):
        await regulate.put_in_force(Policies({"gpu.other": QueuePolicy(concurrency=3)}))
        assert {state.name: state.policy for state in await store.queues.states()} == {
            "gpu.llm": QueuePolicy(),
            "gpu.other": QueuePolicy(concurrency=3),
            "gpu.speech": QueuePolicy(),
        }

    async def test_what_is_named_no_more_has_the_defaults_again(self, regulate: Regulate, store: FragileStore):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}, {"lion": OwnerPolicy(weight=3)}))
        await regulate.put_in_force(Policies())
        assert (store.queues.state(QUEUE).policy, store.queues.owner("lion")) == (QueuePolicy(), OwnerPolicy())

    async def test_only_new_policies_leave_alone_what_another_put_in_force(
        self, regulate: Regulate, store: FragileStore
    ):
        one, two = QueuePolicy(concurrency=1), QueuePolicy(concurrency=2)
        await regulate.put_in_force(Policies({QUEUE: one}, {"lion": OwnerPolicy(weight=1)}))
        later = Policies({QUEUE: two, "gpu.new": two}, {"lion": OwnerPolicy(weight=2), "bear": OwnerPolicy(weight=2)})
        await store.queues.configure(later, regulate.routes().queues, only_new=True)  # as workers do at their start
        assert {state.name: state.policy for state in await store.queues.states()} == {
            "gpu.llm": one,
            "gpu.new": two,
            "gpu.speech": QueuePolicy(),
        }
        assert (store.queues.owner("lion").weight, store.queues.owner("bear").weight) == (1, 2)


class TestWanting:
    async def test_ordinary_queues_want_nothing(self, regulate: Regulate):
        await regulate.put_in_force(Policies({QUEUE: QueuePolicy(concurrency=8)}))
        assert await regulate.wanting() == []

    async def test_open_circuits_and_adaptive_queues_do(self, regulate: Regulate, store: FragileStore):
        await regulate.put_in_force(Policies({SPEECH: ADAPTIVE}))
        await circuit(store, OPEN)
        assert [state.name for state in await regulate.wanting()] == ["gpu.llm", "gpu.speech"]

    @pytest.mark.parametrize("held", [{"paused": True}, {"stopped": True}])
    async def test_an_adaptive_queue_that_is_held_does_not(
        self, regulate: Regulate, store: FragileStore, held: dict[str, bool]
    ):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await store.queues.hold([QUEUE], **held)
        assert await regulate.wanting() == []

    async def test_nor_one_whose_server_a_job_tries(self, regulate: Regulate, store: FragileStore):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await circuit(store, HALF_OPEN)
        assert await regulate.wanting() == []


class TestOpenCircuits:
    async def test_a_server_that_answers_again_half_opens_it_and_wakes_one_slot(
        self, regulate: Regulate, store: FragileStore, tickets: RecordingTickets
    ):
        await several(store, 5)
        await circuit(store, OPEN)
        assert await regulated(regulate) == [QUEUE]
        assert store.queues.state(QUEUE).circuit.state is CircuitState.HALF_OPEN
        assert tickets.published == [(QUEUE, 1)]

    async def test_then_exactly_one_job_is_tried(self, regulate: Regulate, store: FragileStore):
        await several(store, 5)
        await circuit(store, OPEN)
        await regulated(regulate)
        assert [job.trial for job in await take(store, limit=5)] == [True]
        assert await take(store, limit=5) == []

    async def test_one_that_does_not_stays_open_and_wakes_nobody(
        self, regulate: Regulate, store: FragileStore, health: FakeHealth, tickets: RecordingTickets
    ):
        health.down = {PROFILE}
        await circuit(store, OPEN)
        await regulated(regulate)
        assert store.queues.state(QUEUE).circuit.state is CircuitState.OPEN
        assert tickets.published == []

    async def test_an_adaptive_queue_with_an_open_circuit_is_probed_and_not_adapted(
        self, regulate: Regulate, store: FragileStore
    ):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await circuit(store, OPEN)
        await regulated(regulate)
        state = store.queues.state(QUEUE)
        assert (state.circuit.state, state.adapted) == (CircuitState.HALF_OPEN, None)

    async def test_a_server_that_does_not_answer_holds_up_no_other_queue(
        self, regulate: Regulate, store: FragileStore, health: FakeHealth
    ):
        asked, answer = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            asked.set()
            await answer.wait()

        health.meanwhile = hang
        await regulate.put_in_force(Policies({SPEECH: ADAPTIVE}))
        await circuit(store, OPEN)
        llm, speech = await regulate.wanting()
        hanging = asyncio.create_task(regulate.regulate(llm))
        await asked.wait()
        await regulate.regulate(speech)
        assert store.queues.state(SPEECH).adapted
        answer.set()
        await hanging
        assert store.queues.state(QUEUE).circuit.state is CircuitState.HALF_OPEN


class TestAdapting:
    @pytest.fixture
    def told(self, store: FragileStore, monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
        """How far back each look at the runs of a queue went."""
        looks: list[timedelta] = []
        workload = store.queues.workload

        async def watched(queue: str, within: timedelta, alive_within: timedelta) -> Workload:
            looks.append(within)
            return await workload(queue, within, alive_within)

        monkeypatch.setattr(store.queues, "workload", watched)
        return looks

    async def limit(self, store: FragileStore) -> int | None:
        return store.queues.state(QUEUE).limit

    async def test_it_begins_carefully(self, regulate: Regulate, store: FragileStore):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await regulated(regulate)
        assert await self.limit(store) == START

    async def test_the_configured_concurrency_bounds_it(self, regulate: Regulate, store: FragileStore):
        await store.beat(new_beat(slots_per_queue=64))
        await regulate.put_in_force(Policies({QUEUE: QueuePolicy(concurrency=2, adaptive=True)}))
        await regulated(regulate)
        assert await self.limit(store) == 2

    async def test_without_one_the_slots_of_live_workers_do(
        self, regulate: Regulate, store: FragileStore, clock: FakeClock
    ):
        await store.beat(new_beat(slots_per_queue=64))
        clock.advance(timedelta(seconds=15))
        await store.beat(new_beat(slots_per_queue=2))
        await store.beat(new_beat(slots_per_queue=1))
        await regulate.put_in_force(Policies({QUEUE: QueuePolicy(adaptive=True)}))
        await regulated(regulate)
        assert await self.limit(store) == 3

    async def test_where_nobody_serves_it_one_call_is_let_through(self, regulate: Regulate, store: FragileStore):
        await regulate.put_in_force(Policies({QUEUE: QueuePolicy(adaptive=True)}))
        await regulated(regulate)
        assert await self.limit(store) == 1

    async def test_a_server_whose_own_queue_fills_up_lowers_it(
        self, store: FragileStore, health: FakeHealth, wake: Wake, guard: Guard, clock: FakeClock
    ):
        routes = Routes(Profile(name, ModelKind.CHAT, QUEUE) for name in ("idle", "busy", "silent"))
        regulate = Regulate(store.queues, guard, lambda: routes, wake, clock.now)
        health.loads = {"idle": Pressure(running=1, waiting=0), "busy": Pressure(running=4, waiting=4)}
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await store.queues.adapt(QUEUE, Adapted(8, waiting=4))
        await several(store, 8)
        await take(store, limit=8)
        await regulated(regulate)
        assert await self.limit(store) == 4

    async def test_what_changes_nothing_is_not_written(
        self, guard: Guard, routes: Routes, wake: Wake, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ):
        queues = FakeQueues(clock.now)
        regulate = Regulate(queues, guard, lambda: routes, wake, clock.now)
        queues.load[QUEUE] = Workload(completed=0, overloads=0, busy=0, due=0, slots=4)
        await queues.configure(Policies({QUEUE: ADAPTIVE}), [])
        await regulated(regulate)
        written: list[str] = []

        async def adapt(queue: str, adapted: Adapted | None) -> None:
            written.append(queue)

        monkeypatch.setattr(queues, "adapt", adapt)
        clock.advance(SECOND)
        await regulated(regulate)
        assert written == []

    async def test_each_look_takes_in_what_ended_since_the_last(
        self, regulate: Regulate, clock: FakeClock, told: list[timedelta]
    ):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await regulated(regulate)
        clock.advance(3 * SECOND)
        await regulated(regulate)
        assert told == [LOOKED_BACK, 3 * SECOND]

    async def test_what_ended_before_a_long_hold_tells_nothing_of_now(
        self, regulate: Regulate, store: FragileStore, clock: FakeClock, told: list[timedelta]
    ):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        await regulated(regulate)
        await store.queues.hold([QUEUE], paused=True)
        clock.advance(timedelta(hours=2))
        await regulated(regulate)
        await store.queues.hold([QUEUE], paused=False)
        await regulated(regulate)
        assert told == [LOOKED_BACK, LONGEST_LOOK]

    async def test_a_queue_that_stopped_adapting_meanwhile_keeps_no_limit(
        self, regulate: Regulate, store: FragileStore
    ):
        await regulate.put_in_force(Policies({QUEUE: ADAPTIVE}))
        [seen] = await regulate.wanting()
        await regulate.put_in_force(Policies({QUEUE: QueuePolicy(concurrency=8)}))
        await regulate.regulate(seen)
        assert store.queues.state(QUEUE).limit == 8
