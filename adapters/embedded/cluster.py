"""The data folder of the embedded server: making it whole or not at all, and refusing one that is not ours to use.

A folder named `postgres` is always a finished cluster: it is made under another name and renamed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import structlog
from msgspec import Struct

from adapters.embedded.account import Account, Program
from domain.errors import StartupError

logger = structlog.get_logger()

USER = "postgres"
LOCALE = "C.UTF-8" if sys.platform == "linux" else "C"
FIRST_USER_DATABASE = 16384
UNFINISHED = "postgres.unfinished-"
# A made-up setting: tells whose server this is where the link to its working folder cannot be read.
FOLDER_SETTING = "ai_service.folder"


class Server(Struct, frozen=True):
    """What a running server says of itself in its `postmaster.pid`."""

    pid: int
    ready: bool
    port: int | None = None


class Cluster(Struct, frozen=True):
    data_dir: Path
    program: Program

    @property
    def folder(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def password_file(self) -> Path:
        return self.data_dir / "postgres.password"

    @property
    def password(self) -> str:
        return self.password_file.read_text().strip()

    @property
    def pid_file(self) -> Path:
        return self.folder / "postmaster.pid"

    def server(self) -> Server | None:
        """The server that runs on this folder."""
        return server_of(self.folder)

    def prepare(self) -> None:
        """Make the folder usable: created, mended, of the right version and owner. No server may be running on it."""
        self._refuse_another_version()
        self._clear_unfinished()
        if not self.folder.exists():
            self._create()
        give(self.folder, self.program.account)
        self.pid_file.unlink(missing_ok=True)
        if not self.password_file.exists():
            self._reset_password()

    def _clear_unfinished(self) -> None:
        for leftover in self.data_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not self.folder.exists() or is_finished(self.folder):
            return
        if holds_data(self.folder):
            raise StartupError(
                f"{self.folder} is damaged: it holds databases, but PG_VERSION or global/pg_control is missing. "
                "Restore it from a backup, or move it away to start with an empty one."
            )
        aside = Path(tempfile.mkdtemp(prefix="postgres.incomplete-", dir=self.data_dir))
        self.folder.rename(aside)
        logger.warning("embedded postgres folder was incomplete", folder=str(self.folder), moved_to=str(aside))

    def _create(self) -> None:
        password = secrets.token_urlsafe(24)
        account = self.program.account
        new = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.data_dir))
        give(new, account)
        with for_account(f"{password}\n", account) as stdin:
            options = ("-U", USER, "-A", "scram-sha-256", "--pwfile=/dev/stdin", "-E", "UTF8", f"--locale={LOCALE}")
            self._run("initdb", "-D", account.here(new), *options, "--no-instructions", cwd=new, stdin=stdin)
        write_secret(self.password_file, password)
        new.rename(self.folder)
        sync_folder(self.data_dir)

    def _refuse_another_version(self) -> None:
        version = self.folder / "PG_VERSION"
        expected = str(self.program.major)
        found = version.read_text().strip() if version.exists() else expected
        if found != expected:
            raise StartupError(
                f"{self.folder} was made by PostgreSQL {found}, but this service brings PostgreSQL {expected}: "
                "dump it with the old version and restore it, or set DATA_DIR to a new folder."
            )

    def _reset_password(self) -> None:
        password = secrets.token_urlsafe(24)
        account = self.program.account
        # ALTER ROLE takes no parameters; the alphabet of the token needs no quoting.
        with for_account(f"ALTER ROLE {USER} PASSWORD '{password}';\n", account) as stdin:
            self._run("postgres", "--single", "-D", account.here(self.folder), USER, cwd=self.folder, stdin=stdin)
        write_secret(self.password_file, password)

    def _run(self, program: str, *arguments: str, cwd: Path, stdin: IO[bytes]) -> None:
        command: Sequence[str | Path] = (self.program.binaries / program, *arguments)
        try:
            done = self.program.account.run(command, cwd=cwd, stdin=stdin)
        except subprocess.TimeoutExpired as error:
            raise StartupError(f"{program} did not finish on {cwd} within {error.timeout:.0f} seconds.") from error
        if done.returncode != 0:
            raise StartupError(f"{program} failed on {cwd}: {last_lines(done.stderr or done.stdout)}")


def server_of(folder: Path) -> Server | None:
    """The server that runs on a folder; None when there is none, whatever a stale `postmaster.pid` says."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        pid = abs(int(lines[0]))  # negative while a single-user server runs
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None
    if not runs_on(pid, folder):
        return None
    ready = len(lines) > 7 and lines[7].strip() == "ready"
    return Server(pid, ready, int(lines[3]) if ready else None)


def runs_on(pid: int, folder: Path) -> bool:
    """Whether this process is a server of this folder. Its number alone proves nothing: numbers are used again."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    process = Path("/proc", str(pid))
    if not Path("/proc/self").exists():
        return True
    try:
        return (process / "cwd").samefile(folder)  # a server works in its data folder
    except PermissionError:
        return names_folder(process, folder)
    except OSError:
        return False


def names_folder(process: Path, folder: Path) -> bool:
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    name = os.fsencode(folder)
    return name in arguments or FOLDER_SETTING.encode() + b"=" + name in arguments


def is_finished(folder: Path) -> bool:
    return (folder / "PG_VERSION").is_file() and (folder / "global" / "pg_control").is_file()


def holds_data(folder: Path) -> bool:
    names = [path.name for path in folder.glob("base/*")]
    return any(name.isdecimal() and int(name) >= FIRST_USER_DATABASE for name in names)


def give(folder: Path, account: Account) -> None:
    """Make the account own the folder and all in it. The folder itself comes last: owned means finished."""
    owner = folder.stat().st_uid
    if owner != account.uid:
        if os.geteuid() != 0:
            raise StartupError(
                f"{folder} belongs to user {owner}: run the service as that user, or set DATA_DIR to another folder."
            )
        for _, folders, files, parent in os.fwalk(folder.resolve(), topdown=False):
            for name in (*folders, *files):
                os.chown(name, account.uid, account.gid, dir_fd=parent, follow_symlinks=False)
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)


def for_account(text: str, account: Account) -> IO[bytes]:
    """A nameless file to be the standard input of a program that may open it by name as another user."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(text.encode())
    file.seek(0)
    if account.must_switch:
        os.fchown(file.fileno(), account.uid, account.gid)
    return file


def write_secret(path: Path, secret: str) -> None:
    """Replace the file whole, readable by its owner only."""
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_lines(text: str, count: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-count:])
