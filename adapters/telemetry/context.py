"""The trace context (https://www.w3.org/TR/trace-context/) of what goes on: a caller's, or our own span's."""

from __future__ import annotations

import re
from contextvars import ContextVar

_IDS = "(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
_TRACEPARENT = re.compile(f"00-{_IDS}")
_LATER = re.compile(f"(?!00|ff)[0-9a-f]{{2}}-{_IDS}(?:-.*)?")
"""Of a version after the first, which may add to it."""

current: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""That of the request that is being answered, where its caller gave one."""

LONGEST = 512


def understood(header: str) -> str | None:
    """The first version's part of a `traceparent` header, or None where it is none."""
    match = len(header) <= LONGEST and (_TRACEPARENT.fullmatch(header) or _LATER.fullmatch(header))
    return "00-{}-{}-{}".format(*match.groups()) if match else None


def trace_id(traceparent: str | None) -> str | None:
    """The id by which everything that belongs together is found: 32 hexadecimal digits."""
    return traceparent.split("-", 2)[1] if traceparent else None
