"""A decoder of recordings, and a watch for processes that it leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.audio.recordings import DecodedRecordings


def decoders() -> set[int]:
    """Decoding processes of this process, also dead ones that nobody has asked about."""
    children: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            children.update(map(int, (task / "children").read_text().split()))
    return {child for child in children if _is_decoder(child)}


def _is_decoder(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"adapters.audio.child" in command or not command


@pytest.fixture
def recordings() -> Iterator[DecodedRecordings]:
    before = decoders()
    yield DecodedRecordings(at_once=2)
    assert decoders() <= before
