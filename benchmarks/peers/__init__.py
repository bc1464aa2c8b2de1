"""The peers that only `make bench` installs: each is imported when it takes part."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.contestant import Contestant
    from benchmarks.place import Place

INSTALLED_FOR_BENCHMARKS = {"Celery": "celery", "PGQueuer": "pgqueuer", "Procrastinate": "procrastinate"}


def peer(name: str, place: Place) -> Contestant:
    """One of INSTALLED_FOR_BENCHMARKS.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        module = import_module(f"benchmarks.peers.{INSTALLED_FOR_BENCHMARKS[name]}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name} is not installed ({error.name} is missing): `make bench` installs it.") from error
    contestant: Contestant = getattr(module, name)(place)
    return contestant
