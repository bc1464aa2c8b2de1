"""How jobs are named, and the names that callers and operators give to things."""

from __future__ import annotations

from uuid import UUID

from domain.job import JobId

NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}"
"""A pattern: what owners, task types, model profiles and workers may be called."""


def job_id(unix_ms: int, randomness: bytes) -> JobId:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of time, then 74 of the 80 random bits given; sortable by creation."""
    value = (unix_ms << 80) | int.from_bytes(randomness[:10], "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return JobId(UUID(int=value))
