from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import httpx
import pytest

from adapters.providers.client import open_client
from tests.servers.model_server import ModelServer

IDLE = timedelta(seconds=0.5)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Gives up on a server that is silent for half a second."""
    async with open_client(idle=IDLE) as client:
        yield client
