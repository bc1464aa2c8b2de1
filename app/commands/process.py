"""What the commands share that are processes of the service: their settings and their event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from app import logs
from app.settings import Settings, from_env
from domain.errors import StartupError

T = TypeVar("T")


def configured() -> Settings:
    """The settings of this process, whose log is set up by them.

    Raises:
        StartupError: a variable cannot be used.
    """
    settings = from_env(os.environ)
    logs.set_up(settings.logs)
    return settings


def embedded(settings: Settings) -> Path:
    """The folder of the embedded PostgreSQL.

    Raises:
        StartupError: another PostgreSQL is configured.
    """
    if settings.storage.database_url:
        raise StartupError("DATABASE_URL is set: this is for the embedded PostgreSQL only; use pg_dump and pg_restore.")
    return settings.storage.data_dir


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do this on an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
