"""The door's ways to be in the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from tests.servers.tcp_proxy import Keeper, TcpProxy

SILENCE = 0.2


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that says again what it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(100):
                writer.write(piece)
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
def door(echo: int) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo) as door:
        yield door


Connect = Callable[[bytes], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def says(door: TcpProxy) -> AsyncIterator[Connect]:
    """Opens connections through the door, and says something over each."""
    writers: list[asyncio.StreamWriter] = []

    async def says(text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writers.append(writer)
        writer.write(text)
        return reader, writer

    yield says
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


async def is_over(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(100) == b""
    except ConnectionError:
        return True


async def hears_nothing(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(100), SILENCE)
    except TimeoutError:
        return True
    return False


async def test_what_was_said_in_the_dark_arrives_when_it_is_over_on_old_connections_and_new_ones(door, says):
    old, speaker = await says(b"before")
    assert await old.read(100) == b"before"
    door.black_out()
    speaker.write(b"in the dark")
    new, _ = await says(b"newcomer")
    assert await hears_nothing(old)
    assert await hears_nothing(new)
    door.open()
    assert await old.read(100) == b"in the dark"
    assert await new.read(100) == b"newcomer"


async def test_the_end_of_a_connection_does_not_pass_in_the_dark(door, says):
    reader, writer = await says(b"before")
    assert await reader.read(100) == b"before"
    door.black_out()
    writer.write_eof()
    assert await hears_nothing(reader)
    door.open()
    assert await reader.read(100) == b""


async def test_a_door_in_the_dark_can_be_shut(door, says):
    reader, _ = await says(b"before")
    assert await reader.read(100) == b"before"
    door.black_out()
    door.shut()
    assert await is_over(reader)
    door.open()
    again, _ = await says(b"again")
    assert await again.read(100) == b"again"


async def test_what_is_delayed_comes_later_both_ways(door, says):
    door.delay(0.1)
    began = time.monotonic()
    reader, _ = await says(b"late")
    assert await reader.read(100) == b"late"
    assert time.monotonic() - began >= 0.2


def test_doors_may_share_a_thread(echo: int) -> None:
    keeper = Keeper()
    keeper.start()
    with TcpProxy("127.0.0.1", echo, keeper) as one, TcpProxy("127.0.0.1", echo, keeper) as other:
        one.shut()
        assert one.port != other.port
    keeper.stop()
