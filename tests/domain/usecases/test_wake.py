from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from domain.circuit import Circuit, CircuitState
from domain.policy import Policies, QueuePolicy
from domain.ports import Demand
from domain.usecases.wake import MOST_TICKETS, WELL_BACKLOGGED, Wake
from tests.factories import QUEUE, new_beat, new_job
from tests.fakes import FakeClock, FragileStore, RecordingTickets
from tests.moves import lend, take

A_SECOND = timedelta(seconds=1)
SLOTS = 4


@pytest.fixture
def looks(store: FragileStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The queues of every look at the demand."""
    seen: list[tuple[str, ...]] = []
    demand = store.demand

    async def watched(queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        seen.append(tuple(queues))
        return await demand(queues, alive_within)

    monkeypatch.setattr(store, "demand", watched)
    return seen


async def queue_up(store: FragileStore, jobs: int, *, slots: int = SLOTS) -> None:
    await store.add([new_job() for _ in range(jobs)])
    await store.beat(new_beat(slots_per_queue=slots))


async def test_every_new_job_of_a_queue_without_a_backlog_gets_a_ticket(wake: Wake, tickets: RecordingTickets):
    await wake.for_jobs({QUEUE: 1})
    await wake.for_jobs({QUEUE: 2, "gpu.speech": 3})
    assert tickets.published == [(QUEUE, 1), (QUEUE, 2), ("gpu.speech", 3)]


async def test_a_batch_gets_no_more_tickets_than_it_can_use(wake: Wake, tickets: RecordingTickets):
    await wake.for_jobs({QUEUE: 10_000})
    assert tickets.published == [(QUEUE, MOST_TICKETS)]


async def test_a_look_is_believed_for_a_second(wake: Wake, clock: FakeClock, looks: list[tuple[str, ...]]):
    await wake.for_jobs({QUEUE: 1})
    clock.advance(A_SECOND * 0.999)
    await wake.for_jobs({QUEUE: 1})
    assert looks == [(QUEUE,)]
    clock.advance(A_SECOND * 0.001)
    await wake.for_jobs({QUEUE: 1})
    assert looks == [(QUEUE,), (QUEUE,)]


async def test_each_queue_is_looked_at_in_its_own_time(wake: Wake, clock: FakeClock, looks: list[tuple[str, ...]]):
    await wake.for_jobs({QUEUE: 1})
    clock.advance(A_SECOND / 2)
    await wake.for_jobs({QUEUE: 1, "gpu.speech": 1})
    assert looks == [(QUEUE,), ("gpu.speech",)]


async def test_a_ticket_is_on_its_way_before_anybody_looks(
    wake: Wake, store: FragileStore, tickets: RecordingTickets, monkeypatch: pytest.MonkeyPatch
):
    published_at_look: list[tuple[str, int]] = []

    async def watched(queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        published_at_look.extend(tickets.published)
        return []

    monkeypatch.setattr(store, "demand", watched)
    await wake.for_jobs({QUEUE: 1})
    assert published_at_look == [(QUEUE, 1)]


async def test_a_backlogged_queue_needs_no_tickets(wake: Wake, store: FragileStore, tickets: RecordingTickets):
    await queue_up(store, WELL_BACKLOGGED * SLOTS + 1)
    await wake.for_jobs({QUEUE: 1})
    await wake.for_jobs({QUEUE: 1})
    assert tickets.published == [(QUEUE, 1)]


async def test_a_queue_whose_slots_may_fall_idle_gets_its_tickets(
    wake: Wake, store: FragileStore, tickets: RecordingTickets
):
    await queue_up(store, WELL_BACKLOGGED * SLOTS)
    await wake.for_jobs({QUEUE: 1})
    await wake.for_jobs({QUEUE: 1})
    assert tickets.published == [(QUEUE, 1), (QUEUE, 1)]


async def test_a_backlog_that_was_seen_long_ago_holds_no_ticket_back(
    wake: Wake, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await queue_up(store, WELL_BACKLOGGED * SLOTS + 1)
    await wake.for_jobs({QUEUE: 1})
    clock.advance(A_SECOND)
    await wake.for_jobs({QUEUE: 1})
    assert tickets.published == [(QUEUE, 1), (QUEUE, 1)]


async def test_the_slots_of_a_dead_worker_do_not_count(
    wake: Wake, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await queue_up(store, 1)
    clock.advance(timedelta(seconds=15))
    await wake.for_jobs({QUEUE: 1})
    await wake.for_jobs({QUEUE: 1})
    assert tickets.published == [(QUEUE, 1)]


async def test_a_look_that_fails_does_no_harm(wake: Wake, store: FragileStore, tickets: RecordingTickets):
    store.away = True
    await wake.for_jobs({QUEUE: 1})
    await wake.for_jobs({QUEUE: 1})
    assert tickets.published == [(QUEUE, 1), (QUEUE, 1)]


async def test_no_jobs_need_no_tickets_and_no_look(wake: Wake, tickets: RecordingTickets, looks: list[tuple[str, ...]]):
    await wake.for_jobs({})
    assert (tickets.published, looks) == ([], [])


@pytest.mark.parametrize(
    ("due", "running", "lying", "published"),
    [
        pytest.param(3, 0, 0, [(QUEUE, 3)], id="one for each due job"),
        pytest.param(9, 0, 0, [(QUEUE, 4)], id="no more than idle slots"),
        pytest.param(9, 3, 0, [(QUEUE, 1)], id="busy slots take their next job themselves"),
        pytest.param(9, 4, 0, [], id="no slot is idle"),
        pytest.param(0, 0, 0, [], id="nothing is due"),
        pytest.param(9, 0, 3, [(QUEUE, 1)], id="only what is missing"),
        pytest.param(9, 0, 4, [], id="nothing is missing"),
        pytest.param(9, 0, 99, [], id="more than enough"),
        pytest.param(9, 0, None, [], id="the broker cannot tell"),
    ],
)
async def test_tickets_are_topped_up_to_what_idle_slots_can_use(
    wake: Wake,
    store: FragileStore,
    tickets: RecordingTickets,
    due: int,
    running: int,
    lying: int | None,
    published: list[tuple[str, int]],
):
    await store.add([new_job() for _ in range(due)])
    await store.beat(new_beat(slots_per_queue=SLOTS, running={QUEUE: running}))
    tickets.lying[QUEUE] = lying
    await wake.top_up([QUEUE])
    assert tickets.published == published


async def test_only_the_queues_asked_for_are_topped_up(wake: Wake, store: FragileStore, tickets: RecordingTickets):
    await queue_up(store, 1)
    await wake.top_up(["gpu.speech"])
    assert tickets.published == []


class TestLimits:
    """Tickets are published for what could start now, and for nothing else."""

    @pytest.mark.parametrize(
        ("concurrency", "running", "published"),
        [
            pytest.param(3, 0, [(QUEUE, 3)], id="as many as the limit has room for"),
            pytest.param(3, 2, [(QUEUE, 1)], id="what runs takes room"),
            pytest.param(3, 3, [], id="no room"),
            pytest.param(9, 0, [(QUEUE, SLOTS)], id="idle slots bound it too"),
        ],
    )
    async def test_no_more_are_topped_up_than_the_queues_limit_has_room_for(
        self,
        wake: Wake,
        store: FragileStore,
        tickets: RecordingTickets,
        concurrency: int,
        running: int,
        published: list[tuple[str, int]],
    ):
        await store.queues.configure(Policies({QUEUE: QueuePolicy(concurrency=concurrency)}), [])
        await queue_up(store, 9)
        if running:
            await lend(store, limit=running)
        await wake.top_up([QUEUE])
        assert tickets.published == published

    @pytest.mark.parametrize("flags", [{"paused": True}, {"stopped": True}])
    async def test_a_held_queue_gets_none(
        self, wake: Wake, store: FragileStore, tickets: RecordingTickets, flags: dict[str, bool]
    ):
        await queue_up(store, 9)
        await store.queues.hold([QUEUE], **flags)
        await wake.top_up([QUEUE])
        assert tickets.published == []

    @pytest.mark.parametrize("state", [CircuitState.OPEN, CircuitState.HALF_OPEN])
    async def test_nor_does_one_whose_circuit_is_not_closed(
        self, wake: Wake, store: FragileStore, tickets: RecordingTickets, state: CircuitState
    ):
        """Half open, one slot was woken for the one job that is tried."""
        await queue_up(store, 9)
        await store.queues.change_circuit(QUEUE, lambda *_: Circuit(state))
        await wake.top_up([QUEUE])
        assert tickets.published == []

    async def test_a_new_job_of_a_held_queue_gets_its_ticket_all_the_same(
        self, wake: Wake, store: FragileStore, tickets: RecordingTickets
    ):
        """Whoever takes it finds nothing to start: that costs less than to ask about every job."""
        await store.queues.hold([QUEUE], paused=True)
        await wake.for_jobs({QUEUE: 1})
        assert tickets.published == [(QUEUE, 1)]
        assert await take(store) == []
