from __future__ import annotations

import asyncio

import httpx
import pytest

from app.wire.jobs import preferred_wait
from tests.app.conftest import Api, pointers, problem, until
from tests.factories import new_id


async def test_a_wait_ends_when_the_job_is_final(api: Api) -> None:
    job_id = await api.submitted()
    asked = asyncio.create_task(api.client.get(f"/api/v1/jobs/{job_id}?wait=60"))
    await until(lambda: api.watch.waiting == 1)
    await api.complete(job_id)
    await api.watch.tick()
    response = await asked
    assert response.json()["status"] == "completed"
    assert api.watch.waiting == 0


async def test_a_wait_ends_with_the_unfinished_job_when_the_time_is_up(api: Api) -> None:
    job_id = await api.submitted()
    response = await api.client.get(f"/api/v1/jobs/{job_id}?wait=0.01")
    assert response.status_code == 200
    assert response.json()["status"] == "pending"
    assert api.watch.waiting == 0


async def test_nobody_waits_for_a_job_that_is_final_already(api: Api) -> None:
    job_id = await api.submitted()
    await api.complete(job_id)
    response = await api.client.get(f"/api/v1/jobs/{job_id}?wait=60")
    assert response.json()["status"] == "completed"


async def test_a_header_may_ask_to_wait(api: Api) -> None:
    job_id = await api.submitted()
    asked = asyncio.create_task(api.client.get(f"/api/v1/jobs/{job_id}", headers={"Prefer": "wait=60"}))
    await until(lambda: api.watch.waiting == 1)
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    await api.watch.tick()
    assert (await asked).json()["status"] == "cancelled"


async def test_a_waiter_that_gives_up_leaves_nothing_behind(api: Api) -> None:
    job_id = await api.submitted()
    asked = asyncio.create_task(api.client.get(f"/api/v1/jobs/{job_id}?wait=60"))
    await until(lambda: api.watch.waiting == 1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert api.watch.waiting == 0


async def test_waiting_for_a_job_that_does_not_exist_is_404_at_once(api: Api) -> None:
    problem(await api.client.get(f"/api/v1/jobs/{new_id()}?wait=60"), 404)


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "soon", "", "1&wait=2"])
async def test_a_wait_that_makes_no_sense_is_422(api: Api, wait: str) -> None:
    response: httpx.Response = await api.client.get(f"/api/v1/jobs/{new_id()}?wait={wait}")
    assert pointers(response) == ["/wait"]


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, WAIT = 5 ; x=1", 5),
        ('wait="5"', 5),
        ("wait=600", 60),
        ("wait=-1", 0),
        ("wait=soon", 0),
        ("wait", 0),
        ("await=5", 0),
        ("", 0),
    ],
)
def test_preferences_that_make_no_sense_are_ignored(prefer: str, seconds: float) -> None:
    assert preferred_wait(prefer) == seconds
