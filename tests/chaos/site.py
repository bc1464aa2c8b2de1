"""All that a run needs, in real processes: PostgreSQL, RabbitMQ, APIs, workers and schedulers, and doors between them.

Each process has doors of its own to PostgreSQL, RabbitMQ and the provider, so that one may be cut off alone.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from adapters.embedded.postgres import EmbeddedPostgres
from tests.chaos.provider import Provider
from tests.chaos.schedule import APIS, CLOCKED, PROCESSES, WORKERS, Kind, Link
from tests.e2e.service import PROFILE, Installation, Process
from tests.servers.faketime import Clock, find_faketime
from tests.servers.rabbitmq import Broker, free_ports
from tests.servers.tcp_proxy import Keeper, TcpProxy

QUEUE = "gpu.llm"
SLOTS = 4
"""Of each worker."""
LIMIT = 8
"""Of the queue: less than its workers have slots."""
LATE = 0.1
"""Seconds by which what passes a door is delayed."""

SAID = 20_000
"""Characters of an ended process's log that are kept."""
LEFT_WITHIN = 60.0
"""Seconds within which a process has ended that was asked to: its grace, fifteen that it may take, the longest stop
that may fall into that, and some more."""
STARTED_WITHIN = 120.0
"""Seconds within which all are there at first, on a machine that has much else to do."""
AGAIN = 1.0
"""Seconds after which a process that ended by itself is started again."""

SETTINGS = {
    "LLM_TIMEOUT": "4s",
    "RETRY_DELAY_FAST": "500ms",
    "RETRY_DELAY_SLOW": "500ms",
    "SHUTDOWN_GRACE": "2s",
    "WORKER_CLAIM_LIMIT": str(SLOTS),
    "LOG_LEVEL": "warning",
}

MARK = "CHAOS_RUN"
"""The variable by which the processes of a run, and all that they started, are known."""


@dataclass
class Door:
    """One process's way to one server. Of several faults at once the worst is what it feels."""

    proxy: TcpProxy
    faults: list[Kind] = field(default_factory=list)

    _barred: Kind | None = None
    """Why nothing passes; None: it does."""

    def befall(self, kind: Kind) -> None:
        self.faults.append(kind)
        self._set()

    def relieve(self, kind: Kind) -> None:
        self.faults.remove(kind)
        self._set()

    def _set(self) -> None:
        self.proxy.delay(LATE if Kind.DELAY in self.faults else 0)
        barred = next((kind for kind in (Kind.CUT, Kind.BLACKHOLE) if kind in self.faults), None)
        if barred is self._barred:
            return
        self._barred = barred
        match barred:
            case Kind.CUT:
                self.proxy.shut()
            case Kind.BLACKHOLE:
                self.proxy.black_out()
            case _:
                self.proxy.open()


@dataclass
class Place:
    """Where a process runs, one after the other, always at the same address."""

    name: str
    command: str
    settings: dict[str, str]
    url: str
    doors: dict[Link, Door]
    process: Process | None = None
    wanted: bool = False
    """Whether one is to run here; False while a fault keeps it away."""
    again_at: float = 0.0
    leaving_since: float | None = None
    """When it was told to end (time.monotonic)."""
    starts: int = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    def told_to_leave(self) -> None:
        self.leaving_since = time.monotonic()


