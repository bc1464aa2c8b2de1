"""Documents that take long to hold against their schemas, in a process of their own."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from adapters.schemas.apart import Schemas
from adapters.schemas.json_schema import TOO_MUCH
from domain import ports
from domain.errors import BadInput

# A small answer that a schema of a few lines more than usual keeps busy for minutes.
CHOICES: dict[str, Any] = {"items": {"enum": [{"a": number} for number in range(15_000)]}}
LAST = [{"a": 14_999}] * 3_000

MANY = {"items": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}}


@pytest.fixture
def schemas() -> Schemas:
    return Schemas()


def test_it_is_what_the_domain_asks_for(schemas: Schemas) -> None:
    port: ports.Schemas = schemas
    assert port


async def test_what_takes_too_long_holds_up_nobody_and_is_given_up() -> None:
    schemas = Schemas(processor=timedelta(seconds=1))
    looking = asyncio.create_task(schemas.misfit(CHOICES, LAST))
    ticks = 0
    while not looking.done():
        await asyncio.wait({looking}, timeout=0.01)
        ticks += 1
    assert looking.result() == TOO_MUCH
    assert ticks > 20


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([{"a": 1}] * 200_000, None),
        ([{"a": 10**30}] * 200_000, None),
        ([*[{"a": 1}] * 200_000, {"b": "x"}], "at /200000: required"),
    ],
    ids=["fits", "numbers of many digits", "does not fit"],
)
async def test_a_large_document_is_judged_like_a_small_one(
    schemas: Schemas, document: object, told: str | None
) -> None:
    assert not schemas.is_light(MANY, document)
    assert await schemas.misfit(MANY, document) == told


async def test_a_small_one_is_judged_at_once(schemas: Schemas) -> None:
    assert schemas.is_light(MANY, [{"a": 1}] * 100)
    assert await schemas.misfit(MANY, [{"a": "x"}]) == "at /0/a: type"


async def test_what_is_no_schema_is_none_for_a_large_document_either(schemas: Schemas) -> None:
    with pytest.raises(BadInput):
        await schemas.misfit({"type": 3}, LAST)


async def test_who_stops_waiting_leaves_no_process_behind(schemas: Schemas) -> None:
    looking = asyncio.create_task(schemas.misfit(CHOICES, LAST))
    await asyncio.sleep(0.2)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
