"""How PostgreSQL fares with our tables, for operators."""

from __future__ import annotations

import asyncpg

from adapters.postgres.pool import fetch, query
from domain.ports import StorageVitals, TableVitals

TABLES = (
    "closing_slots",
    "job_changes",
    "job_count_changes",
    "job_counts",
    "job_details",
    "job_inputs",
    "job_labels",
    "job_progress",
    "job_results",
    "jobs",
    "jobs_finished",
    "lane_names",
    "lane_states",
    "leader",
    "line_names",
    "line_states",
    "owners",
    "queues",
    "run_attempts",
    "runs",
    "upload_chunks",
    "upload_jobs",
    "upload_leftovers",
    "uploads",
    "workers",
)
"""Ours, whatever else lies beside them."""


class PostgresVitals:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def vitals(self) -> StorageVitals:
        tables = await fetch(self._pool, query("table_vitals"), [TABLES])
        [row] = await fetch(self._pool, query("vitals"), [])
        return StorageVitals(
            tables={table["name"]: TableVitals(table["live"], table["dead"]) for table in tables}, **dict(row)
        )

    async def oldest_due(self) -> dict[str | None, float]:
        return {row["queue"]: row["seconds"] for row in await fetch(self._pool, query("oldest_due_by_queue"), [])}
