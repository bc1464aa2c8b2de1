"""A service that misbehaves as a test says, and clients of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from app.client import AsyncClient, Client
from tests.servers.model_server import Behaviour, ModelServer, cuts, refuses

JOB: dict[str, Any] = {
    "id": "01981a52-1c00-7c4e-9d2f-3b1a5e6f7081",
    "owner_service": "beeline",
    "task_type": "llm_chat",
    "model_profile": "practice",
    "status": "pending",
    "created_at": "2026-03-01T12:00:00.5Z",
}
NOTHING = cuts(headers_first=False)
"""The call arrives, and its answer is lost."""


def answers(status: int = 200, document: object = JOB, **headers: str) -> Behaviour:
    return refuses(status, document, headers=headers)


def job(**changes: Any) -> Behaviour:
    return answers(200, JOB | changes)


def problem(status: int, kind: str = "x", **members: Any) -> Behaviour:
    return answers(status, {"type": f"urn:problem:ai-service:{kind}", "status": status, "detail": "No.", **members})


def event(kind: str, number: str, **data: Any) -> bytes:
    return f"event: {kind}\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()


def impatient(server: ModelServer) -> Client:
    return Client(server.origin, retry_for=0, trust_env=False)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(default=job(), scripts_get=True) as server:
        yield server


@pytest.fixture
def client(server: ModelServer) -> Iterator[Client]:
    with Client(server.origin, retry_for=20, trust_env=False) as client:
        yield client


@pytest.fixture
async def async_client(server: ModelServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.origin, retry_for=20, trust_env=False) as client:
        yield client
