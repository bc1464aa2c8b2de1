"""The peers, those that are always here and those that are installed for benchmarks only."""

from __future__ import annotations

from importlib import import_module

from benchmarks.contestant import Contestant
from benchmarks.peers.bare_dramatiq import BareDramatiq
from benchmarks.place import Place

INSTALLED_FOR_BENCHMARKS = {"Celery": "celery", "Procrastinate": "procrastinate", "PGQueuer": "pgqueuer"}
"""Their modules: the tests, and whoever only reads figures, do without them."""


def peers(place: Place, *, priorities: bool = False) -> list[Contestant]:
    """
    Args:
        priorities: urgent jobs are sent among others.

    Raises:
        SystemExit: one of them is not installed.
    """
    return [
        BareDramatiq(place, priorities=priorities),
        peer("Celery", place, priorities=priorities),
        peer("Procrastinate", place),
        peer("PGQueuer", place),
    ]


def peer(name: str, place: Place, **options: bool) -> Contestant:
    """One of INSTALLED_FOR_BENCHMARKS.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        module = import_module(f"benchmarks.peers.{INSTALLED_FOR_BENCHMARKS[name]}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name} is not installed ({error.name} is missing): `make bench` installs it.") from error
    contestant: Contestant = getattr(module, name)(place, **options)
    return contestant
