"""An API process of ours, `ai-service serve`, for the workloads that ask it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.server import bind

READY_WITHIN = 60.0


@contextmanager
def serving(dsn: str, **settings: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and the process of an API that is ready."""
    with bind("127.0.0.1", 0, "HTTP_PORT") as listener:
        port = listener.getsockname()[1]
    environment = {**os.environ, "DATABASE_URL": dsn, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port)}
    command = [str(Path(sys.executable).with_name("ai-service")), "serve"]
    usual = {"AI_PROVIDER": "practice", "LOG_LEVEL": "warning"}
    process = subprocess.Popen(command, env=environment | usual | settings)
    url = f"http://127.0.0.1:{port}"
    try:
        ready(url)
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


def ready(url: str) -> None:
    """
    Raises:
        SystemExit: the API did not become ready.
    """
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"the API did not become ready within {READY_WITHIN:g} s")


def memory(pid: int, field: str) -> float:
    """Megabytes, as Linux counts them: `VmRSS`, `VmHWM` (the most so far)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))) / 1024
