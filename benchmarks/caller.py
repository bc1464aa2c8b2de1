"""A caller that costs next to nothing: each connection sends a request, waits for its answer, and sends the next.

A process of its own, so that what it computes is not counted among what it measures.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

from benchmarks.contestant import python
from benchmarks.findings import quantile

PATIENCE = 120.0


class Calls(Struct, frozen=True):
    """What to ask for. `{number}` in the body and in the headers stands for the request's own."""

    port: int
    path: str
    body: str
    requests: int
    connections: int
    first: int = 0
    headers: dict[str, str] = {}


class Answers(Struct, frozen=True):
    seconds: float
    """From the first request sent to the last answer read."""
    statuses: dict[int, int]
    p50: float
    """Seconds from a request sent to its answer read, as `p99`."""
    p99: float


def call(calls: Calls) -> Answers:
    """Send these requests from a process of its own.

    Raises:
        SystemExit: it failed, or took too long.
    """
    asked = msgspec.json.encode(calls)
    done = subprocess.run(
        python("benchmarks.caller"), input=asked, stdout=subprocess.PIPE, timeout=PATIENCE, check=False
    )
    if done.returncode:
        raise SystemExit("The caller failed.")
    return msgspec.json.decode(done.stdout, type=Answers)


def wrong(answers: Answers, wanted: int) -> Mapping[int, int]:
    """How many answers had another status, by their status."""
    return {status: count for status, count in answers.statuses.items() if status != wanted}


class _Connection(asyncio.Protocol):
    def __init__(self, calling: _Calling) -> None:
        self._calling = calling
        self._transport: asyncio.Transport
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._calling.connections.append(self)

    def send(self) -> None:
        request = self._calling.next()
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self._received = b""
        self._calling.answered(int(head[9:12]), time.perf_counter() - self._sent_at)
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self._calling.lost()


class _Calling:
    def __init__(self, calls: Calls) -> None:
        self.connections: list[_Connection] = []
        self.ended = asyncio.get_running_loop().create_future()
        self.took: list[float] = []
        self.statuses: Counter[int] = Counter()
        self._calls = calls
        self._number = calls.first
        self._open = calls.connections

    def next(self) -> bytes | None:
        calls, number = self._calls, self._number
        if number == calls.first + calls.requests:
            return None
        self._number += 1
        body = calls.body.replace("{number}", str(number))
        headers = "".join(f"{name}: {value}\r\n" for name, value in calls.headers.items())
        headers = headers.replace("{number}", str(number))
        return (
            f"POST {calls.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def answered(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        self.took.append(seconds)

    def lost(self) -> None:
        self._open -= 1
        if not self._open and not self.ended.done():
            self.ended.set_result(None)


async def _run(calls: Calls) -> Answers:
    loop, calling = asyncio.get_running_loop(), _Calling(calls)
    for _ in range(calls.connections):
        await loop.create_connection(lambda: _Connection(calling), "127.0.0.1", calls.port)
    began = time.perf_counter()
    for connection in list(calling.connections):
        connection.send()
    await calling.ended
    seconds = time.perf_counter() - began
    if len(calling.took) != calls.requests:
        raise SystemExit(f"{len(calling.took)} of {calls.requests} requests were answered.")
    return Answers(seconds, dict(calling.statuses), quantile(calling.took, 0.5), quantile(calling.took, 0.99))


def main() -> None:
    calls = msgspec.json.decode(sys.stdin.buffer.read(), type=Calls)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_run(calls))))


if __name__ == "__main__":
    main()
