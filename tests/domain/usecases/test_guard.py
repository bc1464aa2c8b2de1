from __future__ import annotations

from datetime import timedelta

import pytest

from domain.adaptive import Pressure
from domain.circuit import Circuit, CircuitState, Report, Sign
from domain.errors import ErrorCode, Failure
from domain.job import JobId
from domain.policy import Policies, QueuePolicy
from domain.ports import Health, QueueStore
from domain.usecases.guard import Guard
from tests.factories import PROFILE, QUEUE, leased_job, new_id
from tests.fakes import FakeClock, FakeHealth, FakeQueues

THRESHOLD = 3
SECOND = timedelta(seconds=1)
LION, BEAR = new_id(), new_id()
GONE = Failure(ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepts no connections.")


@pytest.fixture
def queues(clock: FakeClock) -> FakeQueues:
    return FakeQueues(clock.now)


@pytest.fixture
def health() -> FakeHealth:
    return FakeHealth()


@pytest.fixture
def guard(queues: FakeQueues, health: FakeHealth) -> Guard:
    return Guard(queues, health, THRESHOLD)


def test_the_fakes_are_what_the_guard_asks_for(queues: FakeQueues, health: FakeHealth):
    ports: tuple[QueueStore, Health] = queues, health
    assert ports


def report(sign: Sign, job: JobId = LION, *, trial: bool = False) -> Report:
    return Report(sign, job, PROFILE, None if sign is Sign.ANSWERED else GONE, trial)


def misses(*jobs: JobId) -> list[Report]:
    return [report(Sign.MISSED, job) for job in jobs]


async def open_circuit(guard: Guard, clock: FakeClock) -> None:
    """It is open, and it is time to probe."""
    await guard.heard(QUEUE, [report(Sign.DOWN)])
    clock.advance(SECOND)


async def half_open(guard: Guard, clock: FakeClock) -> None:
    await open_circuit(guard, clock)
    assert await guard.probe(QUEUE)


class TestHeard:
    @pytest.mark.parametrize("sign", [Sign.ANSWERED, Sign.NONE])
    async def test_runs_that_end_well_cost_nothing(self, guard: Guard, queues: FakeQueues, sign: Sign):
        await guard.heard(QUEUE, [report(sign)] * 10)
        await guard.heard(QUEUE, [])
        assert queues.changes == 0

    async def test_a_server_that_is_down_opens_the_circuit_at_once(self, guard: Guard, queues: FakeQueues):
        await guard.heard(QUEUE, [report(Sign.DOWN)])
        circuit = queues.circuit(QUEUE)
        assert (circuit.state, circuit.message) == (CircuitState.OPEN, GONE.message)

    async def test_misses_in_a_row_open_it_however_they_are_told(self, guard: Guard, queues: FakeQueues):
        await guard.heard(QUEUE, misses(LION, BEAR))
        assert queues.circuit(QUEUE).state is CircuitState.CLOSED
        await guard.heard(QUEUE, misses(LION))
        assert queues.circuit(QUEUE).state is CircuitState.OPEN

    async def test_misses_of_one_queue_are_none_of_another(self, guard: Guard, queues: FakeQueues):
        await guard.heard(QUEUE, misses(LION, BEAR))
        await guard.heard("gpu.speech", misses(LION))
        assert queues.circuit("gpu.speech").state is CircuitState.CLOSED

    async def test_a_run_that_was_answered_among_them_begins_the_row_anew(self, guard: Guard, queues: FakeQueues):
        await guard.heard(QUEUE, [*misses(LION, BEAR), report(Sign.ANSWERED), *misses(LION)])
        assert queues.circuit(QUEUE).missed == (LION,)

    async def test_a_run_that_completed_meanwhile_begins_the_row_anew(
        self, guard: Guard, queues: FakeQueues, clock: FakeClock
    ):
        await guard.heard(QUEUE, misses(LION, BEAR))
        clock.advance(SECOND)
        queues.completed[QUEUE] = clock.now()
        clock.advance(SECOND)
        await guard.heard(QUEUE, misses(LION, BEAR))
        assert queues.circuit(QUEUE).state is CircuitState.CLOSED
        assert queues.circuit(QUEUE).missed_at == clock.now()

    async def test_a_run_that_completed_before_does_not(self, guard: Guard, queues: FakeQueues, clock: FakeClock):
        queues.completed[QUEUE] = clock.now()
        await guard.heard(QUEUE, misses(LION, BEAR))
        await guard.heard(QUEUE, misses(LION))
        assert queues.circuit(QUEUE).state is CircuitState.OPEN

    async def test_a_run_that_completed_after_it_opened_does_not_close_it(
        self, guard: Guard, queues: FakeQueues, clock: FakeClock
    ):
        await guard.heard(QUEUE, misses(LION, BEAR, LION))
        clock.advance(SECOND)
        queues.completed[QUEUE] = clock.now()
        await guard.heard(QUEUE, misses(BEAR))
        assert queues.circuit(QUEUE).state is CircuitState.OPEN

    async def test_a_row_that_another_process_began_anew_is_left_to_it(
        self, guard: Guard, queues: FakeQueues, clock: FakeClock
    ):
        await guard.heard(QUEUE, misses(LION, BEAR))
        clock.advance(SECOND)
        queues.completed[QUEUE] = clock.now()
        clock.advance(SECOND)
        queues.meanwhile = lambda: guard.heard(QUEUE, misses(LION))
        await guard.heard(QUEUE, misses(BEAR))
        assert queues.circuit(QUEUE).missed == (LION, BEAR)

    async def test_what_a_server_turns_away_while_it_is_at_work_is_no_outage(self, guard: Guard, health: FakeHealth):
        health.loads = {PROFILE: Pressure(running=8, waiting=4)}
        assert await guard.sign(leased_job(), GONE) is Sign.NONE

    async def test_a_server_that_does_nothing_and_turns_all_away_is_sick(self, guard: Guard, health: FakeHealth):
        health.loads = {PROFILE: Pressure(running=0, waiting=0)}
        assert await guard.sign(leased_job(), GONE) is Sign.MISSED

    @pytest.mark.parametrize(("busy", "sign"), [(1, Sign.MISSED), (2, Sign.NONE)])
    async def test_an_adaptive_queue_learns_by_being_turned_away_while_other_calls_of_it_are_open(
        self, guard: Guard, queues: FakeQueues, busy: int, sign: Sign
    ):
        await queues.configure(Policies({QUEUE: QueuePolicy(adaptive=True)}), [])
        queues.busy[QUEUE] = busy
        assert await guard.sign(leased_job(), GONE) is sign

    async def test_a_trial_that_is_turned_away_is_a_miss_even_so(self, guard: Guard, health: FakeHealth):
        health.loads = {PROFILE: Pressure(running=8, waiting=4)}
        assert await guard.sign(leased_job(trial=True), GONE) is Sign.MISSED

    async def test_a_trial_that_is_answered_closes_it(self, guard: Guard, queues: FakeQueues, clock: FakeClock):
        await half_open(guard, clock)
        await guard.heard(QUEUE, [report(Sign.ANSWERED, trial=True)])
        assert queues.circuit(QUEUE) == Circuit()

    @pytest.mark.parametrize("sign", [Sign.MISSED, Sign.DOWN, Sign.REFUSED, Sign.NONE])
    async def test_any_other_end_of_a_trial_opens_it_again(
        self, guard: Guard, queues: FakeQueues, clock: FakeClock, sign: Sign
    ):
        await half_open(guard, clock)
        await guard.heard(QUEUE, [report(sign, BEAR, trial=True)])
        circuit = queues.circuit(QUEUE)
        assert (circuit.state, circuit.failed_job) == (CircuitState.OPEN, BEAR)

    async def test_runs_that_began_before_it_opened_leave_it_as_it_is(
        self, guard: Guard, queues: FakeQueues, clock: FakeClock
    ):
        await half_open(guard, clock)
        before = queues.circuit(QUEUE)
        await guard.heard(QUEUE, [report(Sign.DOWN, BEAR), report(Sign.ANSWERED, BEAR)])
        assert queues.circuit(QUEUE) == before


class TestProbe:
    async def test_a_closed_circuit_is_not_probed(self, guard: Guard, health: FakeHealth):
        assert not await guard.probe(QUEUE)
        assert health.asked == []

    async def test_an_open_one_is_not_probed_before_its_time(self, guard: Guard, health: FakeHealth):
        await guard.heard(QUEUE, [report(Sign.DOWN)])
        assert not await guard.probe(QUEUE)
        assert health.asked == []

    async def test_a_server_that_answers_lets_a_job_be_tried(
        self, guard: Guard, queues: FakeQueues, health: FakeHealth, clock: FakeClock
    ):
        await open_circuit(guard, clock)
        assert await guard.probe(QUEUE)
        assert health.asked == [PROFILE]
        assert queues.circuit(QUEUE).state is CircuitState.HALF_OPEN

    async def test_while_a_job_is_tried_the_server_is_not_asked(
        self, guard: Guard, health: FakeHealth, clock: FakeClock
    ):
        await half_open(guard, clock)
        clock.advance(60 * SECOND)
        assert not await guard.probe(QUEUE)
        assert health.asked == [PROFILE]

    async def test_a_server_that_is_still_down_is_asked_later_again(
        self, guard: Guard, queues: FakeQueues, health: FakeHealth, clock: FakeClock
    ):
        health.down = {PROFILE}
        await open_circuit(guard, clock)
        assert not await guard.probe(QUEUE)
        clock.advance(SECOND)
        assert not await guard.probe(QUEUE)
        assert health.asked == [PROFILE]
        clock.advance(SECOND)
        health.down = set()
        assert await guard.probe(QUEUE)

    async def test_one_that_an_operator_closes_meanwhile_stays_closed(
        self, guard: Guard, queues: FakeQueues, health: FakeHealth, clock: FakeClock
    ):
        await open_circuit(guard, clock)
        health.meanwhile = lambda: queues.change_circuit(QUEUE, lambda circuit, now: Circuit())
        assert not await guard.probe(QUEUE)
        assert queues.circuit(QUEUE) == Circuit()
