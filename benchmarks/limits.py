"""The least that any queue must do on these servers, without a queue around it: what there is to reach.

One connection each, no handler, nothing stored beside. The rates count as those of the contestants do.
"""

from __future__ import annotations

import time
from contextlib import closing

import asyncpg
import pika
import uvloop

from benchmarks.handlers import PAYLOAD
from benchmarks.place import Place

BATCH = 100
PREFETCH = 128
QUEUE = "limit"

TABLE = """
CREATE TABLE IF NOT EXISTS job (id bigint PRIMARY KEY, state smallint NOT NULL DEFAULT 0, payload text NOT NULL);
CREATE INDEX IF NOT EXISTS job_pending ON job (id) WHERE state = 0;
TRUNCATE job;
"""

FILL = "INSERT INTO job (id, payload) SELECT number, $2 FROM generate_series(1, $1) AS number"

CLAIM = """
UPDATE job SET state = 1
WHERE id = ANY(ARRAY(SELECT id FROM job WHERE state = 0 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING id, payload
"""

END = "UPDATE job SET state = 2 WHERE id = ANY($1)"


def claim_and_end(place: Place, jobs: int) -> float:
    """Jobs per second that are claimed and ended by one UPDATE each for a hundred of them."""
    return uvloop.run(_claim_and_end(place.database("limit"), jobs))


async def _claim_and_end(dsn: str, jobs: int) -> float:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(TABLE)
        await connection.execute(FILL, jobs, PAYLOAD)
        await connection.execute("VACUUM ANALYZE job")
        began, done = time.perf_counter(), 0
        while rows := await connection.fetch(CLAIM, BATCH):
            await connection.execute(END, [row["id"] for row in rows])
            done += len(rows)
        return done / (time.perf_counter() - began)
    finally:
        await connection.close()


def consume_and_acknowledge(place: Place, messages: int) -> float:
    """Messages per second that one consumer takes from a durable queue, acknowledging each."""
    place.rabbit.reset()
    with closing(pika.BlockingConnection(pika.URLParameters(place.rabbit.url))) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
        for _ in range(messages):
            channel.basic_publish("", QUEUE, PAYLOAD.encode(), persistent)
        channel.close()  # answered when all of them are in the queue
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        began = time.perf_counter()
        for number, (delivery, _properties, _body) in enumerate(channel.consume(QUEUE), 1):
            channel.basic_ack(delivery.delivery_tag)
            if number == messages:
                break
        return messages / (time.perf_counter() - began)
