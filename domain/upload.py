"""A file that a caller uploaded, and for how long it is kept."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

CHUNK = 512 * 1024
"""Bytes that are stored and read at once: what an upload costs in memory, whatever its size."""

KEPT_UNUSED = timedelta(hours=24)
"""Where no job came to use it; and where one failed, which may be started afresh by hand."""

KEPT_UNFINISHED = timedelta(hours=1)
"""From the last chunk on, where the rest does not come."""


class Upload(Struct, frozen=True):
    """A file that came whole. Only its owner's jobs can use it."""

    id: UUID
    owner_service: str
    bytes: int
    created_at: datetime
