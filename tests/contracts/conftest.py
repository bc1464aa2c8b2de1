from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.e2e.service import Installation
from tests.servers.postgres import Databases

TOKEN = "s3cret"


@dataclass(frozen=True)
class Served:
    """A running service, with everything that `ai-service up` starts, the practice provider and a token."""

    url: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKEN}"}

    def caller(self) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=self.headers, timeout=30, trust_env=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test of an operation after it: schemathesis leaves them one id, and several processes would run one."""
    for item in items:
        if item.parent is not None and hasattr(item, "operation_label"):
            object.__setattr__(item, "_id", item.parent.id.child(item.name))


@pytest.fixture(scope="module")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests of a module: they ask about what they made themselves."""
    dsn = databases.create()
    with Installation(
        tmp_path_factory.mktemp("service"),
        DATABASE_URL=dsn,
        AI_PROVIDER="practice",
        AI_SERVICE_TOKEN=TOKEN,
        LLM_MODEL="practice",
        LOG_LEVEL="info",
    ) as installation:
        installation.forks = True
        yield Served(installation.up().url)
    databases.drop(dsn)


@pytest.fixture
def caller(service: Served) -> Iterator[httpx.Client]:
    with service.caller() as client:
        yield client
