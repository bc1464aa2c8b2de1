"""Runs a command that cannot outlive its owner, however the owner dies: `leash.py COMMAND...`, stdin a pipe from it.

When the pipe closes, all that the command started gets SIGKILL. The leash returns only when nothing of it is left,
so its ports are free again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

prctl = ctypes.CDLL(None).prctl


def main(command: list[str]) -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    owner = os.getppid()
    # Should the leash itself be killed, RabbitMQ's launcher still passes a SIGTERM on to the Erlang VM.
    child = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - there is no thread yet
    )
    threading.Thread(target=kill_when_released, args=(owner, child.pid), daemon=True).start()
    reap_until(child.pid)
    end_orphans()


def kill_when_released(owner: int, group: int) -> None:
    # A child that the owner forked may hold the pipe open after it, so its pid is looked at as well.
    while os.getppid() == owner and not select.select([sys.stdin], [], [], 0.5)[0]:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def reap_until(pid: int) -> None:
    while os.wait()[0] != pid:
        pass


def end_orphans() -> None:
    """As a subreaper we inherit what the command left behind, in whatever session it is."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while orphans := children.read_text().split():
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(orphan), signal.SIGKILL)
        os.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
