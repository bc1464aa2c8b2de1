from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.promtool import PromtoolNotFoundError, find_promtool


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own checker; where none can be had, its tests are skipped with the reason."""
    try:
        return find_promtool()
    except PromtoolNotFoundError as error:
        pytest.skip(str(error))
