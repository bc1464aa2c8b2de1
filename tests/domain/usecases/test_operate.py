from __future__ import annotations

from collections.abc import Sequence

import pytest

from domain.circuit import Circuit, CircuitState
from domain.errors import QueueNotFound
from domain.policy import Policies, QueuePolicy
from domain.queue import Hold, QueueState
from domain.routing import Routes
from domain.usecases.operate import Operate
from domain.usecases.wake import Wake
from tests.factories import QUEUE, new_beat
from tests.fakes import FragileStore, RecordingTickets
from tests.moves import one, several, take

SPEECH = "gpu.speech"
OPEN = Circuit(CircuitState.OPEN)


def names(states: Sequence[QueueState]) -> list[str]:
    return [state.name for state in states]


async def held(operate: Operate) -> dict[str, Hold | None]:
    return {state.name: state.held for state in await operate.states()}


class TestStates:
    async def test_every_queue_that_is_served_or_known_is_told_in_the_order_of_names(
        self, operate: Operate, store: FragileStore
    ):
        await store.queues.configure(Policies({"gpu.a": QueuePolicy(concurrency=1)}), [])
        await one(store, queue="gpu.z")
        assert names(await operate.states()) == ["gpu.a", "gpu.llm", "gpu.speech", "gpu.z"]

    async def test_one_that_nothing_is_known_of_is_as_they_come(self, operate: Operate):
        assert await operate.states() == [QueueState(QUEUE), QueueState(SPEECH)]

    async def test_without_any_queue_none_is_found(self, store: FragileStore, wake: Wake):
        operate = Operate(store.queues, lambda: Routes([]), wake)
        assert await operate.meant(None) == []
        with pytest.raises(QueueNotFound):
            await operate.meant(QUEUE)


class TestHold:
    async def test_one_queue_is_held_and_told_as_it_is_now(self, operate: Operate):
        [state] = await operate.hold(QUEUE, paused=True)
        assert (state.name, state.paused, state.stopped) == (QUEUE, True, False)
        assert await held(operate) == {QUEUE: Hold.PAUSED, SPEECH: None}

    async def test_all_are_held_also_those_that_are_served_elsewhere(self, operate: Operate, store: FragileStore):
        await one(store, queue="gpu.theirs")
        assert names(await operate.hold(None, stopped=True)) == [QUEUE, SPEECH, "gpu.theirs"]
        assert set((await held(operate)).values()) == {Hold.PAUSED}

    async def test_the_flags_are_two(self, operate: Operate):
        await operate.hold(QUEUE, paused=True, stopped=True)
        [state] = await operate.hold(QUEUE, paused=False)
        assert (state.paused, state.stopped, state.held) == (False, True, Hold.PAUSED)

    async def test_an_unknown_queue_is_not_found_and_the_known_ones_are_named(
        self, operate: Operate, store: FragileStore
    ):
        with pytest.raises(QueueNotFound, match=r"'gpu\.lmm'; known: gpu\.llm, gpu\.speech\."):
            await operate.hold("gpu.lmm", paused=True)
        assert await store.queues.states() == []

    async def test_while_it_is_held_nothing_starts_and_then_the_first_in_line_does(
        self, operate: Operate, store: FragileStore
    ):
        first, _ = await several(store, 2)
        await operate.hold(QUEUE, paused=True)
        assert await take(store) == []
        await operate.hold(QUEUE, paused=False)
        assert [job.id for job in await take(store)] == [first.id]


class TestWakes:
    @pytest.fixture(autouse=True)
    async def due(self, store: FragileStore) -> None:
        """Two jobs of one queue, one of the other, and idle slots for all."""
        await several(store, 2)
        await one(store, queue=SPEECH)
        await store.beat(new_beat(queues=(QUEUE, SPEECH)))

    async def test_what_is_held_wakes_nobody(self, operate: Operate, tickets: RecordingTickets):
        await operate.hold(None, paused=True)
        assert tickets.published == []

    async def test_what_is_held_no_more_wakes_slots_for_what_waits(self, operate: Operate, tickets: RecordingTickets):
        await operate.hold(None, paused=True)
        await operate.hold(None, paused=False)
        assert tickets.published == [(QUEUE, 2), (SPEECH, 1)]

    async def test_what_the_other_flag_still_holds_wakes_nobody(self, operate: Operate, tickets: RecordingTickets):
        await operate.hold(None, paused=True)
        await operate.hold(QUEUE, stopped=True)
        await operate.hold(None, paused=False)
        assert tickets.published == [(SPEECH, 1)]

    async def test_a_circuit_that_is_closed_by_hand_wakes_its_queue(
        self, operate: Operate, store: FragileStore, tickets: RecordingTickets
    ):
        await store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        assert (await operate.close_circuit(QUEUE)).circuit == Circuit()
        assert tickets.published == [(QUEUE, 2)]

    async def test_it_wakes_nobody_while_the_queue_is_paused(
        self, operate: Operate, store: FragileStore, tickets: RecordingTickets
    ):
        await store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        await operate.hold(QUEUE, paused=True)
        state = await operate.close_circuit(QUEUE)
        assert (state.held, tickets.published) == (Hold.PAUSED, [])

    async def test_the_circuit_of_an_unknown_queue_is_not_found(self, operate: Operate):
        with pytest.raises(QueueNotFound):
            await operate.close_circuit("gpu.lmm")
