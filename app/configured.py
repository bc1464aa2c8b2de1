"""What is configured at this moment: the variables, and what the file said when it was last in order.

The file can be changed while the service runs: whoever acts on it calls `look` now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from app import configfile, plugins
from app.configfile import Configuration
from app.datafile import Watched
from app.profiles import Served, changed, served
from app.settings import Settings
from domain.policy import Policies

log = structlog.get_logger()


class Configured:
    """The file and what is in force of it; of one thread."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            settings: the variables; the file that they name must be there, that of the default may come later.
            clock: monotonic, in seconds.

        Raises:
            StartupError: the file cannot be used, or a plug-in.
        """
        self._settings = settings
        self.task_types = plugins.load(settings.plugins)
        """Those that the installation brings itself; what they are is settled at the start."""
        path, required = settings.config.file, settings.config.required
        self._file = Watched(path, self._read, what="configuration", clock=clock)
        self._put_in_force(self._read(path, required=required))

    def look(self) -> bool:
        """Put a changed file in force. Looks once a second at most, however often it is called.

        A version that cannot be used, or a file that has gone, is logged once and changes nothing.

        Returns:
            Whether anything else is in force than before the call.
        """
        found = self._file.look()
        if found is None:
            return False
        policies, profiles = self.policies, self.served
        file, read = found
        # The very same profiles, where they say the same: nobody need make anything of them anew.
        self._put_in_force((file, profiles if read == profiles else read))
        different = policies != self.policies or profiles is not self.served
        log.info(
            "configuration read again",
            changed=different,
            queues=len(self.policies.queues),
            owners=len(self.policies.owners),
            task_types=len(self.policies.task_types),
            profiles=len(self.served.profiles),
            profiles_changed=changed(profiles.profiles, self.served.profiles),
        )
        return different

    def _read(self, path: Path, *, required: bool = True) -> tuple[Configuration, Served]:
        file = configfile.read(path, required=required)
        return file, served(self._settings, file, self.task_types)

    def _put_in_force(self, read: tuple[Configuration, Served]) -> None:
        file, self.served = read
        self.policies: Policies = file.policies
