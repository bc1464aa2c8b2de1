"""A model server to test against: real HTTP on a free port, in a thread of its own, doing to each call what it is told.

It can be rude (stalls, cuts, nonsense), sees when a client hangs up, and counts. Sync tests, async tests and other
processes may all use it.

    with ModelServer() as server:
        server.script(refuses(429, headers={"retry-after": "7"}), says("Hello."))
        ... server.base_url ...
        assert server.calls == 2
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import threading
from asyncio.trsock import TransportSocket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

MODEL = "scripted-model"
PATIENCE = 10.0
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def last_message(self) -> str:
        """What the caller said last."""
        return str(self.json["messages"][-1]["content"])


@dataclass
class Reply:
    """The wire to one caller. Whatever is not sent by these methods can be sent as raw bytes."""

    writer: asyncio.StreamWriter
    chunked: bool = False

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers.items())]
        await self.raw("\r\n".join((*lines, "", "")).encode())

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        await self.head(status, {"content-length": str(len(body)), **headers})
        await self.raw(body)

    async def start_stream(self, content_type: str = EVENTS) -> None:
        self.chunked = True
        await self.head(200, {"content-type": content_type, "transfer-encoding": "chunked"})

    async def piece(self, data: bytes) -> None:
        if data:
            await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.raw(b"0\r\n\r\n")

    def cut(self) -> None:
        """Break the connection off in the middle."""
        self.writer.transport.abort()


Behaviour = Callable[[Request, Reply], Awaitable[None]]


def says(text: str, *, model: str = MODEL, finish_reason: str = "stop", pause: float = 0) -> Behaviour:
    """Answers with this text: streamed word by word where that was asked for, else whole."""

    async def behave(request: Request, reply: Reply) -> None:
        if not request.json.get("stream"):
            await reply.whole(200, completion(text, model, finish_reason), JSON)
            return
        await reply.start_stream()
        for event in stream(text, model, finish_reason):
            await reply.piece(event)
            if pause:
                await asyncio.sleep(pause)
        await reply.end_stream()

    return behave


def echoes(*, pause: float = 0) -> Behaviour:
    """Answers with what was said to it last."""

    async def behave(request: Request, reply: Reply) -> None:
        await says(request.last_message, pause=pause)(request, reply)

    return behave


def refuses(status: int, body: object = "", *, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answers with this status, and this body: bytes or a text as they are, anything else as JSON."""

    async def behave(request: Request, reply: Reply) -> None:
        data = (
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )
        await reply.whole(status, data, {**({} if isinstance(body, str | bytes) else JSON), **(headers or {})})

    return behave


def tells(body: object = "") -> Behaviour:
    """Answers 200 with this body: bytes or a text as they are, anything else as JSON."""
    return refuses(200, body)


def streams(*pieces: bytes, content_type: str = EVENTS) -> Behaviour:
    """Streams these bytes as they are, then ends well."""

    async def behave(request: Request, reply: Reply) -> None:
        await reply.start_stream(content_type)
        for piece in pieces:
            await reply.piece(piece)
        await reply.end_stream()

    return behave


def stalls(*pieces: bytes, headers_first: bool = True, content_type: str = EVENTS) -> Behaviour:
    """Streams these bytes, then nothing, until the client hangs up."""

    async def behave(request: Request, reply: Reply) -> None:
        if headers_first:
            await reply.start_stream(content_type)
        for piece in pieces:
            await reply.piece(piece)
        await asyncio.Event().wait()

    return behave


def cuts(*pieces: bytes, headers_first: bool = True, content_type: str = EVENTS) -> Behaviour:
    """Streams these bytes, then breaks the connection off."""

    async def behave(request: Request, reply: Reply) -> None:
        if headers_first:
            await reply.start_stream(content_type)
        for piece in pieces:
            await reply.piece(piece)
        reply.cut()

    return behave


def sends(data: bytes) -> Behaviour:
    """Sends these bytes, headers and all, and closes the connection."""

    async def behave(request: Request, reply: Reply) -> None:
        await reply.raw(data)
        reply.writer.close()

    return behave


