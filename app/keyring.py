"""The keyring: to whom each bearer token opens the API.

The tokens of the file can be changed while the service runs: it is looked at on use, once a second. Of tokens only
digests are kept, so that neither the time of a look-up nor anything that is shown tells of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from app import keyfile
from app.datafile import Watched
from app.keyfile import Digest, Grant, digest_of
from app.rate import Bucket
from app.settings import Http
from domain.access import Caller

log = structlog.get_logger()


@dataclass(frozen=True)
class Key:
    """What one token opens."""

    caller: Caller
    bucket: Bucket | None
    """None: not limited."""


class Keyring:
    """The tokens in force; with none at all, the API is open to everybody who can reach it."""

    def __init__(
        self, token: str | None = None, tokens: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            token: one that has all rights for all owners.
            tokens: the file of further ones.
            clock: monotonic, in seconds.

        Raises:
            StartupError: the file cannot be used.
        """
        self.open = token is None and tokens is None
        self._clock = clock
        self._keys: dict[Digest, Key] = {}
        # Also when the file names it: a variable wins over a file.
        self._master = {digest_of(token.encode()): Key(Caller(), None)} if token is not None else {}
        self._file = Watched(tokens, keyfile.read, what="tokens", clock=clock) if tokens else None
        self._put_in_force(keyfile.read(tokens) if tokens else {})

    @classmethod
    def of(cls, http: Http) -> Keyring:
        """The keyring of these settings.

        Raises:
            StartupError: the file cannot be used any more.
        """
        return cls(http.token.reveal() if http.token else None, http.tokens)

    @property
    def count(self) -> int:
        """How many tokens are in force."""
        return len(self._keys)

    def caller(self, token: bytes) -> Caller | None:
        """Whose token this is, or None where it opens nothing. Counts as one request.

        Raises:
            RateLimited: one too many.
        """
        self._look()
        key = self._keys.get(digest_of(token))
        if key is None:
            return None
        if key.bucket:
            key.bucket.take(self._clock())
        return key.caller

    def _look(self) -> None:
        """Put a changed file in force; one that cannot be used changes nothing and is logged."""
        grants = self._file.look() if self._file else None
        if grants is None:
            return
        self._put_in_force(grants)
        log.info("tokens read again", tokens=len(grants))

    def _put_in_force(self, grants: Mapping[Digest, Grant]) -> None:
        self._keys = {digest: Key(grant.caller(), self._bucket(digest, grant)) for digest, grant in grants.items()}
        self._keys |= self._master

    def _bucket(self, digest: Digest, grant: Grant) -> Bucket | None:
        """A token whose rate stays keeps its bucket: a new file does not fill it."""
        if grant.rate is None:
            return None
        known = self._keys.get(digest)
        if known and known.bucket and known.bucket.rate == grant.rate:
            return known.bucket
        return Bucket(grant.rate, self._clock())
