"""Queues in PostgreSQL: how they are held, limited and guarded. Rarely written, and read by every claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec
import structlog

from adapters.postgres.pool import fetch, query, transaction
from domain.adaptive import OVERLOADS, Adapted, Workload
from domain.circuit import Circuit, CircuitState
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.ports import DEMAND_LIMIT
from domain.queue import QueueState

log = structlog.get_logger()

_circuits = msgspec.json.Decoder(Circuit)
_adapted = msgspec.json.Decoder(Adapted)


class PostgresQueueStore:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def states(self) -> list[QueueState]:
        return [_state(row) for row in await self._fetch("queue_states")]

    async def configure(self, policies: Policies, queues: Sequence[str], *, only_new: bool = False) -> None:
        configured = policies.of_queues(queues)
        names = sorted(configured)
        chosen = [configured[name] for name in names]
        owners = sorted(policies.owners)
        async with transaction(self._pool) as run:
            await run(query("lock_owners"), [])
            await run(query("configure_queues"), [names, *_columns(chosen), only_new])
            await run(query("configure_owners"), [owners, *_owners([policies.owners[o] for o in owners]), only_new])
            if not only_new:
                await run(query("unconfigure"), [names, owners])

    async def hold(self, queues: Sequence[str], *, paused: bool | None = None, stopped: bool | None = None) -> None:
        await self._fetch("hold_queues", queues, paused, stopped)

    async def change_circuit(self, queue: str, change: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        async with transaction(self._pool) as run:
            rows = await run(query("lock_circuit"), [queue])
            if not rows:
                await run(query("hold_queues"), [[queue], None, None])
                rows = await run(query("lock_circuit"), [queue])
            before = _circuit(rows[0]["circuit"])
            after = change(before, rows[0]["now"])
            if after != before:
                await run(query("set_circuit"), [queue, after.state, msgspec.json.encode(after).decode()])
        if after.state is not before.state:
            _tell(queue, after)
        return after

    async def completed_since(self, queue: str, since: datetime) -> bool:
        [row] = await self._fetch("completed_since", queue, since)
        return bool(row["completed"])

    async def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        [row] = await self._fetch("workload", queue, within, alive_within, OVERLOADS, DEMAND_LIMIT)
        return Workload(**dict(row))

    async def adapt(self, queue: str, adapted: Adapted | None) -> None:
        slots, text = (adapted.slots, msgspec.json.encode(adapted).decode()) if adapted else (None, None)
        await self._fetch("adapt", queue, slots, text)

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        return await fetch(self._pool, query(name), arguments)


def _tell(queue: str, circuit: Circuit) -> None:
    if circuit.state is CircuitState.OPEN:
        log.warning(
            "circuit opened",
            queue=queue,
            error_code=circuit.reason,
            model_profile=circuit.model_profile,
            hint="nothing of the queue starts until its model server takes jobs again; see GET /queues",
        )
    else:
        log.info("circuit closed" if circuit.state is CircuitState.CLOSED else "circuit half open", queue=queue)


def _state(row: asyncpg.Record) -> QueueState:
    return QueueState(
        name=row["name"],
        paused=bool(row["paused"]),
        stopped=bool(row["stopped"]),
        policy=QueuePolicy(
            concurrency=row["concurrency"],
            preempt=bool(row["preempt"]),
            reserved_share=row["reserved_share"] or 0.0,
            ageing=row["ageing"],
            adaptive=bool(row["adaptive"]),
        ),
        adapted=_adapted.decode(row["adapting"]) if row["adapting"] else None,
        busy=row["busy"],
        circuit=_circuit(row["circuit"]),
    )


def _circuit(text: str | None) -> Circuit:
    return _circuits.decode(text) if text else Circuit()


def _columns(policies: Sequence[QueuePolicy]) -> list[list[object]]:
    return [
        [policy.concurrency for policy in policies],
        [policy.preempt for policy in policies],
        [policy.reserved_share for policy in policies],
        [policy.ageing for policy in policies],
        [policy.adaptive for policy in policies],
    ]


def _owners(policies: Sequence[OwnerPolicy]) -> list[list[object]]:
    return [[policy.weight for policy in policies], [policy.max_running for policy in policies]]
