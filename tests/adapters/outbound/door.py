"""A server that says over HTTP, or instead of it, whatever a test wants, on a loopback address of the test's choice."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Says = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Door:
    """What each path answers; what came is kept."""

    paths: dict[str, Says] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def url(self, path: str = "/a.wav", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if task := asyncio.current_task():
            self.tasks.append(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self.answer(reader, writer)
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        await self.paths[head.split()[1].partition("?")[0]](writer)
        await writer.drain()


def says(body: bytes = b"RIFF", *fields: str, status: str = "200 OK", length: int | None = None) -> Says:
    """
    Args:
        length: what the head says, if not the truth.
    """
    told = len(body) if length is None else length

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {told}", *fields))
        writer.write(head.encode() + b"\r\n" + body)

    return answer


def sends_to(location: str, status: int = 302) -> Says:
    return says(b"elsewhere", f"Location: {location}", status=f"{status} Found")


def drips(piece: bytes, *, every: float, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Says:
    """A body without end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return answer


def raw(data: bytes) -> Says:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


@asynccontextmanager
async def opened(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **paths: Says) -> AsyncIterator[Door]:
    door = Door({f"/{name.replace('_', '.')}": says for name, says in paths.items()})
    server = await asyncio.start_server(door.serve, host, 0, ssl=tls)
    door.port = server.sockets[0].getsockname()[1]
    try:
        yield door
    finally:
        server.close()
        for task in door.tasks:
            task.cancel()
        await asyncio.gather(*door.tasks, return_exceptions=True)
        await server.wait_closed()
