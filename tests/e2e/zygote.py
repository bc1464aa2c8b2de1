"""Starts commands that have loaded already: one process loads what they are made of, and forks itself for each.

It saves a start three quarters of its time. What runs is the text of the installed script, in a process of its own with
its own environment, folder, output and signals; but not what happens while it loads, and /proc shows the arguments and
the environment of the process that was forked. Who tests these starts the script itself.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1
LONGEST = 200_000
"""Bytes of one request."""

BASE = {"PATH": os.environ["PATH"], "COLUMNS": "200"}
"""What every command finds in its environment, and what the libraries read while they load."""


class Forked:
    """A process that the zygote forked; to its user like a `subprocess.Popen`."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended
        self._reading = threading.Lock()

    def poll(self) -> int | None:
        return self.returncode if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, within: float | None) -> bool:
        with self._reading:
            if self.returncode is None and select.select([self._ended], [], [], within)[0]:
                # Nothing is said when the zygote was killed, and all its children with it.
                self.returncode = int(os.read(self._ended, 20) or -signal.SIGKILL)
                os.close(self._ended)
        return self.returncode is not None


class Zygote:
    """The process that forks, to those that want something started. Ends with its owner, and its children with it."""

    def __init__(self) -> None:
        self._link, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        with end:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=BASE,
                cwd=ROOT,
                pass_fds=[end.fileno()],
            )
        atexit.register(self._end)

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, output: int) -> Forked:
        """Run an installed script with these arguments; both its outputs go to that file."""
        ended, end = os.pipe()
        wanted = json.dumps([list(command), dict(environment), str(folder)]).encode()
        with self._asking:
            socket.send_fds(self._link, [wanted], [output, end])
            os.close(end)
            pid = int(self._link.recv(20))
        return Forked(pid, ended)

    def _end(self) -> None:
        self._link.close()
        self._process.wait()


@cache
def zygote() -> Zygote:
    """This process's own."""
    return Zygote()


def may_fork(environment: Iterable[str]) -> bool:
    """Whether a process with these variables can be forked: all are the service's own, which it reads once it runs."""
    return sys.platform == "linux" and {"HOME", *BASE, *_documented()}.issuperset(environment)


@cache
def _documented() -> frozenset[str]:
    return frozenset(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "docs" / "configuration.md").read_text()))


def main(link: socket.socket) -> str:
    """Fork until the owner is gone. Returns in each of the children only, with the script that it is to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who ends is the owner
    sys.path[0] = str(Path(sys.executable).parent)
    load()
    owner, zygote = os.pidfd_open(os.getppid()), os.getpid()
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    for each in (link.fileno(), owner):
        poll.register(each, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                tell_the_end(ready, *running.pop(ready))
                continue
            wanted, given, _, _ = socket.recv_fds(link, LONGEST, 2) if ready != owner else (b"", [], 0, "")
            if not wanted:
                os._exit(0)
            if not (pid := os.fork()):
                return become(json.loads(wanted), given[0], link, zygote)
            process = os.pidfd_open(pid)
            running[process] = pid, given[1]
            poll.register(process, select.POLLIN)
            os.close(given[0])
            link.send(b"%d" % pid)


def load() -> None:
    """What the commands import, and what these import when they begin to serve."""
    import_module("app.start")
    commands: tuple[str, ...] = import_module("app.cli").COMMANDS
    for module in (*(f"app.commands.{command}" for command in commands), *LATER):
        import_module(module)
    gc.collect()
    gc.freeze()  # else the children copy all of it when they look for garbage


LATER = (
    "anyio._backends._asyncio",
    "litestar._kwargs",
    "litestar.exceptions.responses",
    "litestar.middleware._internal.exceptions",
    "litestar.plugins.pydantic",
    "litestar_offline_docs",
    "uvicorn.lifespan.on",
)
"""What the commands' libraries load only when they are used."""


def tell_the_end(process: int, pid: int, told: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):
        os.write(told, b"%d" % code)
    os.close(told)
    os.close(process)


def become(wanted: tuple[list[str], dict[str, str], str], output: int, link: socket.socket, zygote: int) -> str:
    """Make a fork what a process is that was started with this."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(1)
    command, environment, folder = wanted
    for stream in (1, 2):
        os.dup2(output, stream)
    link.close()
    os.closerange(3, 1024)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What Python itself has set when it began, to have UTF-8.
    coerced = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update(coerced | environment)
    os.chdir(folder)
    sys.argv = command
    return command[0]


if __name__ == "__main__":
    runpy.run_path(main(socket.socket(fileno=int(sys.argv[1]))), run_name="__main__")
