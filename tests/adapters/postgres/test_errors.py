"""What PostgreSQL's errors become, with a real server that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters.embedded.postgres import EmbeddedPostgres
from adapters.postgres.errors import translated
from adapters.postgres.leadership import PostgresLeadership
from adapters.postgres.migrate import migrate
from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from domain.errors import ErrorCode, Failure, ServiceError, StorageUnavailable
from domain.job import CANCELLED_BY_CALLER, IdempotencyKey, JobStatus, LeasedJob, RunOutcome, Settlement
from domain.ports import JobFilter, JobStore, Listing, RescueTerms
from domain.retention import Walk
from tests.factories import LEASE, external_claim, new_beat, new_claim, new_id, new_job, new_lease, stored_job
from tests.moves import one, several, statuses, take

AWAY = [
    ConnectionRefusedError(),
    ConnectionResetError(),
    TimeoutError(),
    asyncpg.ConnectionDoesNotExistError(),
    asyncpg.CannotConnectNowError(),
    asyncpg.AdminShutdownError(),
    asyncpg.CrashShutdownError(),
    asyncpg.QueryCanceledError(),
    asyncpg.TooManyConnectionsError(),
    asyncpg.DiskFullError(),
    asyncpg.OutOfMemoryError(),
    asyncpg.PostgresIOError(),
    asyncpg.InvalidCatalogNameError(),
    asyncpg.InvalidPasswordError(),
    asyncpg.UndefinedTableError(),
    asyncpg.UndefinedColumnError(),
    asyncpg.UndefinedFunctionError(),
    asyncpg.ReadOnlySQLTransactionError(),
    asyncpg.DeadlockDetectedError(),
    asyncpg.SerializationError(),
    asyncpg.LockNotAvailableError(),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
]

REFUSED = [
    asyncpg.DataError("invalid input for query argument"),
    asyncpg.CharacterNotInRepertoireError(),
    asyncpg.NumericValueOutOfRangeError(),
    asyncpg.CheckViolationError(),
    asyncpg.NotNullViolationError(),
    asyncpg.UniqueViolationError(),
    asyncpg.ProgramLimitExceededError(),
    asyncpg.PostgresSyntaxError(),
]

EVERY_CALL: dict[str, Callable[[JobStore], Awaitable[object]]] = {
    "add": lambda store: store.add([new_job()]),
    "add a batch": lambda store: store.add([new_job(idempotency=IdempotencyKey(key, b"1")) for key in "ab"]),
    "get": lambda store: store.get(new_id()),
    "pulses": lambda store: store.pulses([new_id()]),
    "runs": lambda store: store.runs(new_id()),
    "changes": lambda store: store.changes(new_id(), 0),
    "progress": lambda store: store.progress(new_id()),
    "find": lambda store: store.find(Listing(limit=1)),
    "count": lambda store: store.count(JobFilter()),
    "ahead": lambda store: store.ahead(stored_job()),
    "prospect": lambda store: store.prospect(stored_job(), LEASE),
    "exchange": lambda store: store.exchange([], new_claim()),
    "settle": lambda store: store.exchange([Settlement(new_lease(), RunOutcome.RELEASED, JobStatus.PENDING)], None),
    "renew": lambda store: store.renew([new_lease()], LEASE),
    "release_orphans": lambda store: store.release_orphans("worker", "gpu.llm", []),
    "claim": lambda store: store.claim(external_claim()),
    "report": lambda store: store.report(new_lease(), None),
    "run_end": lambda store: store.run_end(new_lease()),
    "cancel": lambda store: store.cancel([new_id()], CANCELLED_BY_CALLER),
    "retry": lambda store: store.retry([new_id()]),
    "erase": lambda store: store.erase([new_id()]),
    "walk": lambda store: store.walk(Walk(LEASE, status=JobStatus.COMPLETED), None, 10),
    "prune": lambda store: store.prune([]),
    "oldest_finished": lambda store: store.oldest_finished(),
    "note_progress": lambda store: store.note_progress(new_lease(), Raw(b"{}")),
    "promote_due": lambda store: store.promote_due(),
    "route": lambda store: store.route({("llm_chat", "late"): "gpu.llm"}),
    "rescue": lambda store: store.rescue(RescueTerms(3, LEASE)),
    "preempt": lambda store: store.preempt("gpu.llm", LEASE),
    "expire_deadlines": lambda store: store.expire_deadlines(),
    "age": lambda store: store.age(),
    "free_abandoned_slots": lambda store: store.free_abandoned_slots(),
    "tend_lines": lambda store: store.tend_lines(),
    "tallies": lambda store: store.tallies(),
    "finished": lambda store: store.finished(),
    "durations": lambda store: store.durations(None),
    "paces": lambda store: store.paces(),
    "oldest_due": lambda store: store.oldest_due(None),
    "oldest_due of an owner": lambda store: store.oldest_due("lion"),
    "fold_tallies": lambda store: store.fold_tallies(),
    "workers": lambda store: store.workers(LEASE),
    "demand": lambda store: store.demand(["gpu.llm"], LEASE),
    "beat": lambda store: store.beat(new_beat()),
    "forget_worker": lambda store: store.forget_worker(new_id(), LEASE),
    "ping": lambda store: store.ping(),
}
every_call = pytest.mark.parametrize("call", EVERY_CALL.values(), ids=EVERY_CALL)


def test_no_call_of_the_port_is_forgotten():
    calls = {name for name in vars(JobStore) if not name.startswith("_")}
    assert calls <= EVERY_CALL.keys()


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_whatever_means_that_it_is_away_is_one_error_with_its_cause(error: Exception):
    with pytest.raises(StorageUnavailable) as raised, translated():
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: type(error).__name__)
def test_a_value_that_is_refused_is_told_as_it_is(error: Exception):
    with pytest.raises(type(error)), translated():
        raise error


@every_call
async def test_where_nobody_listens_every_call_says_so(unused_tcp_port: int, call):
    async with create_pool(
        f"postgresql://u:hunter2@127.0.0.1:{unused_tcp_port}/x", max_size=1, application_name="t"
    ) as pool:
        with pytest.raises(StorageUnavailable) as raised:
            await call(PostgresJobStore(pool))
    assert "hunter2" not in str(raised.value)


@every_call
async def test_before_the_first_migration_every_call_says_so(empty_database: str, call):
    async with create_pool(empty_database, max_size=1, application_name="test") as pool:
        with pytest.raises(StorageUnavailable):
            await call(PostgresJobStore(pool))


async def test_leadership_says_so_too(unused_tcp_port: int):
    async with create_pool(f"postgresql://u@127.0.0.1:{unused_tcp_port}/x", max_size=1, application_name="t") as pool:
        with pytest.raises(StorageUnavailable):
            await PostgresLeadership(pool).lead(new_id(), LEASE)
        with pytest.raises(StorageUnavailable):
            await PostgresLeadership(pool).resign(new_id())


async def test_a_server_that_stops_and_comes_back_is_used_again(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "postgres")
    await asyncio.to_thread(server.start)
    try:
        await migrate(server.dsn)
        async with create_pool(server.dsn, max_size=2, application_name="test") as pool:
            store = PostgresJobStore(pool)
            job = await one(store)
            await asyncio.to_thread(server.stop)
            for _ in range(2):
                with pytest.raises(StorageUnavailable):
                    await store.get(job.id)
        await asyncio.to_thread(server.start)
        async with create_pool(server.dsn, max_size=2, application_name="test") as pool:
            assert await PostgresJobStore(pool).get(job.id) == job
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_connection_that_is_ended_fails_its_call_and_the_next_one_works(
    store: PostgresJobStore, pool: asyncpg.Pool, database: str
):
    job = await one(store)
    async with asyncio.timeout(30):
        blocker = await asyncpg.connect(database)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE jobs")
        reading = asyncio.create_task(store.get(job.id))
        ended = 0
        while not ended:
            ended = await blocker.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        with pytest.raises(StorageUnavailable):
            await reading
        await transaction.rollback()
        await blocker.close()
        assert await store.get(job.id) == job


async def test_an_idle_connection_that_was_ended_costs_one_call_at_most(
    store: PostgresJobStore, pool: asyncpg.Pool, database: str
):
    job = await one(store)
    other = await asyncpg.connect(database)
    await other.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await other.close()
    try:
        found = await store.get(job.id)
    except StorageUnavailable:
        found = await store.get(job.id)
    assert found == job


async def taken(store: PostgresJobStore, how_many: int) -> list[LeasedJob]:
    await several(store, how_many)
    return await take(store, limit=how_many)


def unstorable(held: LeasedJob) -> Settlement:
    """It would be tried again when PostgreSQL's calendar has ended."""
    failure = Failure(ErrorCode.BAD_RESPONSE, "It said too much.")
    return Settlement(held.lease, RunOutcome.FAILED, JobStatus.PENDING, failure=failure, delay=timedelta.max)


