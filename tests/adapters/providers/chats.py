"""Chat providers of every kind, against a server of the tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from adapters.providers.anthropic_chat import AnthropicChatProvider
from adapters.providers.ollama_chat import OllamaChatProvider
from adapters.providers.openai_chat import OpenAIChatProvider
from adapters.providers.streaming import StreamingChat
from domain.chat import ChatAnswer, ChatRequest
from domain.errors import Failure, RunFailed
from domain.ports import Tell, nobody
from tests.adapters.providers.factories import a_job, a_request

KEY = "k-very-secret"
NO_WAIT = timedelta(seconds=30)

KINDS: dict[str, type[StreamingChat]] = {
    "openai": OpenAIChatProvider,
    "anthropic": AnthropicChatProvider,
    "ollama": OllamaChatProvider,
}


def a_provider(kind: str, client: httpx.AsyncClient, base_url: str, **options: Any) -> StreamingChat:
    return KINDS[kind](client, **{"model": "m", "base_url": base_url, "api_key": KEY, "timeout": NO_WAIT, **options})


async def ask(provider: StreamingChat, request: ChatRequest | None = None, tell: Tell = nobody) -> ChatAnswer:
    return await provider.chat(request or a_request(), a_job(), tell)


async def failure(provider: StreamingChat, request: ChatRequest | None = None) -> Failure:
    with pytest.raises(RunFailed) as failed:
        await ask(provider, request)
    return failed.value.failure
