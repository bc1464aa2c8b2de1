"""A door in front of a server that a test can shut: connections through it break, new ones are refused. Or hush: those
that are open fall silent without an end, as when a firewall forgets them, and new ones pass. Or turn away: whoever
comes is asked what he wants, which is noted, and gets nothing. Or black out: nothing passes, neither bytes nor the end
of a connection, until it is opened again; then all of it arrives, late. Or delay what passes.

with TcpProxy("127.0.0.1", 5432) as door:
    ... door.port ...
    door.shut()
    door.open()
    door.hush()
    door.black_out()
    door.delay(0.2)
    door.turn_away()
    ... door.turned_away ...
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.servers.rabbitmq import free_ports

PATIENCE = 10.0
PIECE = 1 << 16


class Keeper:
    """A thread in which doors pass on what comes."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="tcp-proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


@dataclass
class TcpProxy:
    """Passes bytes on to the target, in a thread of its own. The target may be changed while the door is shut.

    Args:
        keeper: of many doors: they share its thread.
        address: that it listens at. While it is shut anybody may take its port there.
    """

    host: str
    target: int
    keeper: Keeper | None = None
    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        [self.port] = free_ports(1)
        self._keeper = self.keeper or Keeper()
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self._speaking = asyncio.Event()
        self._passing = asyncio.Event()
        self._late = 0.0
        self.turned_away: list[bytes] = []
        """The first bytes of each connection that was turned away."""

    def __enter__(self) -> TcpProxy:
        if self.keeper is None:
            self._keeper.start()
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()
        if self.keeper is None:
            self._keeper.stop()

    def open(self) -> None:
        """Let connections in (again), on the same port."""
        self._run(self._open())

    def shut(self) -> None:
        """Break every connection and refuse new ones."""
        self._run(self._shut())

    def turn_away(self) -> None:
        """Break every connection, and each new one once it has said something."""
        self._run(self._turn_away())

    def hush(self) -> None:
        """Pass nothing on any more over the connections that are open."""
        self._run(self._hush())

    def black_out(self) -> None:
        """Pass nothing on until `open`, over connections old or new: not even that one has ended."""
        self._run(self._black_out())

    def delay(self, seconds: float) -> None:
        """Pass on each piece so much later than it came; 0: at once, as at first."""
        self._late = seconds

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._keeper.loop).result(PATIENCE)

    async def _open(self) -> None:
        self._speaking.set()
        self._passing.set()
        await self._listen(self._connected)

    async def _turn_away(self) -> None:
        await self._shut()
        await self._listen(self._dismissed)

    async def _listen(self, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        await self._stop_listening()
        listening = socket.create_server((self.address, self.port), backlog=1024)
        self._listener = await asyncio.start_server(connected, sock=listening)

    async def _stop_listening(self) -> None:
        """Take no more connections before the listener closes: asyncio loses one that comes in between, unclosed."""
        if self._listener:
            for listening in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            await _some_rounds()
            self._listener.close()

    async def _dismissed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            self.turned_away.append(await reader.read(PIECE))
        writer.transport.abort()

    async def _black_out(self) -> None:
        self._passing.clear()
        await self._listen(self._connected)

    async def _hush(self) -> None:
        self._speaking.clear()
        self._speaking = asyncio.Event()
        self._speaking.set()

    async def _shut(self) -> None:
        await self._stop_listening()
        # A connection takes some rounds of the loop from its acceptance to its task, and from its end to its closing.
        await _some_rounds()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await _some_rounds()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        speaking = self._speaking
        # asyncio sets it for its own sockets alone; without it what comes in two pieces takes 40 ms.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = [writer]
        try:
            with contextlib.suppress(OSError):
                await self._passing.wait()
                answers, target = await asyncio.open_connection(self.host, self.target)
                ends.append(target)
                await _either(self._pass_on(reader, target, speaking), self._pass_on(answers, writer, speaking))
        except asyncio.CancelledError:
            pass  # the door was shut
        finally:
            for end in ends:
                end.transport.abort()
            self._connections.discard(connection)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, speaking: asyncio.Event) -> None:
        while piece := await self._next_piece(source):
            await speaking.wait()
            if self._late:
                await asyncio.sleep(self._late)
            sink.write(piece)
            await sink.drain()

    async def _next_piece(self, source: asyncio.StreamReader) -> bytes:
        """The next bytes, or that there are none left, once it may pass."""
        piece = b""
        with contextlib.suppress(OSError):
            piece = await source.read(PIECE)
        await self._passing.wait()
        return piece


async def _some_rounds() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _either(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them ends; the other is stopped."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
