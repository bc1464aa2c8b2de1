"""How often a caller may ask: a token bucket."""

from __future__ import annotations

from datetime import timedelta

from domain.errors import RateLimited

A_HAIR = 1e-9
"""What rounding may take: who waits as long as they were told is let in."""


class Bucket:
    """Lets `rate` requests a second through, and after a pause a second's worth at once, at least one."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._size = max(1.0, rate)
        self._left = self._size
        self._at = now

    def take(self, now: float) -> None:
        """Count one request. One that is refused does not count.

        Args:
            now: a monotonic clock's seconds.

        Raises:
            RateLimited: it comes too early; says how much.
        """
        self._left = min(self._size, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1 - A_HAIR:
            raise RateLimited(timedelta(seconds=(1 - self._left) / self.rate))
        self._left -= 1
