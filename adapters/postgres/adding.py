"""New jobs: one statement for a few, one transaction of several statements for many.

Single jobs that are submitted at about the same time share a statement and its commit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import asyncpg
import msgspec
from msgspec.structs import replace

from adapters.postgres.errors import REFUSED
from adapters.postgres.listing import listing
from adapters.postgres.pool import DEADLOCK_TRIES, Run, query, runner, transaction
from adapters.postgres.rows import job_of
from adapters.postgres.together import Together
from domain.errors import KeyReused, NoSuchUpload, StorageUnavailable, TooManyPending
from domain.job import Job, JobId, NewJob
from domain.ports import Added, JobFilter, Listing

CHUNK = 1_000
"""Jobs per statement: bounds the memory that a large batch takes. 10,000 at once are a tenth faster (measured)."""

MOST_TOGETHER = 64
"""Single jobs per statement. A larger one makes the first of them wait for what the last adds."""

LARGEST_TOGETHER = 32 << 10
"""Bytes of an input that travels with others; a larger one would make them wait."""

KEYED_FLIGHTS = 4
"""Statements with idempotency keys at once: one may wait for a large batch that is storing the same key."""

PATIENCE = "100ms"
"""For which those that travel together wait for others' locks: for a key, or an owner's lane, that is being stored."""

UPLOAD_IS_THERE = "upload_is_there"
"""The constraint of `upload_jobs` that refuses a job whose upload is gone."""


class AddTogether:
    """Of one event loop. What needs more than the one statement goes alone, beside the others."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._plain = Together(self._send, most=MOST_TOGETHER)
        # Apart: these often have to wait for another transaction, the others for that of a new line or lane only.
        self._keyed = Together(self._send, most=MOST_TOGETHER, flights=KEYED_FLIGHTS)

    async def add(self, jobs: Sequence[NewJob], ceilings: Mapping[str, int]) -> list[Added]:
        """See `JobStore.add`. A single job whose caller stops waiting may be stored all the same."""
        if len(jobs) == 1 and _is_simple(jobs[0], ceilings):
            together = self._keyed if jobs[0].idempotency else self._plain
            if added := await together.ask(jobs[0]):
                return [added]
        return await add(self._pool, jobs, ceilings)

    async def _send(self, jobs: Sequence[NewJob]) -> list[Added | None]:
        """What came of each; None where it must be seen to alone: it was there before, or something is wrong."""
        given = _one_of_each(jobs)
        try:
            rows = await runner(self._pool)(query("add_jobs"), _columns(list(given.values()), PATIENCE))
        except REFUSED:
            return [None] * len(jobs)
        except StorageUnavailable as error:
            if not isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                raise
            return [None] * len(jobs)  # nothing was stored: who has to wait does so alone
        found = {row["id"]: row for row in rows}
        return [
            Added(_added(each, found[each.id]), created=True) if place in given and each.id in found else None
            for place, each in enumerate(jobs)
        ]


async def add(pool: asyncpg.Pool, jobs: Sequence[NewJob], ceilings: Mapping[str, int]) -> list[Added]:
    """Store what is not there yet, all or none; see `JobStore.add`."""
    first = _first_of_each(jobs)
    by_id: dict[JobId, NewJob] = {}
    for each in first:
        by_id.setdefault(each.id, each)
    new = list(by_id.values())
    try:
        stored = await _stored_all(pool, new, ceilings)
    except asyncpg.ForeignKeyViolationError as error:
        if error.constraint_name != UPLOAD_IS_THERE:
            raise
        raise NoSuchUpload(await _without_their_upload(pool, new)) from None
    return _told(first, stored)


async def _stored_all(pool: asyncpg.Pool, new: Sequence[NewJob], ceilings: Mapping[str, int]) -> dict[JobId, Added]:
    limited = {owner: ceilings[owner] for owner in {each.owner_service for each in new} & ceilings.keys()}
    if not limited and (len(new) == 1 or (len(new) <= CHUNK and not any(each.idempotency for each in new))):
        return await _stored(runner(pool), new)
    return await _stored_together(pool, new, limited)