def after(seconds: float, behaviour: Behaviour) -> Behaviour:
    """The same, but late."""

    async def behave(request: Request, reply: Reply) -> None:
        await asyncio.sleep(seconds)
        await behaviour(request, reply)

    return behave


JSON = {"content-type": "application/json"}


def completion(text: str, model: str = MODEL, finish_reason: str = "stop") -> bytes:
    """A chat completion in one piece."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps(
        {"object": "chat.completion", "model": model, "choices": [choice], "usage": _usage(text)}
    ).encode()


def stream(text: str, model: str = MODEL, finish_reason: str = "stop") -> list[bytes]:
    """The events of a streamed chat completion, a word each."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    deltas += [{"content": word} for word in words(text)]
    return [
        *(chunk({"index": 0, "delta": delta, "finish_reason": None}, model=model) for delta in deltas),
        chunk({"index": 0, "delta": {}, "finish_reason": finish_reason}, model=model),
        chunk(model=model, usage=_usage(text)),
        b"data: [DONE]\n\n",
    ]


def words(text: str) -> list[str]:
    """The pieces that a text is streamed in."""
    *first, last = text.split(" ")
    return [*(f"{word} " for word in first), last]


def chunk(*choices: Mapping[str, Any], **fields: object) -> bytes:
    """One event of a streamed chat completion."""
    document = {"id": "1", "object": "chat.completion.chunk", "choices": choices, **fields}
    return b"data: %s\n\n" % json.dumps(document).encode()


