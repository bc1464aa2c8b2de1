"""Folders for recordings on the way to a server: gone when their run ends.

What a process left there that was killed is removed when the next worker starts: it may be somebody's call.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger()

PREFIX = "ai-service-audio-"

HELD = ".held"
"""A file in each folder that its process keeps locked for as long as it lives, whatever container it is in."""

YOUNG = 60.0
"""Seconds in which a folder may not be locked yet."""


@asynccontextmanager
async def scratch() -> AsyncIterator[Path]:
    """A folder for as long as a run lasts."""
    with ExitStack() as stack:
        folder = await asyncio.to_thread(stack.enter_context, _folder())
        try:
            yield folder
        finally:
            await asyncio.to_thread(stack.close)


def sweep() -> int:
    """Remove the folders of processes that are gone. Returns how many there were."""
    swept = sum(_removed(folder) for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    if swept:
        log.warning("recordings of a killed worker removed", folders=swept)
    return swept


@contextmanager
def _folder() -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder,
        Path(folder, HELD).open("wb") as held,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)
        yield Path(folder)


def _removed(folder: Path) -> bool:
    try:
        found = folder.lstat()
        # Anybody may have put a link of this name into a folder that all share.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_mtime < YOUNG:
            return False
        with (folder / HELD).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    return not folder.exists()
