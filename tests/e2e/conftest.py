from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.service import Installation
from tests.servers.model_server import ModelServer

SHOWN = 6_000
"""Characters of each process's log that a failed test shows."""

Install = Callable[..., Installation]


@pytest.fixture
def install(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Install]:
    """Makes installations that end with the test; of a test that is marked so, each process loads anew."""
    made: list[Installation] = []
    forks = request.node.get_closest_marker("anew") is None

    def install(**settings: str) -> Installation:
        folder = tmp_path / f"installation-{len(made)}"
        folder.mkdir()
        made.append(Installation(folder, **settings))
        made[-1].forks = forks
        return made[-1]

    yield install
    for installation in made:
        installation.end()


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes said beside a failure."""
    report = yield
    if report.failed and (folder := getattr(item, "funcargs", {}).get("tmp_path")):
        for log in sorted(folder.glob("installation-*/*.log")):
            report.sections.append((str(log), log.read_text(errors="replace")[-SHOWN:]))
    return report