def _usage(text: str) -> dict[str, int]:
    count = len(text.split())
    return {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"


@dataclass
class ModelServer:
    """Serves `POST` with the scripted behaviours in turn, then with `default`; `GET` answers as long as it is healthy.

    Args:
        default: what it does to a call that the script does not reach.
        scripts_get: serve `GET` like `POST`.
        pages: what it does to `GET` by path, and by `*` to that of any other path; 404 without. None: as above.
        asides: what it does to `POST` of these paths, apart from the script.
        tls: speak TLS with this; for `https` addresses.
        port: 0: a free one.
    """

    default: Behaviour = field(default_factory=lambda: says("The answer."))
    scripts_get: bool = False
    pages: Mapping[str, Behaviour] | None = None
    asides: Mapping[str, Behaviour] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    healthy: bool = True
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    """The calls so far, in the order in which they came."""
    looks: list[Request] = field(default_factory=list)
    """Each request so far that is not served like a call: each `GET`, and what was done aside."""
    running: int = 0
    """Calls that are being served now."""
    most_at_once: int = 0
    """Calls whose clients had not hung up, noticed or not."""
    hang_ups: int = 0
    """Calls whose client left before the answer was complete."""

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._script: deque[Behaviour] = deque()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[Any]] = set()
        self._serving: list[TransportSocket] = []
        self._errors: list[Exception] = []
        self._listener: asyncio.Server | None = None
        self._port = self.port
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-server", daemon=True)

    def __enter__(self) -> ModelServer:
        self._thread.start()
        self.come_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        if self._errors:
            raise self._errors[0]

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def calls(self) -> int:
        return len(self.requests)

    @property
    def bodies(self) -> list[Any]:
        """What the calls so far asked for."""
        return [request.json for request in self.requests]

    def script(self, *behaviours: Behaviour) -> None:
        """What to do to the next calls, one behaviour each."""
        self._script.extend(behaviours)

    def hold(self) -> None:
        """From now on take calls, but do nothing about them until `let_go`."""
        self._run(self._hold())

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def go_down(self) -> None:
        """Break every connection off and accept no more."""
        self._run(self._go_down())

    def come_up(self) -> None:
        """Accept connections (again), on the same port."""
        self._run(self._come_up())

    def wait_until(self, true: Callable[[ModelServer], bool], timeout: float = PATIENCE) -> None:
        """Block until this holds; it is looked at whenever a call begins or ends. For threads without an event loop."""
        with self._changed:
            assert self._changed.wait_for(lambda: true(self), timeout), f"not within {timeout:g} s: {self}"

    async def until(self, true: Callable[[ModelServer], bool]) -> None:
        """The same for coroutines."""
        await asyncio.to_thread(self.wait_until, true)

    def look_again(self) -> None:
        """Wake who waits: something has changed between the beginning and the end of a call."""
        with self._changed:
            self._changed.notify_all()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _hold(self) -> None:
        self._open.clear()

    async def _come_up(self) -> None:
        listening = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self._port = listening.getsockname()[1]
        self._listener = await asyncio.start_server(self._connected, sock=listening, ssl=self.tls)

    async def _go_down(self) -> None:
        if self._listener:
            await self._stop_accepting(self._listener)
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _stop_accepting(self, listener: asyncio.Server) -> None:
        """Take no more connections. Those that were taken just now get their tasks first, so that each can be ended."""
        for listening in listener.sockets:
            self._loop.remove_reader(listening.fileno())
        # A connection takes some rounds of the loop from its acceptance to its task.
        for _ in range(10):
            await asyncio.sleep(0)
        listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        # asyncio sets it for its own sockets alone; without it an answer in two pieces takes 40 ms.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._converse(reader, writer)
            writer.close()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._connections.discard(connection)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection until either side closes it."""
        early = b""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                request = await _read_request(reader, early)
                reply = Reply(writer)
                if request.path in self.asides or (request.method == "GET" and not self.scripts_get):
                    early = b""
                    await self._show(request, reply)
                else:
                    early = await self._serve(request, reply, reader)

    async def _show(self, request: Request, reply: Reply) -> None:
        with self._changed:
            self.looks.append(request)
            self._changed.notify_all()
        if request.path in self.asides:
            await self.asides[request.path](request, reply)
        elif self.pages is None:
            await reply.whole(200 if self.healthy else 503, b'{"object": "list", "data": []}', JSON)
        else:
            path = request.path.partition("?")[0]
            await self.pages.get(path, self.pages.get("*", refuses(404, "Not Found")))(request, reply)

    async def _serve(self, request: Request, reply: Reply, reader: asyncio.StreamReader) -> bytes:
        """Do what is to be done to this call. Returns what has already been read of the connection's next one."""
        connection: TransportSocket = reply.writer.get_extra_info("socket")
        self._begun(request, connection)
        behaviour = self._script.popleft() if self._script else self.default
        served = asyncio.ensure_future(self._behave(behaviour, request, reply))
        more = asyncio.ensure_future(_more(reader))
        try:
            await asyncio.wait([served, more], return_when=asyncio.FIRST_COMPLETED)
            if more.done() and more.result():
                await asyncio.wait([served])
        finally:
            hung_up = more.done() and not served.done()
            served.cancel()
            more.cancel()
            outcome, early = await asyncio.gather(served, more, return_exceptions=True)
            if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                self._errors.append(outcome)
            if outcome is not None:
                reply.cut()
            self._ended(connection, hung_up=hung_up or isinstance(outcome, ConnectionError))
        return early if isinstance(early, bytes) else b""

    async def _behave(self, behaviour: Behaviour, request: Request, reply: Reply) -> None:
        await self._open.wait()
        await behaviour(request, reply)

    def _begun(self, request: Request, connection: TransportSocket) -> None:
        self._serving.append(connection)
        with self._changed:
            self.requests.append(request)
            self.running += 1
            if self.running > self.most_at_once:
                self.most_at_once = max(self.most_at_once, sum(_is_there(each) for each in self._serving))
            self._changed.notify_all()

    def _ended(self, connection: TransportSocket, *, hung_up: bool) -> None:
        self._serving.remove(connection)
        with self._changed:
            self.running -= 1
            self.hang_ups += hung_up
            self._changed.notify_all()


class ServedOver:
    """For servers whose calls a `ModelServer`, their `http`, brings them."""

    http: ModelServer

    def __enter__(self) -> Self:
        self.http.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.__exit__(kind, error, trace)

    @property
    def base_url(self) -> str:
        return self.http.base_url


def _is_there(connection: TransportSocket) -> bool:
    """Whether the other side has not hung up yet."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as twin:
            return bool(twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


async def _more(reader: asyncio.StreamReader) -> bytes:
    """The next byte from the client; none when it has left."""
    try:
        return await reader.read(1)
    except ConnectionError:
        return b""


async def _read_request(reader: asyncio.StreamReader, early: bytes) -> Request:
    head = (early + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
