"""What a process that crashes leaves behind: no image of its memory, in which inputs, results and keys lie open."""

from __future__ import annotations

import resource


def forbid() -> None:
    """Have the system write no core dump of this process, nor of those that it starts.

    Only the soft limit: who examines a crash on purpose lifts it with `prlimit`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
