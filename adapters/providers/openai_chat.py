"""Chat with whatever speaks OpenAI's chat completions: vLLM, llama-server, Ollama, LM Studio, the clouds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
import msgspec

from adapters.providers.client import bearer, below, utc_now
from adapters.providers.completion import Completion
from adapters.providers.context import ContextWindow, openai_window
from adapters.providers.incoming import Incoming
from adapters.providers.streaming import Body, Refused, StreamingChat
from domain.chat import ChatRequest
from domain.ports import Tell

RENAMED = "use 'max_completion_tokens' instead"


def completions_url(base_url: str) -> str:
    """Where chat completions are, given where the API begins."""
    return below(base_url, "chat/completions")


def models_url(base_url: str) -> str:
    """Where the server lists its models."""
    return below(base_url, "models")


class OpenAIChatProvider(StreamingChat):
    """One model of one server.

    Args:
        base_url: where the API begins: `http://host:8000/v1`, or `http://host:8000`.
        api_key: sent as a bearer token, shown nowhere.
        timeout: for a whole call.
        context_window: in tokens, where it is known; else the server is asked when it matters.
        clock: what a `Retry-After` that is a date is compared with.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        model: str,
        base_url: str,
        api_key: str = "",
        timeout: timedelta,
        context_window: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(
            client,
            model=model,
            url=completions_url(base_url),
            headers=bearer(api_key),
            api_key=api_key,
            timeout=timeout,
            window=(
                ContextWindow(context_window) if context_window else openai_window(client, base_url, api_key, model)
            ),
            clock=clock,
        )

    def _body(self, request: ChatRequest) -> Body:
        fields = msgspec.to_builtins(request)
        return {"model": self.model, **fields, "stream": True, "stream_options": {"include_usage": True}}

    def _incoming(self, private: tuple[str, ...], tell: Tell) -> Incoming:
        return Completion(private, tell)

    def _amended(self, body: Body, refusal: Refused, resends: int) -> Body | None:
        # OpenAI's reasoning models know the limit by its new name only, other servers by its old one.
        if "max_tokens" in body and RENAMED in refusal.said.lower():
            return {"max_completion_tokens" if name == "max_tokens" else name: value for name, value in body.items()}
        return super()._amended(body, refusal, resends)
