from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from domain.ports import JobStore
from tests.adapters.rigs import OpenRig, Rig, RigFactory, memory_rig

RIGS: dict[str, RigFactory] = {"memory": memory_rig}
"""Every store that claims to be a `JobStore`: each passes every test that asks for one of the fixtures below."""


@pytest.fixture(params=RIGS)
def open_rig(request: pytest.FixtureRequest) -> OpenRig:
    return partial(RIGS[request.param], request)


@pytest.fixture
async def rig(open_rig: OpenRig) -> AsyncIterator[Rig]:
    async with open_rig() as rig:
        yield rig


@pytest.fixture
def store(rig: Rig) -> JobStore:
    return rig.store