@pytest.mark.parametrize("place", [0, 31, 63])
async def test_one_refused_settlement_of_sixty_four_is_refused_alone(store: PostgresJobStore, place: int):
    held = await taken(store, 64)
    more = await one(store)
    settlements = [unstorable(job) if n == place else job.complete(b"{}") for n, job in enumerate(held)]
    outcome = await store.exchange(settlements, new_claim())
    assert set(outcome.refused) == {held[place].lease}
    assert [job.id for job in outcome.claimed] == [more.id]
    states = list((await statuses(store, [job.id for job in held])).values())
    assert (states.count(JobStatus.COMPLETED), states.count(JobStatus.RUNNING)) == (63, 1)


async def test_several_refused_ones_are_each_refused_alone(store: PostgresJobStore):
    held = await taken(store, 64)
    settlements = [unstorable(job) if n % 9 == 0 else job.complete(b"{}") for n, job in enumerate(held)]
    outcome = await store.exchange(settlements, None)
    assert set(outcome.refused) == {job.lease for job in held[::9]}


async def test_why_it_was_refused_does_not_tell_what_was_in_it(store: PostgresJobStore):
    [held] = await taken(store, 1)
    secret = replace(unstorable(held), failure=Failure(ErrorCode.UNKNOWN, "hunter2"))
    outcome = await store.exchange([secret], None)
    assert "hunter2" not in outcome.refused[held.lease]


async def test_a_claim_that_cannot_be_sent_is_no_endless_bisection(store: PostgresJobStore):
    with pytest.raises(Exception, match="invalid") as raised:
        await store.exchange([], new_claim(worker_id="worker \x00"))
    assert not isinstance(raised.value, ServiceError)


async def test_a_batch_with_one_job_that_cannot_be_stored_stores_none(store: PostgresJobStore):
    jobs = [new_job(), new_job(owner_ref="\x00"), new_job()]
    with pytest.raises(asyncpg.DataError):
        await store.add(jobs)
    assert await statuses(store, [job.id for job in jobs]) == {}
    keyed = [replace(job, idempotency=IdempotencyKey(str(place), b"1")) for place, job in enumerate(jobs)]
    with pytest.raises(asyncpg.DataError):
        await store.add(keyed)
    assert await statuses(store, [job.id for job in jobs]) == {}


async def test_an_input_may_hold_any_bytes(store: PostgresJobStore):
    job = await one(store, input=Raw(b'{"user":"\x00"}'))
    assert bytes((await store.get(job.id)).input or b"") == b'{"user":"\x00"}'
