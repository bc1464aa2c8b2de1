"""The library that gives a process a clock of its own: found where it is installed, else fetched from Debian's archive
into a folder of ours, without installing it.

    clock = Clock(find_faketime(folder), folder)
    ... start a process with clock.environment ...
    clock.jump(3600)

Only the time of day jumps: clocks that measure how long something takes go on as they are.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "faketime/libfaketimeMT.so.1"
FETCHED_WITHIN = 60.0

SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select((), (), (), seconds) and None\n"
"""The library takes the end of a sleep, told by a clock that must not jump, for one by the clock that does."""


def find_faketime(folder: Path) -> Path | None:
    """The library, or None where it cannot be had."""
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{LIBRARY}"))), None) or _fetch(folder)


def _fetch(folder: Path) -> Path | None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["apt-get", "-qq", "download", "libfaketime"],
            cwd=folder,
            capture_output=True,
            timeout=FETCHED_WITHIN,
            check=True,
        )
        [package] = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], capture_output=True, timeout=FETCHED_WITHIN, check=True)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return next(iter(folder.glob(f"usr/lib/*/{LIBRARY}")), None)


@dataclass(frozen=True)
class Clock:
    """The time of day of those who are started with its environment."""

    library: Path
    folder: Path
    """For its time and for what makes Python put up with it; it must be there."""

    def __post_init__(self) -> None:
        (self.folder / "sitecustomize.py").write_text(SLEEP)
        self.jump(0)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "PYTHONPATH": str(self.folder),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def jump(self, seconds: float) -> None:
        """Be so far ahead of the time, or behind it, from about a second later on; 0: tell the time."""
        # In place: a file that is replaced could be read while it is not there.
        self._file.write_text(f"{seconds:+.0f}\n")

    @property
    def _file(self) -> Path:
        return self.folder / "clock"