class Site:
    """
    Args:
        folder: for all that is written.
        broker: a RabbitMQ that may be killed; running.
        clock: whether to look for the library by which a worker's clock can jump.
    """

    def __init__(self, folder: Path, broker: Broker, *, clock: bool = True) -> None:
        self.folder = folder
        self.broker = broker
        self.mark = uuid.uuid4().hex
        # Its own: while a process or a door is away, nobody else on this machine takes its port.
        self.address = ".".join(["127", *(str(random.SystemRandom().randint(1, 254)) for _ in range(3))])
        self.provider = Provider()
        self.postgres = EmbeddedPostgres(folder / "database")
        self.places: dict[str, Place] = {}
        self.unasked: list[str] = []
        """Ends of processes that nobody had asked for."""
        self.temporary = folder / "temporary"
        self.clock: Clock | None = None
        self._wants_clock = clock
        self._keeper = Keeper()
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        try:
            self._enter()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _enter(self) -> None:
        self.temporary.mkdir()
        self._keeper.start()
        self._stack.callback(self._keeper.stop)
        self._stack.enter_context(self.provider)
        self._stack.callback(self.postgres.stop)
        self.postgres.start()
        if self._wants_clock and (library := find_faketime(self.folder / "faketime")):
            (self.folder / "clock").mkdir()
            self.clock = Clock(library, self.folder / "clock")
        configuration = self.folder / "configuration.json"
        configuration.write_text(json.dumps({"queues": {QUEUE: {"concurrency": LIMIT}}}))
        settings = {
            **SETTINGS,
            "LLM_MODEL": PROFILE,
            "AI_SERVICE_CONFIG": str(configuration),
            "TMPDIR": str(self.temporary),
            MARK: self.mark,
        }
        self.installation = self._stack.enter_context(Installation(self.folder, **settings))
        code, said = self.installation.run("migrate", within=60, DATABASE_URL=self.postgres.dsn)
        assert code == 0, said
        for name, port in zip(PROCESSES, free_ports(len(PROCESSES)), strict=True):  # together: no two get the same
            self.places[name] = self._place(name, port)

    def _place(self, name: str, port: int) -> Place:
        doors = {
            link: Door(self._stack.enter_context(TcpProxy("127.0.0.1", self._port(link), self._keeper, self.address)))
            for link in Link
        }
        through = {link: f"{self.address}:{door.proxy.port}" for link, door in doors.items()}
        settings = {
            "DATABASE_URL": re.sub(r"127\.0\.0\.1:\d+", through[Link.DATABASE], self.postgres.dsn),
            "AMQP_URL": urlsplit(self.broker.url)._replace(netloc=f"guest:guest@{through[Link.BROKER]}").geturl(),
            "LLM_BASE_URL": f"http://{through[Link.PROVIDER]}/v1",
        }
        self.provider.places = {**self.provider.places, through[Link.PROVIDER]: name}
        command = "serve" if name in APIS else "worker" if name in WORKERS else "scheduler"
        if name in APIS:
            settings |= {"HTTP_PORT": str(port), "HTTP_HOST": self.address}
        if name in WORKERS:
            settings |= {"WORKER_HTTP_PORT": str(port), "WORKER_HTTP_HOST": self.address, "WORKER_ID": name}
        if command == "scheduler":
            settings |= {"SCHEDULER_HTTP_PORT": str(port), "SCHEDULER_HTTP_HOST": self.address}
        if name == CLOCKED and self.clock:
            settings |= self.clock.environment
        return Place(name, command, settings, f"http://{self.address}:{port}", doors)

    def _port(self, link: Link) -> int:
        match link:
            case Link.DATABASE:
                return urlsplit(self.postgres.dsn).port or 0
            case Link.BROKER:
                return urlsplit(self.broker.url).port or 0
            case Link.PROVIDER:
                return self.provider.port

    @property
    def apis(self) -> list[str]:
        return [self.places[name].url for name in APIS]

    def start_all(self) -> None:
        for place in self.places.values():
            self.start(place)
        for name, path in ((APIS[0], "/readyz"), (APIS[1], "/readyz"), *((name, "/readyz") for name in WORKERS)):
            process = self.places[name].process
            assert process
            process.url = self.places[name].url
            process.answers(path, within=STARTED_WITHIN)

    def start(self, place: Place) -> None:
        """From the main thread, for a process goes with the thread that started it."""
        if place.process:
            _shorten(place.process.log)
        place.starts += 1
        place.process = self.installation.start(place.command, **place.settings)
        place.wanted, place.leaving_since = True, None

    def tend(self) -> None:
        """Start again what has ended, as an operator's supervisor does."""
        now = time.monotonic()
        for place in self.places.values():
            if not place.wanted:
                continue
            if place.running:
                if place.leaving_since and now - place.leaving_since > LEFT_WITHIN:
                    self.unasked.append(f"{place.name} did not end within {LEFT_WITHIN:g} s when it was asked to")
                    self.send(place.name, signal.SIGKILL)
                    place.leaving_since = now
            elif place.leaving_since:
                self.start(place)
            elif not place.again_at:
                process = place.process
                assert process
                told = f"{place.name} ended by itself with {process.popen.returncode}: {process.said[-600:].strip()}"
                self.unasked.append(told)
                place.again_at = now + AGAIN
            elif now >= place.again_at:
                place.again_at = 0.0
                self.start(place)

    def send(self, name: str, number: signal.Signals) -> None:
        process = self.places[name].process
        if process and process.running:
            process.popen.send_signal(number)

    def restart_database(self) -> None:
        """Start PostgreSQL again once it has gone, wherever it then is."""
        self.postgres.start()
        for place in self.places.values():
            place.doors[Link.DATABASE].proxy.target = self._port(Link.DATABASE)

    def end_database(self) -> None:
        """As `pg_ctl stop -m immediate`."""
        pid_file = self.folder / "database" / "postgres" / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)

    def stop_all(self, within: float = LEFT_WITHIN) -> Iterator[str]:
        """Ask all processes to end; yields a sentence per one that does not do so well."""
        for place in self.places.values():
            place.wanted = False
            if place.running and place.process:
                place.process.terminate()
        deadline = time.monotonic() + within
        for place in self.places.values():
            process = place.process
            if process is None:
                continue
            try:
                code = process.exit_code(max(0.1, deadline - time.monotonic()))
                if code != 0:
                    yield f"{place.name} ended with {code} when it was asked to: {process.said[-600:].strip()}"
            except subprocess.TimeoutExpired:
                yield f"{place.name} did not end within {within:g} s when it was asked to"
                process.kill()

    def left_processes(self) -> list[str]:
        """Commands of processes of this run that are still there."""
        mark = f"{MARK}={self.mark}".encode()
        return [command for command, environment in _processes() if mark in environment]

    def left_files(self) -> list[str]:
        return [str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*")]


def _shorten(log: Path) -> None:
    text = log.read_text(errors="replace")
    if len(text) > SAID:
        log.write_text(text[-SAID:])


def _processes() -> Iterator[tuple[str, bytes]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if environment:
                yield command.strip(), environment
