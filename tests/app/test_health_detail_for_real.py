"""How the service fares while its real PostgreSQL answers, and while it is silent."""

from __future__ import annotations

import asyncio
import re
import time

from app.bootstrap import build
from app.settings import from_env
from domain.diagnosis import Diagnosis, Word
from domain.usecases.diagnose import KEPT, PATIENCE
from tests.servers.model_server import ModelServer, tells
from tests.servers.tcp_proxy import TcpProxy


def words(diagnosis: Diagnosis) -> dict[str, Word]:
    return {name: component.status for name, component in diagnosis.components.items()}


async def test_a_postgres_that_says_nothing_is_down_and_the_others_are_told_in_time(database: str):
    port = int(re.findall(r":(\d+)/", database)[0])
    with TcpProxy("127.0.0.1", port) as door, ModelServer(pages={"/health": tells()}) as speech:
        through_the_door = re.sub(r":\d+/", f":{door.port}/", database)
        settings = from_env({"DATABASE_URL": through_the_door, "INFRA_TARGETS": f"stt=speech+{speech.origin}"})
        async with build(settings).core(hears=False) as core:
            well = await core.services.diagnose.diagnosis()
            door.black_out()
            await asyncio.sleep(KEPT)
            began = time.monotonic()
            silent = await core.services.diagnose.diagnosis()
            took = time.monotonic() - began
            door.open()
    assert (well.status, set(words(well).values())) == (Word.OK, {Word.OK})
    assert silent.status is Word.DOWN
    assert words(silent)["postgres"] is Word.DOWN
    assert words(silent)["infra"] is Word.OK
    assert took < PATIENCE + 2
