"""How lengths of time read in variables, files and options."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST_DURATION = timedelta(days=3650)

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")


def duration(given: str) -> timedelta:
    """`500ms`, `2s`, `5m`, `1h30m`, `30d`; ten years at most.

    Raises:
        ValueError: it reads otherwise; the text says what is expected.
    """
    parts = _DURATION.findall(given)
    if not parts or "".join(number + unit for number, unit in parts) != given:
        raise ValueError("a duration such as 500ms, 2s, 5m, 1h30m or 30d")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > LONGEST_DURATION.total_seconds():
        raise ValueError(f"a duration of at most {LONGEST_DURATION.days}d")
    return timedelta(seconds=seconds)


def positive_duration(given: str) -> timedelta:
    """The same, above zero.

    Raises:
        ValueError: as above.
    """
    value = duration(given)
    if not value:
        raise ValueError("a duration above zero")
    return value


def kept_for(given: str) -> timedelta | None:
    """How long something stays: a duration above zero, or `forever` (None).

    Raises:
        ValueError: it reads otherwise.
    """
    if given == "forever":
        return None
    try:
        return positive_duration(given)
    except ValueError as error:
        raise ValueError(f"{error}, or forever") from None
