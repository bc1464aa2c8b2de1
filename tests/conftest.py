from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]

# The same examples every time, however slow the machine: a red run means a changed program.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
