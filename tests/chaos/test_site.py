from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.chaos.schedule import Kind
from tests.chaos.site import Door
from tests.servers.tcp_proxy import TcpProxy


@pytest.fixture
def door() -> Iterator[Door]:
    with socket.create_server(("127.0.0.1", 0)) as server, TcpProxy("127.0.0.1", server.getsockname()[1]) as proxy:
        yield Door(proxy)


def lets_in(door: Door) -> bool:
    try:
        socket.create_connection(("127.0.0.1", door.proxy.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_of_several_faults_a_door_feels_the_worst_until_it_is_over(door: Door) -> None:
    door.befall(Kind.CUT)
    door.befall(Kind.BLACKHOLE)
    assert not lets_in(door)
    door.relieve(Kind.CUT)
    assert lets_in(door)
    door.befall(Kind.CUT)
    door.relieve(Kind.BLACKHOLE)
    assert not lets_in(door)
    door.relieve(Kind.CUT)
    assert lets_in(door)
