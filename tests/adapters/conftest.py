from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters.embedded.postgres import EmbeddedPostgres
from adapters.postgres.migrate import migrate
from domain.ports import JobStore
from tests.adapters.postgres_rig import postgres_rig
from tests.adapters.rigs import OpenRig, Rig, RigFactory, memory_rig

RIGS: dict[str, RigFactory] = {"memory": memory_rig, "postgres": postgres_rig}
"""Every store that claims to be a `JobStore`: each passes every test that asks for one of the fixtures below."""


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database of a server that is this session's own."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        asyncio.run(migrate(server.dsn))
        yield server.dsn


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
