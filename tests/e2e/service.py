"""An installation of the service for one test: real processes of the real commands, told only what the test tells them.

with Installation(folder, DATABASE_URL=..., AMQP_URL=...) as installation:
    api = installation.serve()
    installation.worker()
    job = api.submit(input={"user": "Hello"})
    assert api.finished(job)["status"] == "completed"
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar
from uuid import UUID

import asyncpg
import httpx

from tests.e2e import tether
from tests.e2e.zygote import BASE, Forked, may_fork, zygote
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import free_ports

T = TypeVar("T")

SCRIPTS = Path(sys.executable).parent
STARTED_WITHIN = 30.0
STOPPED_WITHIN = 15.0
PROFILE = "scripted"
"""The model profile of every installation."""

DEFAULTS = {
    "HTTP_HOST": "127.0.0.1",
    "WORKER_HTTP_HOST": "127.0.0.1",
    "SCHEDULER_HTTP_HOST": "127.0.0.1",
    "LLM_MODEL": PROFILE,
    "PROVIDER_DISCOVERY": "false",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "debug",
    "RETRY_DELAY_FAST": "200ms",
    "RETRY_DELAY_SLOW": "200ms",
}


def eventually(look: Callable[[], T], *, within: float, what: str) -> T:
    """What `look` returns as soon as it is true; fails with `what` when that takes too long."""
    deadline = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what} (last seen: {seen!r})"
        time.sleep(0.05)
    return seen


@dataclass(eq=False)
class Process:
    """A command that runs, and everything that it says."""

    name: str
    popen: subprocess.Popen[bytes] | Forked
    log: Path
    url: str = ""

    @property
    def begun(self) -> subprocess.Popen[bytes]:
        """The process where it was started by itself."""
        assert isinstance(self.popen, subprocess.Popen), "it is a fork"
        return self.popen

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def says(self, text: str, within: float = STARTED_WITHIN) -> None:
        """Block until it has said this."""
        self._until(lambda: text in self.said, within, f"{self.name} says {text!r}")

    def answers(self, path: str, status: int = 200, within: float = STARTED_WITHIN) -> None:
        """Block until its HTTP port answers so."""
        self._until(lambda: _status(f"{self.url}{path}") == status, within, f"{self.name}: GET {path} is {status}")

    def terminate(self) -> None:
        """Ask it to stop, as an operator does."""
        self.popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self.popen.kill()
        self.popen.wait()

    def exit_code(self, within: float = STOPPED_WITHIN) -> int:
        """Block until it has ended by itself."""
        return self.popen.wait(within)

    def _until(self, true: Callable[[], bool], within: float, what: str) -> None:
        def look() -> bool:
            if true():
                return True
            assert self.running, f"{self.name} ended with {self.popen.returncode}:\n{self.said[-2000:]}"
            return False

        eventually(look, within=within, what=what)


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return None


@dataclass
class Api:
    """A caller of one API process."""

    url: str
    process: Process
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=70, trust_env=False)

    def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a job that is valid where nothing else is said; the job comes back."""
        body = {
            "owner_service": "e2e",
            "task_type": "chat_completion",
            "model_profile": PROFILE,
            "input": {"user": "Hello"},
            **fields,
        }
        return self._json(self.http.post("/api/v1/jobs", json=body), 201)

    def submit_many(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        return [self.submit(**fields) for _ in range(count)]

    def submit_batch(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """Submit that many equal jobs in one commit; their ids come back, in their order."""
        defaults = {"owner_service": "e2e", "task_type": "chat_completion", "model_profile": PROFILE, **fields}
        batch = {"defaults": defaults, "jobs": [{"input": {"user": f"Number {n}"}} for n in range(count)]}
        jobs: list[dict[str, Any]] = self._json(self.http.post("/api/v1/jobs/batch", json=batch), 201)["jobs"]
        return jobs

    def queue(self, name: str = "gpu.llm") -> dict[str, Any]:
        """What operators see of a queue."""
        queues = self._json(self.http.get("/api/v1/queues"), 200)["queues"]
        return next(queue for queue in queues if queue["name"] == name)

    def circuit(self, name: str = "gpu.llm") -> dict[str, Any]:
        """That of a queue, as operators see it."""
        circuit: dict[str, Any] = self.queue(name)["circuit"]
        return circuit

    def opened(self, name: str = "gpu.llm", within: float = 20) -> dict[str, Any]:
        """The queue's circuit, once it is no longer closed."""

        def look() -> dict[str, Any] | None:
            seen = self.circuit(name)
            return None if seen["state"] == "closed" else seen

        seen = eventually(look, within=within, what=f"the circuit of {name} opens")
        assert seen
        return seen

    def get(self, job: dict[str, Any], *, wait: float | None = None) -> dict[str, Any]:
        params = {} if wait is None else {"wait": wait}
        return self._json(self.http.get(f"/api/v1/jobs/{job['id']}", params=params), 200)

    def finished(self, job: dict[str, Any], *, within: float = 20) -> dict[str, Any]:
        """The job, once it is final."""
        seen = self.get(job, wait=within)
        assert seen["finished_at"], f"not final within {within:g} s: {seen}"
        return seen

    def all_finished(self, jobs: Iterable[dict[str, Any]], *, within: float = 30) -> list[dict[str, Any]]:
        """The jobs, once every one is final."""
        deadline = time.monotonic() + within
        return [self.finished(job, within=min(60, max(0.0, deadline - time.monotonic()))) for job in jobs]

    def is_running(self, job: dict[str, Any], within: float = 10) -> dict[str, Any]:
        """The job, once it runs."""

        def look() -> dict[str, Any] | None:
            seen = self.get(job)
            return seen if seen["status"] == "running" else None

        seen = eventually(look, within=within, what=f"{job['id']} runs")
        assert seen
        return seen

    def cancel(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._json(self.http.post(f"/api/v1/jobs/{job['id']}/cancel"), 200)

    def retry(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._json(self.http.post(f"/api/v1/jobs/{job['id']}/retry"), 200)

    def _json(self, answer: httpx.Response, status: int) -> dict[str, Any]:
        assert answer.status_code == status, f"{answer.request.method} {answer.request.url}: {answer.text}"
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def practising(databases: Databases, folder: Path, **settings: str) -> Iterator[str]:
    """The whole service in one process, with the practice provider and a database of its own. Yields its address."""
    dsn = databases.create()
    with Installation(folder, DATABASE_URL=dsn, LLM_MODEL="", AI_PROVIDER="practice", **settings) as installation:
        installation.forks = True
        yield installation.up().url
    databases.drop(dsn)


class Installation:
    """The processes of one service. Nothing is inherited from the environment of the tests."""

    forks = False
    """Whether most processes may be forks of one that has loaded; else each loads anew, as it does in use."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = {**DEFAULTS, **settings}
        self.processes: list[Process] = []
        self._clients: list[httpx.Client] = []

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def serve(self, **settings: str) -> Api:
        """An API process that answers; it need not be ready."""
        process = self._with_port("HTTP_PORT", "serve", settings)
        process.answers("/healthz")
        return self.api(process)

    def worker(self, *arguments: str, **settings: str) -> Process:
        """A worker whose first heartbeat has arrived."""
        process = self._with_port("WORKER_HTTP_PORT", "worker", settings, *arguments)
        process.answers("/readyz")
        return process

    def serve_and_work(self, **settings: str) -> tuple[Api, Process]:
        """An API and a worker, started side by side: a process takes a second to load."""
        api = self._with_port("HTTP_PORT", "serve", settings)
        worker = self._with_port("WORKER_HTTP_PORT", "worker", settings)
        api.answers("/readyz")
        worker.answers("/readyz")
        return self.api(api), worker

    def scheduler(self, **settings: str) -> Process:
        process = self._with_port("SCHEDULER_HTTP_PORT", "scheduler", settings)
        process.says("scheduler ")
        return process

    def up(self, *, before: Sequence[str] = (), **settings: str) -> Api:
        """Everything in one process, ready."""
        return self.up_soon(before=before, **settings)()

    def up_soon(self, *, before: Sequence[str] = (), **settings: str) -> Callable[[], Api]:
        """Everything in one process, started; what comes back waits until it is ready."""
        [worker_port] = free_ports(1)
        given = {"WORKER_HTTP_PORT": str(worker_port), **settings}
        process = self._with_port("HTTP_PORT", "up", given, before=before)

        def ready() -> Api:
            process.answers("/readyz")
            return self.api(process)

        return ready

    def api(self, process: Process) -> Api:
        api = Api(process.url, process)
        self._clients.append(api.http)
        return api

    def start(self, *command: str, script: str = "ai-service", before: Sequence[str] = (), **settings: str) -> Process:
        """Start a command and return at once.

        Args:
            before: a command that runs it.
        """
        name = f"{len(self.processes)}-{next((part for part in command if part.isalpha()), script)}"
        log = self.folder / f"{name}.log"
        words, environment = [*before, str(SCRIPTS / script), *command], self._environment(settings)
        may = self.forks and script == "ai-service" and not before and may_fork(environment)
        with log.open("wb") as output:
            popen = (_fork if may else _begin)(words, environment, self.folder, output)
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def run(self, *command: str, within: float = 20, **settings: str) -> tuple[int, str]:
        """Run a command to its end: its exit code and what it said."""
        process = self.start(*command, **settings)
        return process.exit_code(within), process.said

    def rows(self, statement: str, *arguments: object) -> list[Any]:
        """What the database says."""
        return query(self.settings["DATABASE_URL"], statement, *arguments)

    def end(self) -> None:
        """Kill whatever still runs."""
        for client in self._clients:
            client.close()
        for process in self.processes:
            if process.running:
                process.kill()

    def _with_port(
        self, variable: str, command: str, settings: dict[str, str], *arguments: str, before: Sequence[str] = ()
    ) -> Process:
        [port] = free_ports(1)
        process = self.start(command, *arguments, before=before, **{variable: str(port), **settings})
        process.url = f"http://127.0.0.1:{port}"
        return process

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        given = {**self.settings, **settings}
        return {
            **BASE,
            "HOME": str(self.folder),
            "WORKER_HTTP_PORT": "0",
            "SCHEDULER_HTTP_PORT": "0",
            **{name: value for name, value in given.items() if value},
        }


def _begin(words: list[str], environment: dict[str, str], folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", tether.__file__, *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
    )


def _fork(words: list[str], environment: dict[str, str], folder: Path, output: IO[bytes]) -> Forked:
    return zygote().start(words, environment, folder, output.fileno())


def in_background(call: Callable[[], T]) -> Callable[[], T]:
    """Make a call from a thread of its own; what comes back waits for its answer."""
    thread = ThreadPoolExecutor(1)
    answer = thread.submit(call)
    thread.shutdown(wait=False)
    return lambda: answer.result(STOPPED_WITHIN)


def query(dsn: str, statement: str, *arguments: object) -> list[Any]:
    """Its rows, which equal tuples."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    return asyncio.run(ask())


def ids(jobs: Iterable[dict[str, Any]]) -> list[UUID]:
    """The jobs' ids as the database knows them."""
    return [UUID(job["id"]) for job in jobs]


def one_line(said: str) -> str:
    """What a command said if that is one line and no traceback."""
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if line.strip() and not re.match(r"\s*\{.*\}\s*$", line)]
    assert len(lines) == 1, said
    return lines[0]
