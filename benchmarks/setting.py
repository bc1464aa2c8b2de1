"""What was measured on: the machine, the servers, the versions. Names no host, no user and no folder."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec import Struct

from benchmarks.place import Place, load

PACKAGES = (
    "ai-service",
    "dramatiq",
    "pika",
    "asyncpg",
    "aiohttp",
    "httpx",
    "litestar",
    "msgspec",
    "uvicorn",
    "uvloop",
    "celery",
    "procrastinate",
    "psycopg",
    "pgqueuer",
)
"""Those that the figures may depend on; peers, where they are installed."""

SERVER_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers", "max_wal_size")


class Setting(Struct, frozen=True):
    """Figures are comparable where it is the same."""

    processor: str
    cores: int
    memory: float
    """GiB."""
    system: str
    python: str
    revision: str
    """Of this project; ends with a plus where files differed from it."""
    servers: dict[str, str]
    """Versions, and the settings of PostgreSQL that decide what a commit costs."""
    packages: dict[str, str]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """As a table."""
        return [
            ("processor", f"{self.processor}, {self.cores} cores"),
            ("memory", f"{self.memory:.0f} GiB"),
            ("system", f"{self.system}; Python {self.python}"),
            *self.servers.items(),
            ("packages", ", ".join(f"{name} {number}" for name, number in self.packages.items())),
            ("revision", self.revision),
        ]


def setting(place: Place) -> Setting:
    return Setting(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        revision=_revision(),
        servers={"PostgreSQL": _postgres(place), "RabbitMQ": _rabbit(place)},
        packages={name: number for name in PACKAGES if (number := _version(name))},
    )


def now() -> str:
    """The date and the minute, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def busy() -> float:
    """Processes that wanted to run at once during the last minute: what is measured shares the machine with them."""
    return round(load(), 2)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _revision() -> str:
    """Of the checkout, if this is one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _postgres(place: Place) -> str:
    names = ", ".join(f"current_setting('{name}')" for name in SERVER_SETTINGS)
    [row] = place.fetch(place.postgres, f"SELECT current_setting('server_version'), {names}")
    told = ", ".join(f"{name} {value}" for name, value in zip(SERVER_SETTINGS, list(row)[1:], strict=True))
    return f"{row[0]}, {told}"


def _rabbit(place: Place) -> str:
    overview = place.rabbit.management("GET", "/overview")
    return f"{overview['rabbitmq_version']}, Erlang/OTP {overview['erlang_version']}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
