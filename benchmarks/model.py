"""A model server that costs next to nothing: `python -m benchmarks.model PORT SECONDS`, until its input is closed.

It answers every chat after so many seconds, however many there are at once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvloop

from benchmarks.contestant import python
from tests.servers.model_server import EVENTS, stream
from tests.servers.rabbitmq import free_ports


class Model(asyncio.Protocol):
    def __init__(self, answer: bytes, seconds: float) -> None:
        self._answer = answer
        self._seconds = seconds
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if not blank or len(body) < int(length or b"0"):
            return
        self._received = b""
        if head.startswith(b"POST"):
            asyncio.get_running_loop().call_later(self._seconds, self._say, self._answer)
        else:
            self._say(response(b'{"object": "list", "data": []}', "application/json"))

    def _say(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def response(body: bytes, content_type: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def be_model(port: int, seconds: float) -> None:
    answer = response(b"".join(stream("Done.")), EVENTS)
    await asyncio.get_running_loop().create_server(lambda: Model(answer, seconds), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def model(seconds: float) -> Iterator[str]:
    """One in a process of its own. Yields its address."""
    [port] = free_ports(1)
    command = python("benchmarks.model", str(port), str(seconds))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        process.stdin.close()


if __name__ == "__main__":
    uvloop.run(be_model(int(sys.argv[1]), float(sys.argv[2])))
