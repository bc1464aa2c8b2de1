"""Who runs the server. PostgreSQL refuses root, so root hands it to a nobody: of a user namespace, or of the system.

Either needs no permission on the folders above the data: the server is started inside its data folder and told to look
there, so no ancestor's mode is ever changed.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO

from msgspec import Struct

from adapters.embedded.binaries import copy_binaries, find_binaries
from domain.errors import StartupError

# Nothing of the operator's environment (PGDATA, PGPORT, TZ, a locale that is not installed) may reach the server.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
PROGRAM_TIMEOUT = 300.0


class RunAs(StrEnum):
    SELF = "self"
    NAMESPACE = "namespace"
    NOBODY = "nobody"


class Account(Struct, frozen=True):
    """A way to run a program, and the owner that its files have, seen from here."""

    run_as: RunAs
    uid: int
    gid: int
    prefix: tuple[str, ...] = ()

    @property
    def must_switch(self) -> bool:
        return self.uid != os.geteuid()

    def here(self, folder: Path) -> str:
        """What a program that runs in this folder calls it: a link, where the folders above may be closed to it."""
        return str(folder) if self.run_as is RunAs.SELF or sys.platform != "linux" else "/proc/self/cwd"

    def run(
        self, command: Sequence[str | Path], *, cwd: Path | str = "/", stdin: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own programs, no shell
            [*self.prefix, *command],
            cwd=cwd,
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=ENVIRONMENT,
            timeout=PROGRAM_TIMEOUT,
            user=self.uid if self.must_switch else None,
            group=self.gid if self.must_switch else None,
            extra_groups=[] if self.must_switch else None,
        )


class Program(Struct, frozen=True):
    """PostgreSQL's binaries and the account that is able to run them."""

    binaries: Path
    account: Account
    major: int
    copy: Path | None = None
    """A folder to remove once the server has stopped."""


def choose_program(data_dir: Path, bin_dir: Path | None, run_as: RunAs | None) -> Program:
    """The first account that can run PostgreSQL here; for root, if need be, from a copy that others can read."""
    binaries = bin_dir or find_binaries()
    candidates = [account for account in possible_accounts() if run_as in (None, account.run_as)]
    if program := _first_able(binaries, candidates):
        return program
    if os.geteuid() == 0 and bin_dir is None:
        for shelter in _shelters(data_dir):
            if program := _first_able(copy_binaries(binaries, shelter), candidates, copy=shelter):
                return program
    raise StartupError(
        f"PostgreSQL in {binaries} cannot be run here as {run_as or 'any suitable user'}: "
        "start the service as an ordinary user, or set DATABASE_URL."
    )


def possible_accounts() -> Iterator[Account]:
    uid, gid = os.geteuid(), os.getegid()
    in_namespace = Account(
        RunAs.NAMESPACE, uid, gid, ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")
    )
    if uid != 0:
        if not _has_name(uid):  # initdb insists on a name, and a container may run us under any number
            yield in_namespace
        yield Account(RunAs.SELF, uid, gid)
        return
    yield in_namespace
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return
    yield Account(RunAs.NOBODY, nobody.pw_uid, nobody.pw_gid)


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False


def _shelters(data_dir: Path) -> Iterator[Path]:
    yield data_dir / "postgres-binaries"
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    yield Path("/var/tmp", f"ai-service-postgres-{name}")  # noqa: S108 - made anew, by root, in a sticky folder


def _first_able(binaries: Path, candidates: list[Account], copy: Path | None = None) -> Program | None:
    for account in candidates:
        if major := _major_version(binaries, account):
            return Program(binaries, account, major, copy)
    return None


def _major_version(binaries: Path, account: Account) -> int | None:
    """Which PostgreSQL this is; None when the account cannot run it."""
    try:
        versions = [account.run([binaries / program, "--version"]) for program in ("postgres", "initdb")]
    except OSError:
        return None
    if any(version.returncode for version in versions):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", versions[0].stdout)
    return int(found[1]) if found else None
