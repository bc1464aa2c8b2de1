"""Starts a process for each look at a file, and sees to its end: a file may crash, hang or bloat its decoder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import msgspec

from adapters.audio.orders import LARGEST_ANSWER, READY, Answer, Bounds, Failed, Order, Refused
from domain.errors import ErrorCode, RunFailed

PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from adapters.audio.child import main; main(int(sys.argv[1]))"

SEARCHED = (str(Path(__file__).parents[2]), *(place for place in sys.path if Path(place).is_absolute()))

OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Not sent by a decoder to itself: somebody or something ended it."""

_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class Children:
    """Decoding processes, at most so many at once; who comes later waits, and that time does not count."""

    def __init__(self, at_once: int, bounds: Bounds) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._bounds = bounds

    async def ask(self, order: Order) -> Answer:
        """Have it done. No process is left behind, however this ends.

        Raises:
            RunFailed: `bad_audio` where the file is at fault, `internal_error` where this machine is.
        """
        async with self._room:
            process = await _start()
            try:
                async with asyncio.timeout(self._bounds.time.total_seconds()):
                    said = await _talk(process, msgspec.json.encode(order))
                    status = await process.wait()
            except TimeoutError:
                raise _too_costly() from None
            finally:
                await _end(process)
        return _understood(said, status)


async def _start() -> Process:
    # Neither this process's settings, which hold secrets, nor its packages' start-up files.
    command = (sys.executable, "-I", "-S", "-c", PROGRAM, str(os.getpid()), *SEARCHED)
    surroundings = {"OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    if "LD_LIBRARY_PATH" in os.environ:
        surroundings["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=surroundings, start_new_session=True
        )
    except OSError as error:
        raise RunFailed(ErrorCode.INTERNAL_ERROR, f"No decoder could be started: {error.strerror}.") from error


async def _talk(process: Process, order: bytes) -> bytes:
    assert process.stdin and process.stdout, "both are pipes"  # noqa: S101, PT018  # for the type checker
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(order)
        await process.stdin.drain()
    process.stdin.close()
    said = bytearray()
    while chunk := await process.stdout.read(65536):
        said += chunk
        if len(said) > LARGEST_ANSWER:
            raise RunFailed(ErrorCode.BAD_AUDIO, "The recording made its decoder talk without end.")
    return bytes(said)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def _understood(said: bytes, status: int) -> Answer:
    if not said.startswith(READY):
        raise RunFailed(ErrorCode.INTERNAL_ERROR, f"The decoder did not start (status {status}).")
    if status:
        raise _ended(status)
    try:
        answer = _decoder.decode(said[len(READY) :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RunFailed(ErrorCode.BAD_AUDIO, "The recording made its decoder answer nonsense.") from None
    if isinstance(answer, Refused):
        raise RunFailed(ErrorCode.BAD_AUDIO, answer.message)
    if isinstance(answer, Failed):
        raise RunFailed(ErrorCode.INTERNAL_ERROR, answer.message)
    return answer


def _ended(status: int) -> RunFailed:
    if status == -signal.SIGXCPU:
        return _too_costly()
    if -status in OUTSIDE:
        return RunFailed(ErrorCode.INTERNAL_ERROR, f"The decoder was ended from outside (signal {-status}).")
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return RunFailed(ErrorCode.BAD_AUDIO, f"The recording made its decoder crash ({how}).")


def _too_costly() -> RunFailed:
    return RunFailed(ErrorCode.BAD_AUDIO, "Decoding the recording takes longer than is allowed.")
