"""Tell whether the service can do its work."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from domain.errors import StorageUnavailable
from domain.ports import JobStore, Tickets


class Readiness(Struct, frozen=True):
    """PostgreSQL is needed; without the broker the service is only slower."""

    storage: bool
    broker: bool


@dataclass(frozen=True)
class Report:
    jobs: JobStore
    tickets: Tickets

    async def readiness(self) -> Readiness:
        try:
            await self.jobs.ping()
        except StorageUnavailable:
            storage = False
        else:
            storage = True
        return Readiness(storage=storage, broker=await self.tickets.reachable())
