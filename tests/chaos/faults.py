"""Brings a schedule's faults over a site, lifts them again, and notes when whom they troubled."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx

from tests.chaos.history import Trouble
from tests.chaos.schedule import ALL, PROCESSES, WORKERS, Fault, Kind, Link
from tests.chaos.site import QUEUE, Site
from tests.servers.rabbitmq import RabbitMQDownError

GRACE = {Link.DATABASE: 10.0, Link.PROVIDER: 3.0, None: 5.0}
"""Seconds after the end of a fault until the worker that it befell is sure to be itself again, by what was cut off."""

DATABASE_AWAY = 20.0
"""Seconds after an outage of PostgreSQL in which nobody is rescued yet: who is alive has to show it first."""
REVIVALS = 5
LEADER_AWAY = 8.0
"""Seconds in which those who rescue jobs may be without a leader."""


@dataclass
class Faults:
    site: Site
    begun: list[tuple[Fault, float]] = field(default_factory=list)
    """With the time at which."""
    troubles: list[Trouble] = field(default_factory=list)
    disturbances: list[tuple[float, float]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What this harness could not do."""

    async def run(self, schedule: list[Fault], began: float) -> None:
        """All of them, each at its time after `began` (time.monotonic)."""
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                group.create_task(self._happen(fault, began))

    async def _happen(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
        if fault.kind is Kind.CLOCK and self.site.clock is None:
            self.left_out.append(f"{fault.name}: libfaketime cannot be had here")
            return
        at = time.time()
        self.begun.append((fault, at))
        try:
            await self._begin(fault)
            await asyncio.sleep(fault.length)
        finally:
            await self._end(fault)
            self._note(fault, at)

    async def _begin(self, fault: Fault) -> None:
        place = self.site.places.get(fault.target)
        match fault.kind:
            case Kind.KILL:
                assert place
                place.wanted = False
                self.site.send(place.name, signal.SIGKILL)
            case Kind.STOP:
                self.site.send(fault.target, signal.SIGSTOP)
            case Kind.TERMINATE:
                assert place
                place.told_to_leave()
                self.site.send(fault.target, signal.SIGTERM)
            case Kind.CUT | Kind.BLACKHOLE | Kind.DELAY:
                for door in self._doors(fault):
                    door.befall(fault.kind)
            case Kind.CLOCK:
                assert self.site.clock
                self.site.clock.jump(-3600 if int(fault.at * 10) % 2 else 3600)
            case Kind.OUTAGE:
                for door in self._doors(fault):
                    door.befall(Kind.CUT)
            case Kind.REFUSALS | Kind.STALLS:
                self.site.provider.fall_ill(fault.kind)
            case Kind.BROKER_KILL | Kind.BROKER_WIPE:
                await asyncio.to_thread(self.site.broker.kill)
            case Kind.BROKER_PURGE:
                await self._manage("DELETE", f"/queues/%2F/{QUEUE}/contents")
            case Kind.BROKER_DELETE:
                await self._manage("DELETE", f"/queues/%2F/{QUEUE}")
            case Kind.DATABASE_RESTART:
                self.site.end_database()
            case Kind.DATABASE_BACKEND:
                await self._ask(
                    "SELECT pid FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
                    kill=True,
                )
            case Kind.DATABASE_TERMINATE:
                await self._ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )

    async def _end(self, fault: Fault) -> None:
        place = self.site.places.get(fault.target)
        match fault.kind:
            case Kind.KILL:
                assert place
                self.site.start(place)
            case Kind.STOP:
                self.site.send(fault.target, signal.SIGCONT)
            case Kind.CUT | Kind.BLACKHOLE | Kind.DELAY:
                for door in self._doors(fault):
                    door.relieve(fault.kind)
            case Kind.CLOCK:
                assert self.site.clock
                self.site.clock.jump(0)
            case Kind.OUTAGE:
                for door in self._doors(fault):
                    door.relieve(Kind.CUT)
            case Kind.REFUSALS | Kind.STALLS:
                self.site.provider.recover(fault.kind)
            case Kind.BROKER_KILL:
                await self._revive(self.site.broker.restart)
            case Kind.BROKER_WIPE:
                await self._revive(self.site.broker.wipe)
            case Kind.DATABASE_RESTART:
                await asyncio.to_thread(self.site.restart_database)
            case _:
                pass

    async def _revive(self, start: Callable[[], None]) -> None:
        """A busy machine may need several times as long as RabbitMQ's boot is given: then it is started again."""
        for _ in range(REVIVALS):
            try:
                await asyncio.to_thread(start)
            except RabbitMQDownError as error:
                self.failed.append(str(error).splitlines()[0])
                start = self.site.broker.restart
            else:
                return
        raise AssertionError(f"RabbitMQ was not to be started in {REVIVALS} tries")

    def _doors(self, fault: Fault) -> list[Any]:
        names = PROCESSES if fault.target in {ALL, ""} else [fault.target]
        return [self.site.places[name].doors[fault.link or Link.PROVIDER] for name in names]

    def _note(self, fault: Fault, at: float) -> None:
        """Whom it troubled, and until when it may still be felt."""
        now = time.time()
        if fault.kind in {Kind.KILL, Kind.STOP} or (
            fault.kind in {Kind.CUT, Kind.BLACKHOLE} and fault.link is not Link.BROKER
        ):
            until = now + (GRACE[fault.link] if fault.kind is not Kind.KILL else 0)
            names = WORKERS if fault.target == ALL else {fault.target}.intersection(WORKERS)
            self.troubles += [Trouble(name, at, until, fault.name) for name in names]
        databases = {Kind.DATABASE_RESTART, Kind.DATABASE_BACKEND, Kind.DATABASE_TERMINATE}
        if fault.kind in databases or (fault.link is Link.DATABASE and fault.target == ALL):
            self.disturbances.append((at, now + DATABASE_AWAY))
        elif fault.target not in WORKERS and fault.link in {None, Link.DATABASE} and fault.target:
            self.disturbances.append((at, now + LEADER_AWAY))

    async def _manage(self, method: str, path: str) -> None:
        try:
            await asyncio.to_thread(self.site.broker.management, method, path)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 404:
                self.failed.append(f"{method} {path}: {error}")
        except httpx.HTTPError as error:
            self.failed.append(f"{method} {path}: {error!r}")

    async def _ask(self, statement: str, *, kill: bool = False) -> None:
        try:
            connection = await asyncpg.connect(self.site.postgres.dsn, timeout=5)
            try:
                rows = await connection.fetch(statement)
                if kill and rows:
                    with suppress(ProcessLookupError):
                        os.kill(rows[0][0], signal.SIGKILL)
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            self.failed.append(f"PostgreSQL: {error!r}")
