"""Over a real server and real sockets: what an ASGI client in the same process cannot show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import uvicorn
from structlog.testing import capture_logs

from app.wire.body import ENVELOPE_BYTES
from tests.app.conftest import MAX_INPUT_BYTES, WANTED, Api, until

TOO_MUCH = b"x" * (MAX_INPUT_BYTES + ENVELOPE_BYTES + 1)


@dataclass
class Connection:
    """One connection, spoken to in plain HTTP/1.1."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Read one answer, body included."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await self.reader.readexactly(int(length.partition(b":")[2]))
        return int(head.split(b" ", 2)[1])

    async def post(self, body: bytes) -> int:
        head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)
        return await self.status()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
async def server(api: Api) -> AsyncIterator[uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, ws="none", log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
async def connection(server: uvicorn.Server) -> AsyncIterator[Connection]:
    port = server.servers[0].sockets[0].getsockname()[1]
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    yield connection
    await connection.close()


async def test_a_connection_goes_on_after_errors(connection: Connection) -> None:
    wanted = json.dumps(WANTED).encode()
    sent = [wanted, b"{", b"{}", TOO_MUCH, b"", wanted]
    assert [await connection.post(body) for body in sent] == [201, 400, 422, 413, 400, 201]


async def test_a_body_that_grows_too_large_on_the_way_is_413(connection: Connection) -> None:
    await connection.send(b"POST /api/v1/jobs HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(TOO_MUCH), 16_384):
        chunk = TOO_MUCH[start : start + 16_384]
        await connection.send(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    # The end of the body has not been sent, and is not waited for.
    assert await connection.status() == 413


async def test_bytes_that_are_no_http_are_refused_and_others_are_served(
    server: uvicorn.Server, connection: Connection
) -> None:
    await connection.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    answer = await asyncio.wait_for(connection.reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    port = server.servers[0].sockets[0].getsockname()[1]
    other = Connection(*await asyncio.open_connection("127.0.0.1", port))
    assert await other.post(json.dumps(WANTED).encode()) == 201
    await other.close()


async def test_a_caller_that_goes_away_while_waiting_leaves_nothing_behind(api: Api, connection: Connection) -> None:
    job_id = await api.submitted()
    await connection.send(f"GET /api/v1/jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await until(lambda: api.watch.waiting == 1)
    with capture_logs() as logs:
        await connection.close()
        await until(lambda: api.watch.waiting == 0)
    assert logs == []


async def test_a_connection_goes_on_after_a_wait(api: Api, connection: Connection) -> None:
    job_id = await api.submitted()
    await connection.send(f"GET /api/v1/jobs/{job_id}?wait=0.01 HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert await connection.status() == 200
    assert await connection.post(json.dumps(WANTED).encode()) == 201


async def test_a_caller_that_hangs_up_in_the_middle_of_its_body_is_no_error(
    api: Api, server: uvicorn.Server, connection: Connection
) -> None:
    with capture_logs() as logs:
        await connection.send(b"POST /api/v1/jobs HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{")
        await until(lambda: bool(server.server_state.tasks))
        await connection.close()
        await until(lambda: not server.server_state.tasks)
    assert logs == []
    assert (await api.client.get("/api/v1/jobs")).json()["jobs"] == []
