"""Holds a document against a schema in a process of its own, where it holds up nobody, and for so long only.

The library keeps Python's lock while it looks: in a worker no other job, no lease and no sign of life would get on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from adapters.schemas.json_schema import TOO_MUCH, JsonSchemas
from domain.errors import ErrorCode, RunFailed

PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from adapters.schemas.apart import main; main()"
SEARCHED = (str(Path(__file__).parents[2]), *(place for place in sys.path if Path(place).is_absolute()))

PROCESSOR = timedelta(seconds=10)
LONGEST = timedelta(seconds=60)
AT_ONCE = 2
MEMORY = 2 << 30

GIVEN_UP = (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGABRT)
"""Out of time, or out of memory."""


class Schemas(JsonSchemas):
    """The port of the same name."""

    def __init__(self, processor: timedelta = PROCESSOR) -> None:
        super().__init__()
        self._processor = processor
        self._room = asyncio.Semaphore(AT_ONCE)

    async def misfit(self, schema: object, document: object) -> str | None:
        """Where the document does not fit the schema: a place and a keyword, and no name that the schema has not.

        Raises:
            BadInput: this is no schema.
            RunFailed: `internal_error`: this machine cannot look.
        """
        if self.is_light(schema, document):
            return self.misfit_here(schema, document)
        async with self._room:
            return await self._apart(_encoded([self._processor.total_seconds(), schema, document]))

    async def _apart(self, order: bytes) -> str | None:
        process = await _start()
        try:
            async with asyncio.timeout(LONGEST.total_seconds()):
                said, _ = await process.communicate(order)
        except TimeoutError:
            return TOO_MUCH
        finally:
            await _end(process)
        if process.returncode in GIVEN_UP:
            return TOO_MUCH
        try:
            return msgspec.json.decode(said, type=str | None)
        except msgspec.DecodeError:
            status = process.returncode
            raise RunFailed(
                ErrorCode.INTERNAL_ERROR, f"The JSON schema could not be looked at (status {status})."
            ) from None


async def _start() -> Process:
    # Neither this process's settings, which hold secrets, nor its packages' start-up files.
    command = (sys.executable, "-I", "-S", "-c", PROGRAM, *SEARCHED)
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={"LANG": "C.UTF-8"}, start_new_session=True
        )
    except OSError as error:
        raise RunFailed(
            ErrorCode.INTERNAL_ERROR, f"The JSON schema could not be looked at: {error.strerror}."
        ) from error


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def _encoded(order: Any) -> bytes:
    try:
        return msgspec.json.encode(order)
    except OverflowError:  # numbers beyond 64 bits
        return json.dumps(order).encode()


def main() -> None:
    """Everything that the process does."""
    seconds, schema, document = msgspec.json.decode(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (max(1, int(seconds)), max(1, int(seconds)) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should its parent end without a word.
    signal.alarm(int(LONGEST.total_seconds()) + 5)
    sys.stdout.buffer.write(msgspec.json.encode(JsonSchemas().misfit_here(schema, document)))
