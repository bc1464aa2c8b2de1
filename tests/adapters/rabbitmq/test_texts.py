from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from adapters.rabbitmq import texts as module
from adapters.rabbitmq.connection import connection_parameters
from adapters.rabbitmq.texts import Body, Merged, RabbitTexts, messages
from domain.texts import TextPiece
from tests.factories import new_id


def test_pieces_that_follow_each_other_are_sent_as_one() -> None:
    job, other = new_id(), new_id()
    waiting = Merged()
    waiting.add([TextPiece(job, 2, 0, "Hello "), TextPiece(other, 2, 5, "x"), TextPiece(job, 2, 6, "you")])
    waiting.add([TextPiece(job, 2, 0, "Hello you.")])
    assert waiting.take() == [
        TextPiece(job, 2, 0, "Hello you"),
        TextPiece(job, 2, 0, "Hello you."),
        TextPiece(other, 2, 5, "x"),
    ]
    assert len(waiting) == 0


def test_of_too_much_the_texts_that_waited_longest_are_dropped() -> None:
    first, second = new_id(), new_id()
    waiting = Merged()
    assert waiting.add([TextPiece(first, 2, 0, "x")]) == 0
    assert waiting.add([TextPiece(second, 2, 0, "y" * module.MOST_PENDING)]) == 1
    assert [piece.job_id for piece in waiting.take()] == [second]


def test_a_long_text_goes_in_parts_without_a_gap() -> None:
    long = TextPiece(new_id(), 2, 3, "x" * (2 * module.MOST_PER_MESSAGE + 1))
    sent = [piece for _, body in messages([long]) for piece in msgspec.json.decode(body, type=Body).pieces]
    assert [(piece.offset, len(piece.text)) for piece in sent] == [(3, 65536), (65539, 65536), (131075, 1)]


async def test_what_one_process_sends_another_hears(vhost: str) -> None:
    heard: list[TextPiece] = []

    def listen(pieces: Sequence[TextPiece]) -> None:
        heard.extend(pieces)

    sender, listener = (RabbitTexts(connection_parameters(vhost), sends=sends) for sends in (True, False))
    listener.listen(listen)
    sender.start()
    listener.start()
    assert listener._subscriber
    await asyncio.to_thread(listener._subscriber.link.ready.wait, 20)
    piece = TextPiece(new_id(), 2, 0, "Hello")
    sender.send([piece])
    async with asyncio.timeout(20):
        while not heard:  # noqa: ASYNC110  # another thread's
            await asyncio.sleep(0.01)
    await asyncio.to_thread(sender.stop)
    await asyncio.to_thread(listener.stop)
    assert heard == [piece]
