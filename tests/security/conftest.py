from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from litestar.types import ASGIApp

from app.connection import PATIENCE, Patience
from app.server import MOST_CONNECTIONS, Server, bind
from tests.app.conftest import Api, build
from tests.e2e.conftest import install, model

__all__ = ["install", "model"]

HOSTILE = (
    "one\ntwo",
    'one\r\n{"event": "forged", "level": "error"}',
    "\x1b[2J\x1b]0;title\x07\x1b[31mred",
    "next\x85line\u2028line\u2029paragraph",
    "\x0b\x0c\x1c\x1d\x1e",
    "\u202eright to left",
    "\x9b31m",
    "'; DROP TABLE jobs; --",
    "%_\\%",
    "${jndi:ldap://x}{{7*7}}%s%n{0}[red]",
)
"""What no log line, no terminal and no statement may take for more than text."""

HURRIED = Patience(head=0.5, body=0.5, answer=0.5)
"""What a test can wait for."""


@dataclass
class Answer:
    """What came back over a connection for one request."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document that it must be."""
        assert self.fields["content-type"] == "application/problem+json", self
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert document.keys() >= {"type", "title", "detail", "instance"}
        return document


@dataclass
class Line:
    """A connection on which a test says what it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, within: float = 10) -> Answer:
        """The next answer, read to its end."""
        async with asyncio.timeout(within):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = b""
            if "content-length" in fields:
                body = await self.reader.readexactly(int(fields["content-length"]))
            return Answer(int(first.split()[1]), fields, body)

    async def closed(self, within: float = 10) -> None:
        """Block until the server has hung up."""
        async with asyncio.timeout(within):
            try:
                while await self.reader.read(1 << 20):
                    pass
            except ConnectionError:
                pass

    async def status(self) -> int:
        """Of an answer after which the server hangs up."""
        async with asyncio.timeout(10):
            return int((await self.reader.read()).split(b" ", 2)[1])

    def hang_up(self) -> None:
        self.writer.transport.abort()


@dataclass
class Listening:
    """An application behind the real HTTP server."""

    server: Server
    port: int
    lines: list[Line]

    async def call(self, limit: int = 1 << 16) -> Line:
        """A new connection."""
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        self.lines.append(line)
        return line

    async def ask(self, request: bytes, within: float = 10) -> Answer:
        """The answer to this request on a connection of its own."""
        line = await self.call()
        await line.send(request)
        return await line.answer(within)

    async def is_well(self) -> None:
        """Fail unless an ordinary caller is served at once."""
        assert (await self.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", within=2)).status == 200


@asynccontextmanager
async def listening(
    app: ASGIApp, *, patience: Patience = PATIENCE, most: int = MOST_CONNECTIONS
) -> AsyncIterator[Listening]:
    listener = bind("127.0.0.1", 0, "HTTP_PORT")
    server = Server(app, grace=timedelta(seconds=1), patience=patience, most=most)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    here = Listening(server, listener.getsockname()[1], [])
    try:
        yield here
    finally:
        for line in here.lines:
            line.hang_up()
        server.should_exit = True
        await serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    built = build()
    async with built.client:
        yield built


@pytest.fixture
async def service(api: Api) -> AsyncIterator[Listening]:
    async with listening(api.app) as here:
        yield here


def post(path: str, body: bytes, *fields: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *fields)).encode() + b"\r\n\r\n"
