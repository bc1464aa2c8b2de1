"""A server that costs next to nothing: it answers a GET, or a chat completion with its stream, after a set time.

Completions are written down as runs are, from their arrival to their answer and numbered as they come: the jobs of a
real provider have no handler that could.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import cast

import uvloop

from benchmarks import record
from benchmarks.contestant import python
from tests.servers.model_server import EVENTS, stream


@contextmanager
def answering(seconds: float, completions: Path | None = None) -> Iterator[str]:
    """Its address.

    Args:
        seconds: until each answer.
        completions: where they are written down.
    """
    environment = {**os.environ, record.VARIABLE: str(completions or os.devnull)}
    pipe = subprocess.PIPE
    with subprocess.Popen(python("benchmarks.slow", str(seconds)), env=environment, stdin=pipe, stdout=pipe) as server:
        assert server.stdin
        assert server.stdout
        try:
            yield server.stdout.readline().decode().strip()
        finally:
            server.stdin.close()


class Caller(asyncio.Protocol):
    numbers = count()  # of all connections

    def __init__(self, seconds: float, recorder: record.Recorder) -> None:
        self._seconds = seconds
        self._recorder = recorder
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
            self._later(partial(self._complete, next(self.numbers), time.time()))
        elif head.startswith(b"GET /slow "):
            self._later(partial(self._say, DONE))
        else:
            self._say(MODELS)

    def _later(self, call: partial[None]) -> None:
        asyncio.get_running_loop().call_later(self._seconds, call)

    def _complete(self, number: int, began: float) -> None:
        self._say(COMPLETION)
        self._recorder.write(number, began)

    def _say(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def _response(body: bytes, content_type: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


DONE = _response(b"done", "text/plain")
COMPLETION = _response(b"".join(stream("Done.")), EVENTS)
MODELS = _response(b'{"object": "list", "data": []}', "application/json")


async def serve(seconds: float) -> None:
    recorder = record.Recorder()
    server = await asyncio.get_running_loop().create_server(
        lambda: Caller(seconds, recorder), "127.0.0.1", 0, backlog=1024
    )
    print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1])))
