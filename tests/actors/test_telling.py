from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Raw

from actors.telling import Tellings
from adapters.memory.texts import InProcessTexts
from domain.events import FOLLOWED, JobEvent
from domain.job import LeasedJob
from domain.texts import TextPiece
from tests.factories import leased_job


class Heard:
    def __init__(self) -> None:
        self.pieces: list[tuple[int, str]] = []

    def __call__(self, pieces: Sequence[TextPiece]) -> None:
        self.pieces += [(piece.offset, piece.text) for piece in pieces]


def told() -> tuple[Tellings, Heard]:
    texts, heard = InProcessTexts(), Heard()
    texts.listen(heard)
    return Tellings(texts), heard


def job(data: bytes) -> LeasedJob:
    return leased_job(input=Raw(data))


async def test_a_run_tells_nothing_that_nobody_reads() -> None:
    tellings, heard = told()
    with tellings.of(job(b'{"user":"Hi"}')) as tell:
        tell("Hello")
    assert heard.pieces == []


async def test_a_job_that_is_streamed_tells_from_its_start_and_is_bound_by_it() -> None:
    tellings, heard = told()
    with tellings.of(job(b'{"user":"Hi","stream":true}')) as tell:
        bound = [tell.bound]
        tell("Hello ")
        tell("you")
        bound.append(tell.bound)
    assert bound == [False, True]
    assert heard.pieces == [(0, "Hello "), (6, "you")]


async def test_whoever_asks_is_told_all_so_far_once_and_then_what_comes() -> None:
    tellings, heard = told()
    running = job(b'{"user":"Hi"}')
    with tellings.of(running) as tell:
        tell("Hello ")
        asked = JobEvent.of(running, FOLLOWED, running.number)
        tellings.heard([asked, asked])
        async with asyncio.timeout(5):
            while not heard.pieces:  # noqa: ASYNC110  # what it waits for has no event
                await asyncio.sleep(0.001)
        tell("you")
    assert heard.pieces == [(0, "Hello "), (6, "you")]
