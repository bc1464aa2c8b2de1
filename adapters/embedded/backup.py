"""All that the embedded server keeps, to a file and back: PostgreSQL's own programs, told where that server is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from adapters.embedded.account import ENVIRONMENT
from adapters.embedded.binaries import find_binaries
from adapters.embedded.cluster import last_lines, server_of
from adapters.embedded.postgres import EmbeddedPostgres, dsn
from domain.errors import StartupError

ANYBODYS = ("--no-owner", "--no-privileges")
TABLES = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"


def backup(data_dir: Path, file: Path) -> int:
    """Write what the server of this folder holds at this moment to a file, and return its size in bytes.

    The service may go on meanwhile: nothing waits for it but a migration. A file of this name is replaced once the new
    one is whole; only its owner may read it, for it holds inputs and results.

    Raises:
        StartupError: there is no data, the server cannot be started, or the file not be written.
    """
    must_hold_data(data_dir)
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with server(data_dir) as running:
            _run(running, "pg_dump", "--format=custom", *ANYBODYS, f"--file={unfinished}")
        unfinished.replace(file)
    except OSError as error:
        raise StartupError(f"The backup cannot be written to {file}: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return file.stat().st_size


def must_hold_data(data_dir: Path) -> None:
    """
    Raises:
        StartupError: no embedded PostgreSQL was ever here.
    """
    if not (data_dir / "postgres").is_dir():
        raise StartupError(f"DATA_DIR: {data_dir} holds no data of an embedded PostgreSQL.")


def restore(data_dir: Path, file: Path) -> None:
    """Fill a folder that holds no jobs yet with what is in a file. All of it, or nothing.

    Raises:
        StartupError: there are jobs already, a service uses the folder, or the file is no whole backup.
    """
    if not file.is_file():
        raise StartupError(f"{file} is not a file.")
    with EmbeddedPostgres(data_dir) as postgres:
        if (
            _run(postgres.dsn, "psql", "--tuples-only", "--no-align", "--no-psqlrc", f"--command={TABLES}").strip()
            != "0"
        ):
            raise StartupError(f"DATA_DIR: {data_dir} holds jobs already: name a new folder.")
        _run(postgres.dsn, "pg_restore", "--single-transaction", "--exit-on-error", *ANYBODYS, str(file.absolute()))
        _run(postgres.dsn, "psql", "--no-psqlrc", "--quiet", "--command=ANALYZE")


@contextmanager
def server(data_dir: Path) -> Iterator[str]:
    """Where the folder's server is: that of the service that runs, or one that runs as long as this."""
    running = server_of(data_dir.absolute() / "postgres")
    if running and running.port:
        yield dsn((data_dir / "postgres.password").read_text().strip(), running.port)
        return
    with EmbeddedPostgres(data_dir) as postgres:
        yield postgres.dsn


def _run(server: str, program: str, *arguments: str) -> str:
    """What a program says. Our own user runs it: unlike the server it does not mind root."""
    at = urlsplit(server)
    place = ["--host=127.0.0.1", f"--port={at.port}", f"--username={at.username}", f"--dbname={at.path[1:]}"]
    command: Sequence[str | Path] = [find_binaries() / program, "--no-password", *place, *arguments]
    done = subprocess.run(  # noqa: S603 - our own programs, no shell
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**ENVIRONMENT, "PGPASSWORD": at.password or ""},  # not in the arguments, which anybody may read
    )
    if done.returncode:
        raise StartupError(f"{program} failed: {last_lines(done.stderr)}")
    return done.stdout
