"""Who calls, and what they may do: every caller has rights, and most of them only their own owner's jobs."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from domain.errors import BadInput, Forbidden, JobNotFound, Problem
from domain.job import Priority


class Right(StrEnum):
    SUBMIT = "submit"
    """Create, cancel, retry and erase jobs."""
    WORK = "work"
    """Claim jobs, and report on them."""
    READ = "read"
    OPERATE = "operate"
    """Steer queues."""


class Caller(Struct, frozen=True):
    """Whoever sent a request, as their token tells."""

    owner: str | None = None
    """The only owner whose jobs they see and touch; None: all."""
    rights: frozenset[Right] = frozenset(Right)
    priority: Priority = Priority.NORMAL
    """Of jobs that name none."""
    weight: float = 1.0
    """The owner's share of GPU time, relative to others'."""

    def must_have(self, *any_of: Right) -> None:
        """
        Raises:
            Forbidden: the token gives none of these rights.
        """
        if not self.rights.intersection(any_of):
            named = "' or '".join(any_of)
            raise Forbidden(f"This token may not do that: it lacks the right '{named}'.")

    def owner_of(self, named: str | None) -> str:
        """The owner of a job that names this one, or none.

        Raises:
            Forbidden: it names another than the caller's own.
            BadInput: it names none, and the caller has none.
        """
        owner = named or self.owner
        if owner is None:
            raise BadInput([Problem("/owner_service", "Object missing required field `owner_service`")])
        if self.owner not in (None, owner):
            raise Forbidden(f"This token is for the owner '{self.owner}' only.")
        return owner

    def owners(self, named: tuple[str, ...]) -> tuple[str, ...]:
        """The owners to look at where these were asked for; none means all.

        Raises:
            Forbidden: one of them is not the caller's own.
        """
        if self.owner is None:
            return named
        return tuple({self.owner_of(name) for name in named}) or (self.owner,)

    def must_own(self, owner_service: str) -> None:
        """
        Raises:
            JobNotFound: the job is another owner's: to this caller it does not exist.
        """
        if self.owner not in (None, owner_service):
            raise JobNotFound


ANYBODY = Caller()
"""A caller where no token is needed."""

STRANGER = Caller(rights=frozenset())
"""A caller without a token where one is needed."""