async def _stored_together(
    pool: asyncpg.Pool, new: Sequence[NewJob], ceilings: Mapping[str, int]
) -> dict[JobId, Added]:
    """In one transaction.

    Two of several statements each could meet in the middle of their common keys again and again: they take turns. With
    one statement it is rare; the victim of such a deadlock takes turns, too.
    """
    for tries in range(DEADLOCK_TRIES):
        try:
            async with transaction(pool) as run:
                for owner in sorted(ceilings):  # one after the other: else each would see only its own jobs
                    await run(query("lock_owner"), [owner])
                if tries or len(new) > CHUNK:
                    for owner in sorted({each.owner_service for each in new if each.idempotency}):
                        await run(query("lock_keys"), [owner])
                stored = await _stored(run, new)
                await _must_have_room(run, stored, ceilings)
                return stored
        except StorageUnavailable as error:
            if tries + 1 == DEADLOCK_TRIES or not isinstance(error.__cause__, asyncpg.DeadlockDetectedError):
                raise
    raise AssertionError("a transaction commits or raises")


async def _must_have_room(run: Run, stored: Mapping[JobId, Added], ceilings: Mapping[str, int]) -> None:
    """
    Raises:
        TooManyPending: an owner has more waiting jobs now than its ceiling.
    """
    created = Counter(added.job.owner_service for added in stored.values() if added.created)
    for owner in sorted(created.keys() & ceilings.keys()):
        [row] = await run(query("pending_of"), [owner])
        if row["jobs"] > ceilings[owner]:
            raise TooManyPending(owner, ceilings[owner], created[owner])


async def _without_their_upload(pool: asyncpg.Pool, new: Sequence[NewJob]) -> list[JobId]:
    """Those of these jobs that are new and whose upload is not there."""
    run = runner(pool)
    using = [each for each in new if each.upload_id]
    uploads = [each.upload_id for each in using]
    there = {(row["id"], row["owner_service"]) for row in await run(query("get_uploads"), [uploads])}
    lacking = [each for each in using if (each.upload_id, each.owner_service) not in there]
    keyed = [(each, each.idempotency) for each in lacking if each.idempotency]
    names = [[each.owner_service for each, _ in keyed], [idempotency.key for _, idempotency in keyed]]
    known = {keyed[row["place"] - 1][0].id for row in await run(query("known_keys"), names)}
    return [each.id for each in lacking or using if each.id not in known]


def _first_of_each(jobs: Sequence[NewJob]) -> list[NewJob]:
    """Each job, or the one before it that it repeats by its idempotency key.

    Raises:
        KeyReused: it has the key of one before it and is another.
    """
    keyed: dict[tuple[str, str], NewJob] = {}
    first, reused = [], []
    for new in jobs:
        known = keyed.setdefault((new.owner_service, new.idempotency.key), new) if new.idempotency else new
        if known.idempotency != new.idempotency:
            reused.append(new.id)
        first.append(known)
    if reused:
        raise KeyReused(reused)
    return first


async def _stored(run: Run, new: Sequence[NewJob]) -> dict[JobId, Added]:
    """What each of these jobs has become, by the id that it was given."""
    stored: dict[JobId, Added] = {}
    missing = list(new)
    while missing:  # again only where a job that was there is erased at this moment
        stored |= await _created(run, missing)
        known_before = [each for each in missing if each.id not in stored]
        for chunk in _chunks(known_before):
            stored |= await _known(run, chunk)
        missing = [each for each in missing if each.id not in stored]
    return stored


async def _created(run: Run, new: Sequence[NewJob]) -> dict[JobId, Added]:
    """Those of these jobs that were not there.

    While PostgreSQL stores some, its answer about those before is read and those after are made ready for it: in
    another thread, for the statement still has to go out.
    """
    created: dict[JobId, Added] = {}
    chunk, *others = _chunks(new)
    columns = _columns(chunk)
    answered: tuple[Sequence[NewJob], list[asyncpg.Record]] = ([], [])
    for following in others:
        rows, (read, made) = await asyncio.gather(
            run(query("add_jobs"), columns), asyncio.to_thread(_meanwhile, *answered, following)
        )
        created |= read
        answered, chunk, columns = (chunk, rows), following, made
    rows = await run(query("add_jobs"), columns)
    return created | _read(*answered) | _read(chunk, rows)


