"""Callers who never end: heads, bodies and answers that take for ever, and more of them than anybody sends."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from litestar import Litestar
from litestar import get as route
from litestar.response import Stream

from app.connection import MOST_FIELDS, MOST_HEAD, MOST_PIPELINED
from tests.app.conftest import Api
from tests.security.conftest import HURRIED, Listening, get, listening


@pytest.fixture
async def hurried(api: Api) -> AsyncIterator[Listening]:
    async with listening(api.app, patience=HURRIED) as here:
        yield here


async def test_a_head_that_comes_byte_by_byte_is_given_up(hurried: Listening):
    line = await hurried.call()

    async def dribble() -> None:
        for byte in get("/healthz", *(f"X-{n}: y" for n in range(90))):
            await line.send(bytes([byte]))
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    answer = await line.answer(within=5)
    await hurried.is_well()
    dribbling.cancel()
    await asyncio.gather(dribbling, return_exceptions=True)
    assert answer.problem["status"] == 408
    assert answer.fields["connection"] == "close"
    await line.closed()


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /healthz HT"])
async def test_a_caller_who_asks_nothing_is_hung_up_on(hurried: Listening, said: bytes):
    line = await hurried.call()
    await line.send(said)
    await line.closed(within=5)


async def test_after_an_answer_empty_lines_keep_no_connection(hurried: Listening):
    line = await hurried.call()
    await line.send(get("/healthz"))
    await line.answer()
    await line.send(b"\r\n")
    await line.closed(within=5)


async def test_a_connection_idles_between_two_requests_longer_than_a_head_may_take(hurried: Listening):
    line = await hurried.call()
    for _ in range(2):
        await line.send(get("/healthz"))
        assert (await line.answer()).status == 200
        await asyncio.sleep(2.2)  # what is tried is that nothing happens


@pytest.mark.parametrize("field", ["Content-Length: 500", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_given_up(hurried: Listening, field: str):
    line = await hurried.call()
    await line.send(f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n1\r\n{{".encode())
    assert (await line.answer(within=5)).problem["status"] == 408
    await line.closed()


async def test_a_body_that_nobody_reads_is_not_waited_for(hurried: Listening):
    """The answer comes at once, and the connection does not stay open for the rest."""
    line = await hurried.call()
    await line.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    assert (await line.answer()).status == 200
    await line.closed(within=5)


async def test_an_endless_chunked_body_is_refused_when_it_is_too_large(service: Listening):
    line = await service.call()
    await line.send(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def pour() -> None:
        while True:
            await line.send(b"2000\r\n" + b" " * 0x2000 + b"\r\n")

    pouring = asyncio.create_task(pour())
    answer = await line.answer()
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    assert answer.problem["status"] == 413
    await service.is_well()


async def test_a_waiting_caller_is_not_a_slow_one(api: Api):
    """A long poll is as quiet as a dribbled head, and is served."""
    async with listening(api.app, patience=HURRIED) as here:
        job_id = await api.submitted()
        answer = await here.ask(get(f"/api/v1/jobs/{job_id}?wait=2.5"))
    assert json.loads(answer.body)["status"] == "pending"


@pytest.mark.parametrize(
    "request_",
    [
        get("/healthz", *(f"X-{n}: y" for n in range(10_000))),
        get("/healthz", f"X-Long: {'y' * 1_048_576}"),
        get("/healthz", f"{'X' * 1_048_576}: y"),
        get("/healthz?" + "y" * 1_048_576),
        get("/healthz", *(f"X-{n}: {'y' * 1000}" for n in range(40))),
    ],
    ids=["ten thousand lines", "long value", "long name", "long query", "all together"],
)
async def test_an_oversized_head_is_refused(service: Listening, request_: bytes):
    line = await service.call()
    line.writer.write(request_)
    answer = await line.answer()
    assert answer.problem["status"] == 431
    await line.closed()
    await service.is_well()


async def test_a_head_as_large_as_allowed_is_served(service: Listening):
    fields = [f"X-{n}: {'y' * (MOST_HEAD // MOST_FIELDS - 20)}" for n in range(MOST_FIELDS - 1)]
    assert (await service.ask(get("/healthz", *fields))).status == 200


async def test_fields_after_a_body_are_refused(service: Listening):
    """They would stand among those that the guard reads."""
    body = b"2\r\n{}\r\n0\r\nAuthorization: Bearer late\r\n\r\n"
    answer = await service.ask(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.problem["status"] == 400


async def test_pipelined_requests_are_answered_in_order_up_to_a_number(service: Listening):
    line = await service.call()
    await line.send(get("/healthz") + get("/nope") + get("/healthz"))
    assert [(await line.answer()).status for _ in range(3)] == [200, 404, 200]

    flood = await service.call()
    await flood.send(get("/healthz") * (MOST_PIPELINED * 50))
    await flood.closed()
    await service.is_well()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /healthz\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n folded: y\r\nX y: z\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_hung_up_on(service: Listening, request_: bytes):
    line = await service.call()
    await line.send(request_)
    assert (await line.answer()).problem["status"] == 400
    await line.closed()
    await service.is_well()


async def test_garbage_behind_a_request_is_not_answered_in_its_place(api: Api, service: Listening):
    job_id = await api.submitted()
    line = await service.call()
    await line.send(get(f"/api/v1/jobs/{job_id}?wait=20") + b"\x00garbage\r\n\r\n")
    async with asyncio.timeout(5):
        assert await line.reader.read() == b""


async def test_an_upgrade_that_is_not_known_is_passed_over(service: Listening):
    for protocol in ("websocket", "h2c"):
        request = get("/healthz", "Connection: Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Key: x")
        assert (await service.ask(request)).status == 200


async def test_hundreds_of_idle_connections_leave_room_for_others(api: Api):
    async with listening(api.app, most=200) as here:
        crowd = [await here.call() for _ in range(600)]
        for line in crowd[::3]:
            line.writer.write(b"GET /heal")
        await here.is_well()
        assert len(here.server.server_state.connections) <= 201


async def test_callers_who_are_served_are_not_sent_away_for_newcomers(api: Api):
    job_id = await api.submitted()
    async with listening(api.app, most=20) as here:
        waiting = [await here.call() for _ in range(20)]
        for line in waiting:
            await line.send(get(f"/api/v1/jobs/{job_id}?wait=2"))
        await asyncio.sleep(0.3)
        newcomer = await here.call()
        await newcomer.closed()
        assert [(await line.answer()).status for line in waiting] == [200] * 20
        await here.is_well()


def endless() -> tuple[Litestar, list[int]]:
    """An application whose answer has no end, and how much of it was taken."""
    taken = [0]

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            taken[0] += 65536
            await asyncio.sleep(0)  # to a connection that is gone everything is sent at once

    @route("/")
    async def pour() -> Stream:
        return Stream(pieces(), media_type="text/event-stream")

    @route("/healthz")
    async def healthz() -> str:
        return "ok"

    return Litestar([pour, healthz], openapi_config=None, logging_config=None), taken


async def test_who_never_reads_an_answer_is_hung_up_on_and_costs_little():
    app, taken = endless()
    async with listening(app, patience=HURRIED) as here:
        sleepers = []
        for _ in range(20):
            sleeper = socket.create_connection(("127.0.0.1", here.port))
            sleeper.sendall(get("/"))
            sleepers.append(sleeper)
        await asyncio.sleep(0.5)
        await here.is_well()
        held = sum(each.transport.get_write_buffer_size() for each in here.server.server_state.connections)
        assert 0 < held < 20 * 256 * 1024
        async with asyncio.timeout(10):
            while len(here.server.server_state.connections) > 1:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0.05)
        for sleeper in sleepers:
            sleeper.close()
    assert taken[0] < 20 * (16 << 20), "what the system buffers, and no more"


async def test_who_reads_slowly_but_reads_is_served():
    app, _ = endless()
    async with listening(app, patience=HURRIED) as here:
        line = await here.call(limit=1024)
        await line.send(get("/"))
        for _ in range(30):
            assert await line.reader.read(1 << 20)
            await asyncio.sleep(0.1)
