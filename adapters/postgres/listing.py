"""Lists and counts of jobs by any of their filters: statements that are composed at run time.

What composes them is loaded for the first of them: SQLAlchemy takes long, and only the API lists jobs.
"""

from __future__ import annotations

from domain.ports import JobFilter, Listing

Statement = tuple[str, list[object]]
"""With its arguments."""


def listing(wanted: Listing) -> Statement:
    """Matching jobs in the order of their creation."""
    from adapters.postgres import composed  # noqa: PLC0415

    return composed.listing(wanted)


def counting(where: JobFilter) -> Statement:
    """How many jobs match."""
    from adapters.postgres import composed  # noqa: PLC0415

    return composed.counting(where)
