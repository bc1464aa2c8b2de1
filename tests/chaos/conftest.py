from __future__ import annotations

from tests.e2e.conftest import install, model, pytest_runtest_makereport

__all__ = ["install", "model", "pytest_runtest_makereport"]
