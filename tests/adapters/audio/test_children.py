"""Decoding processes: bound, few at once, and gone when nobody wants their answer any more."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from adapters.audio.orders import Bounds
from adapters.audio.recordings import DecodedRecordings
from domain.errors import ErrorCode, RunFailed
from tests.adapters.audio import sounds
from tests.adapters.audio.conftest import decoders


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A file that its decoder waits for for ever."""
    path = tmp_path / "endless.wav"
    os.mkfifo(path)
    yield path
    for writer in writers:
        os.close(writer)
    writers.clear()


writers: list[int] = []


async def started(endless: Path, before: set[int]) -> int:
    """The decoder that waits for this file, and no longer for itself."""
    # A file of this kind can be opened for writing only when somebody reads it, and has no end until it is closed.
    writers.append(await asyncio.to_thread(os.open, endless, os.O_WRONLY))
    return (decoders() - before).pop()


async def test_a_decoder_that_hangs_ends_in_time(endless):
    before = decoders()
    recordings = DecodedRecordings(bounds=Bounds(time=timedelta(seconds=1)))

    with pytest.raises(RunFailed, match="takes longer than is allowed") as failed:
        await recordings.examine(endless)

    assert failed.value.failure.code is ErrorCode.BAD_AUDIO
    assert decoders() <= before


async def test_a_cancelled_look_leaves_no_decoder(endless, recordings):
    before = decoders()
    look = asyncio.create_task(recordings.examine(endless))
    await started(endless, before)

    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look

    assert decoders() <= before


async def test_looks_that_are_cancelled_while_they_start_leave_no_decoder(endless, recordings):
    before = decoders()
    for pause in range(8):
        look = asyncio.create_task(recordings.examine(endless))
        for _ in range(pause):
            await asyncio.sleep(0)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look

    assert decoders() <= before


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGSEGV, ErrorCode.BAD_AUDIO),
        (signal.SIGABRT, ErrorCode.BAD_AUDIO),
        (signal.SIGXCPU, ErrorCode.BAD_AUDIO),
        (signal.SIGKILL, ErrorCode.INTERNAL_ERROR),
        (signal.SIGTERM, ErrorCode.INTERNAL_ERROR),
    ],
)
async def test_a_crash_is_the_recordings_fault_and_a_kill_is_not(endless, recordings, how, code):
    before = decoders()
    look = asyncio.create_task(recordings.examine(endless))
    os.kill(await started(endless, before), how)

    with pytest.raises(RunFailed) as failed:
        await look

    assert failed.value.failure.code is code


async def test_a_decoder_may_not_take_more_processor_time_than_allowed(tmp_path):
    recordings = DecodedRecordings(bounds=Bounds(processor=timedelta(seconds=1)))
    path = sounds.write(tmp_path / "long.flac", sounds.talk(0, 400), coder="flac")

    with pytest.raises(RunFailed, match="takes longer than is allowed") as failed:
        await recordings.examine(path)

    assert failed.value.failure.code is ErrorCode.BAD_AUDIO


async def test_a_decoder_may_not_take_more_memory_than_allowed(tmp_path):
    recordings = DecodedRecordings(bounds=Bounds(memory=16 * 1024**2))
    path = sounds.write(tmp_path / "speech.wav", sounds.speech())

    with pytest.raises(RunFailed) as failed:
        await recordings.examine(path)

    assert failed.value.failure.code is ErrorCode.BAD_AUDIO


async def test_no_more_decoders_run_at_once_than_allowed(endless):
    before = decoders()
    recordings = DecodedRecordings(at_once=1, bounds=Bounds(time=timedelta(seconds=2)))
    looks = [asyncio.create_task(recordings.examine(endless)) for _ in range(2)]
    await started(endless, before)

    assert len(decoders() - before) == 1
    ends = await asyncio.gather(*looks, return_exceptions=True)
    assert [type(end) for end in ends] == [RunFailed, RunFailed]


async def test_a_decoder_knows_no_secret_of_the_process_that_started_it(endless, recordings, monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", "secret")
    before = decoders()
    look = asyncio.create_task(recordings.examine(endless))
    decoder = await started(endless, before)

    surroundings = await asyncio.to_thread(Path(f"/proc/{decoder}/environ").read_bytes)

    assert b"LLM_API_KEY" not in surroundings
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look


async def test_a_look_at_a_file_that_is_not_there_is_this_machines_fault(tmp_path, recordings):
    with pytest.raises(RunFailed) as failed:
        await recordings.examine(tmp_path / "gone.wav")

    assert failed.value.failure.code is ErrorCode.INTERNAL_ERROR


async def test_a_folder_that_cannot_be_written_is_this_machines_fault(tmp_path, recordings):
    call = await recordings.examine(sounds.write(tmp_path / "call.wav", sounds.speech(), sounds.speech()))

    with pytest.raises(RunFailed, match="could not be written") as failed:
        await recordings.split(call, tmp_path / "nowhere")

    assert failed.value.failure.code is ErrorCode.INTERNAL_ERROR


LOOK = """
import asyncio, sys
from pathlib import Path
from adapters.audio.recordings import DecodedRecordings
asyncio.run(DecodedRecordings().examine(Path(sys.argv[1])))
"""


def test_a_decoder_ends_with_the_process_that_started_it(endless):
    with subprocess.Popen([sys.executable, "-c", LOOK, str(endless)]) as looking:
        writer = os.open(endless, os.O_WRONLY)
        writers.append(writer)
        looking.kill()

    abandoned = select.poll()
    # An error is told when nobody reads it any more.
    abandoned.register(writer, 0)
    assert abandoned.poll(20_000) == [(writer, select.POLLERR)]


def test_decoders_can_be_started_from_a_loop_that_is_not_the_main_threads(tmp_path):
    path = sounds.write(tmp_path / "speech.wav", sounds.speech())
    heard: list[float] = []

    def loop() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            heard.append(runner.run(DecodedRecordings().examine(path)).sound.seconds)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join(60)

    assert heard == [pytest.approx(7.1, abs=0.01)]
