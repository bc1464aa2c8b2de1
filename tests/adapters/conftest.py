from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from domain.ports import JobStore
from tests.adapters.postgres_rig import postgres_rig
from tests.adapters.rigs import OpenRig, Rig, RigFactory, memory_rig
from tests.servers.postgres import Databases

RIGS: dict[str, RigFactory] = {"memory": memory_rig, "postgres": postgres_rig}
"""Every store that claims to be a `JobStore`: each passes every test that asks for one of the fixtures below."""


@pytest.fixture(scope="session")
def postgres_dsn(databases: Databases) -> str:
    """One database for all of these tests: each finds it empty."""
    return databases.create()


@pytest.fixture(params=RIGS)
def open_rig(request: pytest.FixtureRequest) -> OpenRig:
    return RIGS[request.param](request)


@pytest.fixture
async def rig(open_rig: OpenRig) -> AsyncIterator[Rig]:
    async with open_rig() as rig:
        yield rig


@pytest.fixture
def store(rig: Rig) -> JobStore:
    return rig.store
