"""What happens to a job wakes whoever waits for it, and is heard by whoever binds a queue of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from pika import BlockingConnection, URLParameters

from app import bootstrap, up
from app.server import bind, url_of
from app.settings import from_env
from tests.e2e.conftest import Install
from tests.e2e.service import eventually
from tests.servers.model_server import ModelServer

NEVER = 3600.0


@pytest.fixture(params=["of one process", "of RabbitMQ"])
async def api(
    request: pytest.FixtureRequest, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A whole service whose waiters never look by themselves."""
    monkeypatch.setattr(bootstrap, "NEWCOMERS_AFTER", NEVER)
    monkeypatch.setattr(bootstrap, "NET_EVERY", NEVER)
    environment = {"DATABASE_URL": database, "SHUTDOWN_GRACE": "1s", "LOG_LEVEL": "error", "AI_PROVIDER": "practice"}
    if request.param == "of RabbitMQ":
        environment["AMQP_URL"] = request.getfixturevalue("vhost")
    settings = from_env(environment)
    listener, worker_listener = bind("127.0.0.1", 0, "HTTP_PORT"), bind("127.0.0.1", 0, "WORKER_HTTP_PORT")
    async with (
        up.everything(settings, database, listener, worker_listener),
        httpx.AsyncClient(base_url=url_of(listener), trust_env=False, timeout=70) as client,
    ):
        yield client


async def submitted(api: httpx.AsyncClient, **fields: Any) -> str:
    body = {"owner_service": "e2e", "task_type": "llm_chat", "model_profile": "practice", "input": {"user": "Hello"}}
    answer = await api.post("/api/v1/jobs", json={**body, **fields})
    return str(answer.json()["id"])


async def test_who_waits_for_a_job_is_woken_by_the_event_of_its_end(api: httpx.AsyncClient) -> None:
    job = await submitted(api, input={"user": "Hello", "practice": {"delay_ms": 1000}})
    async with asyncio.timeout(30):
        answer = await api.get(f"/api/v1/jobs/{job}?wait=60")

    assert answer.json()["status"] == "completed"


def test_a_domain_service_hears_of_its_jobs_from_the_api_and_from_the_worker(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    with closing(BlockingConnection(URLParameters(vhost))) as connection:
        channel = connection.channel()
        channel.exchange_declare("ai.events", "topic", durable=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "ai.events", "my_service.chat_completion.*")
        api, _ = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url).serve_and_work()
        api.submit(owner_service="another")
        job = api.finished(api.submit(owner_service="my.service"))
        heard: list[dict[str, Any]] = []

        def life() -> bool:
            _, _, body = channel.basic_get(queue, auto_ack=True)
            heard.extend(json.loads(body)["events"] if body else [])
            return len(heard) == 3

        eventually(life, within=10, what="three events")

    assert {event["job_id"] for event in heard} == {job["id"]}
    assert sorted((event["number"], event["kind"]) for event in heard) == [
        (1, "pending"),
        (2, "running"),
        (3, "completed"),
    ]
