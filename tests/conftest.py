from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]

# The same examples every time, however slow the machine: a red run means a changed program.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

SLOWEST_FIRST = (
    "tests/deploy/test_topology.py",
    "tests/chaos",
    "tests/e2e",
    "tests/docs",
    "tests/servers",
    "tests/contracts",
    "tests/actors",
)
"""Where several processes share the tests these begin, so that none of them ends long after another."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "anew: start the installed script itself, no fork of a process that has loaded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    turns = (turn for turn, folder in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(folder))
    return next(turns, len(SLOWEST_FIRST))
