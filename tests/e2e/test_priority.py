from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, ids
from tests.servers.model_server import ModelServer, after, says

SLOTS = 2
JOB = 0.2
Start = Callable[[Installation], Api]


def separate_processes(installation: Installation) -> Api:
    api = installation.serve()
    installation.worker()
    return api


def one_process(installation: Installation) -> Api:
    return installation.up(AMQP_URL="")


@pytest.mark.parametrize("start", [separate_processes, one_process])
def test_a_high_job_behind_hundreds_of_low_ones_takes_the_next_free_slot(
    install: Install, database: str, vhost: str, model: ModelServer, start: Start
) -> None:
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS)
    )
    model.default = after(JOB, says("The answer."))
    api = start(installation)
    api.submit_many(500, priority="low")

    for _ in range(5):
        high = api.submit(priority="high")
        [(stored_by,)] = installation.rows("SELECT clock_timestamp()")
        assert api.finished(high, within=10)["status"] == "completed"
        [told] = installation.rows(OVERTAKEN, ids([high])[0], stored_by)
        assert told["overtaken_by"] == 0, dict(told)
        assert told["waiting"] > 300, "there was something to overtake"
        assert told["waited"].total_seconds() < JOB + 0.3, dict(told)


OVERTAKEN: Any = """
    SELECT
        h.started_at - d.created_at AS waited,
        (SELECT count(*) FROM jobs AS j WHERE j.priority = 5 AND j.status = 'pending') AS waiting,
        (SELECT count(*) FROM jobs AS j
         WHERE j.priority = 5 AND j.started_at > $2 AND j.started_at < h.started_at) AS overtaken_by
    FROM jobs AS h JOIN job_details AS d ON d.job_id = h.id WHERE h.id = $1
"""
