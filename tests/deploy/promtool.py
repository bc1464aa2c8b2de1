"""Finds Prometheus' own checker: the one that is named, the one that is installed, or Debian's, unpacked aside."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path


class PromtoolNotFoundError(Exception):
    """None is here, and none can be had; the message says why."""


def find_promtool() -> Path:
    """
    Raises:
        PromtoolNotFoundError: with one line that says what to do.
    """
    for found in (os.environ.get("TEST_PROMTOOL"), shutil.which("promtool")):
        if found:
            return Path(found)
    try:
        return _unpacked()
    except (OSError, subprocess.SubprocessError) as error:
        raise PromtoolNotFoundError(
            f"promtool is needed: install Debian's package prometheus, or name one with TEST_PROMTOOL ({error})"
        ) from error


def _unpacked() -> Path:
    kept = Path(tempfile.gettempdir(), f"ai-service-promtool-{os.getuid()}")
    kept.mkdir(mode=0o700, exist_ok=True)
    place = kept.lstat()
    if place.st_uid != os.getuid() or not stat.S_ISDIR(place.st_mode) or place.st_mode & 0o077:
        raise PermissionError(f"{kept} may be somebody else's")
    if not (kept / "promtool").exists():
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            _do(folder, "apt-get", "-o", "Acquire::http::Timeout=10", "download", "prometheus")
            [package] = Path(folder).glob("prometheus_*.deb")
            _do(folder, "dpkg", "-x", str(package), "unpacked")
            # In one step: processes of tests that run at once find all of it or nothing.
            Path(folder, "unpacked", "usr", "bin", "promtool").replace(kept / "promtool")
    return kept / "promtool"


def _do(folder: str, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
