"""This service in one process, as `ai-service up` runs it, without HTTP: use cases, scheduler and worker, no broker.

Jobs are asked for over a socket: `NUMBER URGENT` in a line, and back come the times of `Sent`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvloop
from dramatiq import Worker

from app import logs
from app.bootstrap import Application, build
from app.settings import from_env
from benchmarks.contestant import Send, Sent, python
from benchmarks.ours import QUEUE, TASK_TYPE, Ours, performing
from benchmarks.place import Place
from benchmarks.submitting import PATIENCE, send_one, serving
from domain.job import Priority
from domain.usecases.submit import Submit


class Together(Ours):
    def __init__(self, place: Place, *, backlog: Priority = Priority.NORMAL) -> None:
        super().__init__(place, embedded=True, backlog=backlog)
        self.settings = "submits, schedules and works in one process, no broker, defaults"
        self._socket = str(place.folder / "together")

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.together", str(slots), self._socket)

    @contextmanager
    def submitter(self) -> Iterator[Send]:
        with closing(_connected(self._socket)) as connection, connection.makefile("rwb") as lines:

            def send(number: int, *, urgent: bool = False) -> Sent:
                lines.write(f"{number} {int(urgent)}\n".encode())
                lines.flush()
                asked, answered = lines.readline().split()
                return Sent(float(asked), float(answered))

            yield send


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + PATIENCE
    while connection.connect_ex(path):
        if time.monotonic() > deadline:
            raise SystemExit("The process that does everything does not start.")
        time.sleep(0.05)
    return connection


def work(slots: int, path: str) -> None:
    """Be that process until SIGTERM."""
    settings = from_env({**os.environ, "WORKER_CLAIM_LIMIT": str(slots)})
    logs.set_up(settings.logs)
    application = build(settings, with_worker=True, performers={TASK_TYPE: performing()})
    worker = Worker(application.broker, queues={QUEUE}, worker_threads=slots)
    worker.start()
    uvloop.run(_serve(application, path))
    worker.stop()
    application.broker.close()


async def _serve(application: Application, path: str) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with serving(application) as submit:
        if os.path.exists(path):  # noqa: ASYNC240  # once, before anything goes on
            os.unlink(path)
        server = await asyncio.start_unix_server(lambda reader, writer: _answer(submit, reader, writer), path)
        await ended.wait()
        server.close()


async def _answer(submit: Submit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        number, urgent = map(int, line.split())
        sent = await send_one(submit, TASK_TYPE, number, urgent=bool(urgent))
        writer.write(f"{sent.asked!r} {sent.answered!r}\n".encode())
    writer.close()


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
