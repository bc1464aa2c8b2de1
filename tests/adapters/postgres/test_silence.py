"""Connections that died without a word, as when a firewall forgets them or a virtual address moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from adapters.postgres import leadership, store
from adapters.postgres.leadership import PostgresLeadership
from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from domain.errors import StorageUnavailable
from tests.factories import LEASE, new_beat, new_id
from tests.servers.tcp_proxy import TcpProxy

PATIENCE = 0.3


@pytest.fixture
def door(database: str) -> Iterator[TcpProxy]:
    address = urlsplit(database)
    assert address.hostname
    assert address.port
    with TcpProxy(address.hostname, address.port) as door:
        yield door


async def test_a_heartbeat_gives_a_dead_connection_up_in_time_and_the_next_one_takes_another(
    database: str, door: TcpProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "HEARTBEAT_TIMEOUT", PATIENCE)
    monkeypatch.setattr(leadership, "HEARTBEAT_TIMEOUT", PATIENCE)
    dsn = database.replace(f":{door.target}/", f":{door.port}/")
    async with create_pool(dsn, max_size=2, application_name="test") as pool:
        async with pool.acquire(), pool.acquire():  # two that are open and will be dead
            pass
        door.hush()
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await PostgresJobStore(pool).beat(new_beat())
        await PostgresJobStore(pool).beat(new_beat())
        assert await PostgresLeadership(pool).lead(new_id(), LEASE) is not None

    assert time.monotonic() - began < 10 * PATIENCE
