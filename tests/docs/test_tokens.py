"""The walk through tokens and rights is gone, with the file that it shows."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app import up
from app.server import bind, url_of
from app.settings import from_env
from tests.docs.test_documents import DOCUMENTED, blocks
from tests.docs.test_guide import curl, remembered, words_of

PAGE = "docs/tokens.md"


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[str]:
    [toml] = blocks(PAGE, "toml")
    (path := tmp_path / "tokens.toml").write_text(toml)
    variables = {"HTTP_HOST": "127.0.0.1", "SHUTDOWN_GRACE": "1s", "LOG_LEVEL": "error", "PROVIDER_DISCOVERY": "false"}
    settings = from_env(variables | {"AI_PROVIDER": "practice", "AI_SERVICE_TOKENS": str(path)})
    listener, worker_listener = bind("127.0.0.1", 0, "HTTP_PORT"), bind("127.0.0.1", 0, "WORKER_HTTP_PORT")
    async with up.everything(settings, database, listener, worker_listener):
        yield url_of(listener)


async def test_each_token_may_do_what_the_page_says(service: str):
    address, *walk = blocks(PAGE, "bash")
    assert address == f"AI={DOCUMENTED}/api/v1\n"
    variables = {"PATH": os.environ["PATH"], "AI": f"{service}/api/v1"}

    for text in walk:
        *commands, _ = re.split(r"[ \t]+# (\d{3})\n", text)
        for command, status in zip(commands[::2], commands[1::2], strict=True):
            answer: httpx.Response = await asyncio.to_thread(curl, words_of(command, variables))
            assert answer.status_code == int(status), f"{command}\n{answer.text}"
            variables |= remembered(answer)
