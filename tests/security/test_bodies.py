"""Bodies that mean harm: each is refused by a problem document, in bounded time and memory; the next is served."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.http import create_app
from app.keyring import Keyring
from app.settings import MIB, from_env
from tests.app.conftest import WANTED, Api
from tests.security.conftest import Answer, Listening, listening, post

JOBS, BATCH, CLAIM = "/api/v1/jobs", "/api/v1/jobs/batch", "/api/v1/jobs/claim"
AT_ONCE = 5.0
"""Seconds; each takes a small part of one, on a machine that does nothing else."""


@pytest.fixture
async def service(api: Api) -> AsyncIterator[Listening]:
    """With the limits that an installation has which sets none."""
    app = create_app(api.services, keyring=Keyring(), limits=from_env({}).limits)
    async with listening(app) as here:
        yield here


def wanted(raw_input: bytes) -> bytes:
    """A job with this input."""
    others = {name: value for name, value in WANTED.items() if name != "input"}
    fields = json.dumps(others | {"task_type": "not_served_here"}).encode()
    return fields[:-1] + b', "input": ' + raw_input + b"}"


DEEP = 500_000
BOMBS: dict[str, bytes] = {
    "nested lists": wanted(b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "nested objects": wanted(b'{"a":' * 150_000 + b"1" + b"}" * 150_000),
    "nested and suspicious": wanted(b'{"a":' * 100_000 + b'"\\u0000"' + b"}" * 100_000),
    "never closed": b"[" * MIB,
    "nested where a name belongs": b'{"owner_service":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "not a number": wanted(b'{"x": NaN}'),
    "infinity": wanted(b'{"x": Infinity}'),
    "negative infinity": wanted(b'{"x": -Infinity}'),
    "not a number, and suspicious": wanted(b'{"x": [NaN, "\\u0000"]}'),
    "no input": wanted(b""),
    "huge number for a count": b'{"max_attempts": ' + b"9" * 500_000 + b"}",
    "huge exponent for a count": b'{"max_attempts": 1e999999999}',
    "negative exponent for a count": b'{"max_attempts": 1e-999999999}',
    "unknown field with a huge name": b'{"' + b"x" * MIB + b'": 1}',
    "half a surrogate pair": wanted(b'{"x": "\\ud800"}'),
    "half a surrogate pair in a key": wanted(b'{"\\udfff": 1}'),
    "nul": wanted(b'{"x": "\\u0000"}'),
    "raw control character": wanted(b'{"x": "\x01"}'),
    "not UTF-8": wanted(b'{"x": "\xff\xfe"}'),
    "overlong UTF-8": wanted(b'{"x": "\xc0\xaf"}'),
    "a surrogate in UTF-8": wanted(b'{"x": "\xed\xa0\x80"}'),
    "UTF-16": json.dumps(WANTED).encode("utf-16"),
    "UTF-32": json.dumps(WANTED).encode("utf-32"),
    "a mark of byte order": b"\xef\xbb\xbf" + json.dumps(WANTED).encode(),
    "two documents": json.dumps(WANTED).encode() * 2,
    "compressed": gzip.compress(json.dumps(WANTED).encode()),
    "a million labels": b'{"labels": {' + b",".join(b'"l%d":"x"' % n for n in range(60_000)) + b"}}",
    "an owner's name without end": b'{"owner_service": "' + b"a" * MIB + b'"}',
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>',
    "a form": b"owner_service=x&task_type=y",
    "nothing": b"",
    "spaces": b" " * MIB,
    "a list": b"[" + b"1," * 500_000 + b"1]",
    "null": b"null",
}


async def refused(service: Listening, path: str, body: bytes) -> Answer:
    began = time.monotonic()
    answer = await service.ask(post(path, body))
    assert time.monotonic() - began < AT_ONCE
    assert answer.status in {400, 413, 422}
    assert len(answer.body) < 10_000, "what was sent is not sent back"
    assert answer.problem
    return answer


async def test_each_bomb_is_refused_by_every_call_that_takes_a_body(service: Listening, api: Api):
    for bomb, body in BOMBS.items():
        for path in (JOBS, BATCH, CLAIM, "/api/v1/jobs/cancel", "/api/v1/jobs/erase"):
            try:
                await refused(service, path, body)
            except AssertionError as error:
                raise AssertionError(f"{bomb} at {path}: {error}") from error
    assert (await service.ask(post(JOBS, json.dumps(WANTED).encode()))).status == 201


async def test_bombs_in_a_batch_store_nothing(service: Listening, api: Api):
    good = json.dumps(WANTED).encode()
    for bomb in ("nested lists", "not a number", "half a surrogate pair", "raw control character", "not UTF-8"):
        await refused(service, BATCH, b'{"jobs": [' + good + b"," + BOMBS[bomb] + b"]}")
    await refused(service, BATCH, b'{"jobs": [' + b",".join([good] * 10_001) + b"]}")
    await refused(service, BATCH, b'{"jobs": [' + b"{}," * 3_000_000 + b"{}]}")
    listed = await api.client.get(JOBS)
    assert listed.json()["jobs"] == []


BIG_BUT_FINE: dict[str, bytes] = {
    "a huge number": b'{"x": ' + b"9" * 900 + b"}",
    "a huge exponent": b'{"x": 1e999999999, "y": -1E+400, "z": 1e-999999999}',
    "many digits": b'{"x": 0.' + b"1" * 900 + b"}",
    "equal keys": b'{"x": 1, "x": 2, "x": {"x": 3, "x": 4}}',
    "nested a little": b'{"x":' + b"[" * 400 + b"]" * 400 + b"}",
    "prototype": b'{"__proto__": {"x": 1}, "constructor": 1, "__class__": 2}',
    "line breaks that JSON allows": '{"x": "\u2028\u2029\x85"}'.encode(),
}


async def test_what_is_strange_but_json_is_kept_as_it_was_sent(service: Listening):
    for name, strange in BIG_BUT_FINE.items():
        request = post(JOBS, wanted(strange), f"Idempotency-Key: {name.replace(' ', '-')}")
        answers = [await service.ask(request) for _ in range(2)]
        assert [answer.status for answer in answers] == [201, 200], (name, answers[0].body)
        assert strange in answers[1].body


async def test_a_million_numbers_cost_little_memory(service: Listening):
    body = wanted(b'{"x": [' + b"1," * 500_000 + b'1, "\\u0001"]}')
    await service.is_well()
    tracemalloc.start()
    try:
        answer = await service.ask(post(JOBS, body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status in {201, 413}
    assert peak < 20 * len(body)


async def test_a_compressed_body_is_not_unpacked(service: Listening):
    """A few bytes could mean gigabytes."""
    bomb = gzip.compress(b'{"x": "' + b" " * (64 * MIB) + b'"}', 1)
    assert len(bomb) < MIB
    for coding in ("gzip", "deflate", "br", "zstd"):
        answer = await service.ask(post(JOBS, bomb, f"Content-Encoding: {coding}"))
        assert answer.status in {400, 415}
        assert answer.problem


async def test_json_is_read_whatever_its_type_says_and_nothing_else_is(service: Listening):
    """As the API's description promises: a wrong content type must not switch to another parser."""
    types: list[Any] = ["text/plain", "application/xml", "application/json; charset=utf-16", "multipart/form-data", "x"]
    types += ["application/x-msgpack", "application/x-www-form-urlencoded", "application/json; charset=utf-7", ""]
    for kind in types:
        answer = await service.ask(post(JOBS, json.dumps(WANTED).encode(), f"Content-Type: {kind}"))
        assert answer.status == 201, kind
        answer = await service.ask(post(JOBS, b"owner_service=x", f"Content-Type: {kind}"))
        assert answer.problem["status"] == 400, kind


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(service: Listening):
    line = await service.call()
    await line.send(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{")
    assert (await line.answer(within=2)).problem["status"] == 413


async def test_a_body_that_is_shorter_or_longer_than_announced_harms_nobody(service: Listening):
    short = await service.call()
    await short.send(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}")
    short.hang_up()
    long = await service.call()
    await long.send(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GARBAGE\x00\r\n\r\n")
    await long.closed()
    await service.is_well()


async def test_many_bombs_at_once_leave_room_for_others(service: Listening):
    bombs = [service.ask(post(JOBS, BOMBS["nested lists"]), within=30) for _ in range(20)]
    answers = asyncio.gather(*bombs)
    await asyncio.sleep(0)
    await service.is_well()
    assert {answer.status for answer in await answers} == {400}


QUERIES = (
    "limit=" + "9" * 5000,
    "limit=1e3",
    "limit=-1",
    "cursor=" + "A" * 10_000,
    "cursor=%00",
    "created_after=9999-12-31T23:59:59-23:59",
    "created_after=0001-01-01T00:00:00%2B23:59",
    "owner_ref=%00",
    "label.x=%00",
    "label.%00=x",
    "label.a'b=x",
    "status=pending&status=" + "&status=".join(["x"] * 2000),
    "x=" * 3000,
    "&".join(f"label.n{n}=x" for n in range(1000)),
    "a" * 20_000,
    "batch_id=" + "0" * 5000,
    "%",
    "owner_service=%ff",
    "owner_service='%20OR%201=1--",
)


async def test_queries_that_mean_harm_are_refused(service: Listening):
    for query in QUERIES:
        request = f"GET {JOBS}?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        began = time.monotonic()
        answer = await service.ask(request)
        assert (answer.status, time.monotonic() - began < AT_ONCE) == (422, True), f"{query[:60]}: {answer.status}"
        assert len(answer.body) < 100_000
