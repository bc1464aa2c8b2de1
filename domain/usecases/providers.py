"""Look at the providers: each configured profile, how its server is, and what its queue's circuit says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from domain.circuit import Circuit
from domain.errors import StorageUnavailable
from domain.ports import ProviderProbe, ProviderState
from domain.routing import Profile, Routes
from domain.usecases.operate import Operate


class ProviderReport(Struct, frozen=True):
    """A configured profile, and how it is served."""

    profile: Profile
    state: ProviderState
    circuit: Circuit | None
    """That of its queue; None while the storage cannot be reached."""


@dataclass(frozen=True)
class Providers:
    routes: Callable[[], Routes]
    """Those of this moment."""
    probe: ProviderProbe
    operate: Operate

    @property
    def active(self) -> Profile | None:
        """The profile of chats that name none."""
        return self.routes().active

    async def survey(self) -> list[ProviderReport]:
        """Every configured profile, in the order of their names. All servers are asked at once."""
        profiles = sorted(self.routes(), key=lambda profile: profile.name)
        circuits, states = await asyncio.gather(
            self._circuits(), asyncio.gather(*(self.probe.status(profile.name) for profile in profiles))
        )
        return [
            ProviderReport(profile, state, circuits.get(profile.queue, Circuit()) if circuits is not None else None)
            for profile, state in zip(profiles, states, strict=True)
        ]

    async def _circuits(self) -> dict[str, Circuit] | None:
        try:
            return {state.name: state.circuit for state in await self.operate.states()}
        except StorageUnavailable:
            # Whoever looks for what is wrong shall see the servers all the same.
            return None
