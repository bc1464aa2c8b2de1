"""Look at the machines behind the model servers, by what their exporters tell."""

from __future__ import annotations

from dataclasses import dataclass

from domain.infra import Target
from domain.ports import InfraProbe


@dataclass(frozen=True)
class Infra:
    probe: InfraProbe

    async def targets(self) -> tuple[Target, ...]:
        """Every target that is configured, in the order in which it is; none where nothing is configured."""
        return await self.probe.look()
