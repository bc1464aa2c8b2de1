"""The composition root's part for providers: makes of each model profile what calls its server, and asks after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx

from actors.chain import Backend
from adapters.providers.health import HttpHealth, Server
from adapters.providers.openai_chat import OpenAIChatProvider, open_client
from adapters.providers.practice import PracticeProvider
from app.configured import Configured
from app.endpoint import ProviderName
from app.profiles import ModelProfile
from domain.adaptive import Pressure
from domain.policy import Policies
from domain.ports import ChatProvider, EmbeddingProvider, SpeechProvider
from domain.routing import ModelKind, Routes

P = TypeVar("P")

Tls = tuple[bool, Path | None]


class Clients:
    """An HTTP client for each way to trust servers, opened when it is first needed; of one event loop."""

    def __init__(self) -> None:
        self._open: dict[Tls, httpx.AsyncClient] = {}

    def of(self, profile: ModelProfile) -> httpx.AsyncClient:
        way = profile.ssl_verify, profile.ca_bundle
        if way not in self._open:
            self._open[way] = open_client()
        return self._open[way]

    async def close(self) -> None:
        for client in self._open.values():
            await client.aclose()


class Serving:
    """What is served at this moment. Everything it gives is that of the configuration as it is then; of one event loop.

    A call that is on its way when the configuration changes ends as it began.
    """

    def __init__(self, configured: Configured) -> None:
        self._configured = configured
        self._clients = Clients()
        self._make()

    @property
    def health(self) -> CurrentHealth:
        return CurrentHealth(self._current_health)

    def policies(self) -> Policies:
        self._look()
        return self._configured.policies

    def routes(self) -> Routes:
        self._look()
        return self._routes

    def profiles(self) -> tuple[str, ...]:
        """The names of the profiles."""
        return self.routes().profiles

    def chat(self) -> dict[str, Backend[ChatProvider]]:
        self._look()
        return self._chat

    def speech(self) -> dict[str, Backend[SpeechProvider]]:
        self._look()
        return self._speech

    def embeddings(self) -> dict[str, Backend[EmbeddingProvider]]:
        self._look()
        return self._embeddings

    def profile(self, name: str) -> ModelProfile | None:
        """How this one is served."""
        self._look()
        return self._profiles.get(name)

    async def close(self) -> None:
        await self._clients.close()

    def _look(self) -> None:
        if self._configured.look():
            self._make()

    def _make(self) -> None:
        served = self._configured.served
        self._profiles = {profile.name: profile for profile in served.profiles}
        self._routes = served.routes
        self._chat = _backends(served.profiles, ModelKind.CHAT, self._chat_provider)
        self._speech: dict[str, Backend[SpeechProvider]] = {}
        self._embeddings: dict[str, Backend[EmbeddingProvider]] = {}
        self._health = HttpHealth(
            open_client(),
            {
                profile.name: Server(profile.base_url, api_key=profile.key)
                for profile in served.profiles
                if profile.provider is not ProviderName.PRACTICE
            },
        )

    def _current_health(self) -> HttpHealth:
        self._look()
        return self._health

    def _chat_provider(self, profile: ModelProfile) -> ChatProvider:
        match profile.provider:
            case ProviderName.PRACTICE:
                return PracticeProvider()
            case _:
                return OpenAIChatProvider(
                    self._clients.of(profile),
                    model=profile.model,
                    base_url=profile.base_url,
                    api_key=profile.key,
                    timeout=profile.timeout,
                )


class CurrentHealth:
    """Asks after the servers of the moment."""

    def __init__(self, current: Callable[[], HttpHealth]) -> None:
        self._current = current

    async def answers(self, model_profile: str) -> bool:
        return await self._current().answers(model_profile)

    async def pressure(self, model_profile: str) -> Pressure | None:
        return await self._current().pressure(model_profile)


@asynccontextmanager
async def serving(configured: Configured) -> AsyncIterator[Serving]:
    """
    Raises:
        StartupError: a profile cannot be served.
    """
    current = Serving(configured)
    try:
        yield current
    finally:
        await current.close()


def _backends(
    profiles: Iterable[ModelProfile], kind: ModelKind, provider: Callable[[ModelProfile], P]
) -> dict[str, Backend[P]]:
    return {
        profile.name: Backend(provider(profile), str(profile.provider), profile.model, profile.fallbacks)
        for profile in profiles
        if profile.kind is kind
    }