def _meanwhile(
    chunk: Sequence[NewJob], rows: Sequence[asyncpg.Record], following: Sequence[NewJob]
) -> tuple[dict[JobId, Added], list[object]]:
    return _read(chunk, rows), _columns(following)


def _read(chunk: Sequence[NewJob], rows: Sequence[asyncpg.Record]) -> dict[JobId, Added]:
    given = {each.id: each for each in chunk}
    return {row["id"]: Added(_added(given[row["id"]], row), created=True) for row in rows}


async def _known(run: Run, new: Sequence[NewJob]) -> dict[JobId, Added]:
    """Those of these jobs that were there before, by their id or by their key.

    Raises:
        KeyReused: a key belongs to a job that was submitted otherwise.
    """
    ids = {each.id: each.id for each in new}
    keyed = [(each, each.idempotency) for each in new if each.idempotency]
    reused = []
    names = [[each.owner_service for each, _ in keyed], [idempotency.key for _, idempotency in keyed]]
    for row in await run(query("known_keys"), names):
        each, idempotency = keyed[row["place"] - 1]
        ids[each.id] = row["job_id"]
        if idempotency.fingerprint != row["fingerprint"]:
            reused.append(each.id)
    if reused:
        raise KeyReused(reused)
    rows = await run(*listing(Listing(where=JobFilter(ids=tuple(ids.values())), limit=len(ids))))
    jobs = {row["id"]: job_of(row) for row in rows}
    return {given: Added(jobs[known], created=False) for given, known in ids.items() if known in jobs}


def _told(first: Sequence[NewJob], stored: dict[JobId, Added]) -> list[Added]:
    """In the order given; what a job repeats was created once."""
    seen: set[JobId] = set()
    told = []
    for each in first:
        added = stored[each.id]
        repeats = each.id in seen
        told.append(Added(replace(added.job, input=None, result=None), created=False) if repeats else added)
        seen.add(each.id)
    return told


def _is_simple(new: NewJob, ceilings: Mapping[str, int]) -> bool:
    """Whether it is stored by one statement that can fail for nobody else's sake."""
    return (
        new.upload_id is None and new.owner_service not in ceilings and len(memoryview(new.input)) <= LARGEST_TOGETHER
    )


def _one_of_each(jobs: Sequence[NewJob]) -> dict[int, NewJob]:
    """By their places, those that do not repeat the id or the key of one before them."""
    seen: set[object] = set()
    first = {}
    for place, each in enumerate(jobs):
        names = {each.id, *([(each.owner_service, each.idempotency.key)] if each.idempotency else ())}
        if seen.isdisjoint(names):
            first[place] = each
        seen |= names
    return first


def _chunks(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    return (jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK))


def _columns(jobs: Sequence[NewJob], patience: str | None = None) -> list[object]:
    return [
        [new.id for new in jobs],
        [new.owner_service for new in jobs],
        [new.owner_ref for new in jobs],
        [new.task_type for new in jobs],
        [new.model_profile for new in jobs],
        [new.queue for new in jobs],
        [new.priority for new in jobs],
        [new.max_attempts for new in jobs],
        [new.run_at for new in jobs],
        [new.deadline_at for new in jobs],
        [msgspec.json.encode(new.labels).decode() if new.labels else None for new in jobs],
        [new.batch_id for new in jobs],
        [new.idempotency and new.idempotency.key for new in jobs],
        [new.idempotency and new.idempotency.fingerprint for new in jobs],
        [bytes(new.input) for new in jobs],
        [new.weight for new in jobs],
        [new.upload_id for new in jobs],
        [new.give_backs for new in jobs],
        patience,
        [new.traceparent for new in jobs],
    ]


def _added(new: NewJob, row: asyncpg.Record) -> Job:
    return new.stored(row["seq"], run_at=row["run_at"], due=row["due"], now=row["updated_at"])
