"""The process between the service and its server: it starts PostgreSQL, and stops it when the service is gone.

Standard input is a pipe whose other end the service holds; however the service ends, the kernel closes it. Should a
forked child of the service hold it too, a new parent tells. If the watcher itself is killed, Linux stops the server.
Run by path in a bare interpreter, so it imports the standard library only:

    watcher.py SERVICE_PID UID GID COMMAND...      (UID and GID are "-" when they stay as they are)
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

TICK = 0.2
STOPPING = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
PR_SET_PDEATHSIG = 1


def main(service: int, uid: str, gid: str, *command: str) -> int:
    # A terminal's or a supervisor's signal is for the service, which stops the server in its own time.
    # Not SIG_IGN: the server would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    watcher = os.getpid()
    server = subprocess.Popen(  # noqa: S603 - the command is the service's own
        command,
        stdin=subprocess.DEVNULL,
        user=None if uid == "-" else int(uid),
        group=None if gid == "-" else int(gid),
        extra_groups=None if gid == "-" else [],
        # Runs after the change of user, which would clear it; the watcher has one thread.
        preexec_fn=lambda: die_with(watcher),  # noqa: PLW1509
    )
    while server.poll() is None:
        if service_is_gone(service):
            stop(server)
    return server.returncode


def die_with(watcher: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != watcher:
        os._exit(1)


def service_is_gone(service: int) -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], TICK)
    return bool(readable) or os.getppid() != service


def stop(server: subprocess.Popen[bytes]) -> None:
    """Fast, then at once, then by force: what was committed survives each of them."""
    for number, patience in STOPPING:
        server.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
