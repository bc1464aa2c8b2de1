"""How jobs are named."""

from __future__ import annotations

from uuid import UUID

from domain.job import JobId


def job_id(unix_ms: int, randomness: bytes) -> JobId:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of time, then 74 of the 80 random bits given; sortable by creation."""
    value = (unix_ms << 80) | int.from_bytes(randomness[:10], "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return JobId(UUID(int=value))
