"""The peers, those that are always here and those that are installed for benchmarks only."""

from __future__ import annotations

from benchmarks.contestant import Contestant
from benchmarks.peers.bare_dramatiq import BareDramatiq
from benchmarks.place import Place


def peers(place: Place, *, priorities: bool = False) -> list[Contestant]:
    """
    Args:
        priorities: urgent jobs are sent among others.

    Raises:
        ImportError: `make bench` installs what is missing.
    """
    from benchmarks.peers.celery import Celery  # noqa: PLC0415  # the tests do without them
    from benchmarks.peers.pgqueuer import PGQueuer  # noqa: PLC0415
    from benchmarks.peers.procrastinate import Procrastinate  # noqa: PLC0415

    return [
        BareDramatiq(place, priorities=priorities),
        Celery(place, priorities=priorities),
        Procrastinate(place),
        PGQueuer(place),
    ]
