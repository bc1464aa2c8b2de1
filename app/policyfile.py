"""The policies in force: what the configuration file said of queues, owners and task types when it was last in order.

It can be changed while the service runs: whoever acts on it calls `look` now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import structlog

from app import configfile
from app.datafile import Watched
from app.settings import Settings
from domain.policy import Policies

log = structlog.get_logger()


class PolicyFile:
    """The file and what is in force of it; of one thread."""

    def __init__(self, path: Path, *, required: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            path: of the file.
            required: whether there must be one now; else it may come later, and none says nothing.
            clock: monotonic, in seconds.

        Raises:
            StartupError: it cannot be used.
        """
        self._file = Watched(path, configfile.read, what="configuration", clock=clock)
        self.policies: Policies = configfile.read(path, required=required)
        """In force."""

    @classmethod
    def of(cls, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """That of these settings.

        Raises:
            StartupError: the file cannot be used any more.
        """
        return cls(settings.config.file, required=settings.config.required, clock=clock)

    def look(self) -> bool:
        """Put a changed file in force. Looks once a second at most, however often it is called.

        A version that cannot be used, or a file that has gone, is logged once and changes nothing.

        Returns:
            Whether other policies are in force than before the call.
        """
        policies = self._file.look()
        if policies is None:
            return False
        changed = policies != self.policies
        self.policies = policies
        log.info(
            "configuration read again",
            changed=changed,
            queues=len(policies.queues),
            owners=len(policies.owners),
            task_types=len(policies.task_types),
        )
        return changed
