"""The management API's answers, good and bad. What a real RabbitMQ answers is tried in `tests/operators`."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from adapters.rabbitmq.management import ANSWER_TIMEOUT, LAST, LONGEST_ANSWER, TROUBLE_LASTS, ManagementApi
from domain.ports import BrokerQueue, BrokerState
from tests.fakes import FakeClock
from tests.servers.model_server import ModelServer, cuts, refuses, sends, stalls, tells
from tests.servers.rabbitmq import free_ports

AMQP = "amqp://bob:hunter%2F2@mq/jobs%2Fone"
QUEUES = "queues/jobs%2Fone"
LYING: dict[str, Any] = {"name": "gpu.llm", "messages_ready": 2, "messages_unacknowledged": 3, "consumers": 1}
WELL: dict[str, object] = {
    f"/api/{QUEUES}": {"items": [LYING, {"name": "gpu.new"}]},
    "/api/overview": {"rabbitmq_version": "4.1.0"},
    "/api/nodes": [{"running": True, "mem_alarm": True, "disk_free_alarm": False}, {"running": False}],
}


def served(**other: Any) -> ModelServer:
    """A management API that is well but for these pages."""
    pages = {path: tells(body) for path, body in WELL.items()}
    return ModelServer(pages=pages | {f"/api/{path}": behaviour for path, behaviour in other.items()})


def asking(server: ModelServer, clock: FakeClock | None = None) -> ManagementApi:
    return ManagementApi(server.origin, AMQP, (clock or FakeClock()).monotonic)


async def test_queues_nodes_and_alarms_are_told():
    with served() as server:
        state = await asking(server).look()
    assert state == BrokerState(
        queues={"gpu.llm": BrokerQueue(ready=2, unacked=3, consumers=1)},
        version="4.1.0",
        nodes_up=1,
        nodes_down=1,
        memory_alarm=True,
        disk_alarm=False,
        asked_at=state.asked_at,
    )


async def test_what_only_another_user_may_see_is_not_told():
    with served(nodes=refuses(401), overview=refuses(403)) as server:
        state = await asking(server).look()
    assert set(state.queues) == {"gpu.llm"}
    assert (state.version, state.nodes_up, state.memory_alarm, state.trouble) == (None, None, None, None)


@pytest.mark.parametrize(
    ("user", "known_as"), [("", b"bob:hunter/2"), ("ann:p%40ss@", b"ann:p@ss")], ids=["of AMQP_URL", "its own"]
)
async def test_it_is_asked_as_the_user_that_its_address_names_else_as_that_of_amqp(user: str, known_as: bytes):
    with served() as server:
        await ManagementApi(f"http://{user}{urlsplit(server.origin).netloc}", AMQP).look()
        told = {look.headers["authorization"] for look in server.looks}
    assert told == {f"Basic {base64.b64encode(known_as).decode()}"}


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (refuses(401), "refuses the user: the password is wrong"),
        (refuses(404), "no virtual host like that"),
        (refuses(500), "status 500"),
        (refuses(302, headers={"location": "http://127.0.0.1/"}), "status 302"),
        (tells("<html>"), "is not RabbitMQ's"),
        (tells({"items": [{"name": 7}]}), "is not RabbitMQ's"),
        (tells(b'{"items": ' + b"[" * 200_000), "is not RabbitMQ's"),
        (tells(json.dumps({"items": [], "more": "x" * LONGEST_ANSWER})), "more than 1 MiB"),
        (cuts(b'{"items"'), "cannot be reached"),
        (sends(b"\x00\x01\x02 nonsense\r\n\r\n"), "cannot be reached"),
    ],
)
async def test_of_trouble_is_told_in_our_words(behaviour: Any, said: str):
    with served(**{QUEUES: behaviour}) as server:
        state = await asking(server).look()
    assert state.trouble
    assert said in state.trouble
    assert not state.queues
    assert "127.0.0.1" not in state.trouble


async def test_one_that_is_not_there_or_says_nothing_is_waited_for_in_bounded_time():
    [port] = free_ports(1)
    gone = await ManagementApi(f"http://127.0.0.1:{port}", AMQP).look()
    assert gone.trouble == "Its management API cannot be reached."
    with served(nodes=stalls()) as server:
        async with asyncio.timeout(ANSWER_TIMEOUT + 5):
            state = await asking(server).look()
    assert state.trouble == "Its management API did not answer within 2 s."


async def test_it_is_asked_once_however_many_ask_and_again_when_its_answer_is_old():
    clock = FakeClock()
    with served() as server:
        api = asking(server, clock)
        first, *others = await asyncio.gather(*(api.look() for _ in range(20)))
        assert all(other is first for other in others)
        assert len(server.looks) == len(WELL)
        clock.advance(timedelta(seconds=LAST))
        assert await api.look() is not first
        assert len(server.looks) == 2 * len(WELL)


async def test_one_in_trouble_is_asked_again_later():
    clock = FakeClock()
    with served(**{QUEUES: refuses(500)}) as server:
        api = asking(server, clock)
        first = await api.look()
        clock.advance(timedelta(seconds=LAST))
        assert await api.look() is first
        clock.advance(timedelta(seconds=TROUBLE_LASTS))
        assert await api.look() is not first
