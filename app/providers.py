"""The composition root's part for providers: makes of each model profile what calls its server, and asks after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict, TypeVar
from urllib.parse import urlsplit

import httpx
import structlog
from msgspec.structs import replace

from actors.chain import Backend
from actors.speech import FileLimits
from adapters.providers.anthropic_chat import MAX_TOKENS, AnthropicChatProvider
from adapters.providers.client import open_client, tls
from adapters.providers.discovery import USUAL, Found, Place, discover
from adapters.providers.health import HttpHealth, Server, ServerKind
from adapters.providers.ollama_chat import OllamaChatProvider
from adapters.providers.openai_chat import OpenAIChatProvider
from adapters.providers.openai_embeddings import OpenAIEmbeddings
from adapters.providers.openai_speech import DIALECTS, OPENAI, OpenAISpeechProvider
from adapters.providers.practice import PracticeEmbeddings, PracticeProvider
from adapters.providers.practice_speech import PracticeSpeechProvider
from adapters.providers.recording_call import open_speech_client
from adapters.providers.whisper_asr import WhisperAsrProvider
from adapters.telemetry.providers import ObservedChat, ObservedEmbeddings, ObservedSpeech
from app.configured import Configured
from app.endpoint import Endpoint, ProviderName
from app.profiles import LARGEST_AUDIO, WHISPERX, ModelProfile
from app.settings import Settings
from domain.adaptive import Pressure
from domain.policy import Policies
from domain.ports import ChatProvider, EmbeddingProvider, ProviderState, SpeechProvider
from domain.routing import CHAT_TASKS, ModelKind, Routes
from domain.task_type import TaskType
from domain.telemetry import NO_TELEMETRY, Telemetry
from domain.telemetry import Server as Called

P = TypeVar("P")

log = structlog.get_logger()

Tls = tuple[bool, Path | None]


# What is said to speak OpenAI's API may be any of the others: it is recognised by what it lists.
SERVERS = {provider: ServerKind(provider) for provider in ProviderName if provider in {*ServerKind} - {"openai"}}


class Clients:
    """An HTTP client for each way to trust servers, opened when it is first needed; of one event loop."""

    def __init__(self, opened: Callable[..., httpx.AsyncClient]) -> None:
        """
        Args:
            opened: makes a client that trusts what its `verify` says.
        """
        self._opened = opened
        self._open: dict[Tls, httpx.AsyncClient] = {}

    @property
    def usual(self) -> httpx.AsyncClient:
        """That which trusts the well-known authorities."""
        return self._trusting((True, None))

    def of(self, profile: ModelProfile) -> httpx.AsyncClient:
        return self._trusting((profile.ssl_verify, profile.ca_bundle))

    def _trusting(self, way: Tls) -> httpx.AsyncClient:
        if way not in self._open:
            self._open[way] = self._opened(verify=tls(*way))
        return self._open[way]

    async def close(self) -> None:
        for client in self._open.values():
            await client.aclose()


class Serving:
    """What is served at this moment. Everything it gives is that of the configuration as it is then; of one event loop.

    A call that is on its way when the configuration changes ends as it began.
    """

    def __init__(self, configured: Configured, telemetry: Telemetry = NO_TELEMETRY) -> None:
        self._configured = configured
        self._telemetry = telemetry
        self._clients = Clients(open_client)
        self._speech_clients = Clients(open_speech_client)
        self._make()

    @property
    def health(self) -> CurrentHealth:
        return CurrentHealth(self._current_health, self._fallbacks)

    @property
    def task_types(self) -> tuple[TaskType[Any], ...]:
        """Those that the installation brings itself."""
        return self._configured.task_types

    @property
    def tellers(self) -> frozenset[str]:
        """The task types whose runs can be asked for their text."""
        return frozenset((*CHAT_TASKS, *(task_type.name for task_type in self.task_types)))

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

    def file_limits(self, name: str) -> FileLimits:
        """What the speech server of a profile takes in one call; the usual, where the profile has gone meanwhile."""
        self._look()
        profile = self._profiles.get(name)
        if profile is None:
            return FileLimits(LARGEST_AUDIO)
        longest = profile.max_file_length
        return FileLimits(profile.max_file_bytes, longest.total_seconds() if longest else None)

    async def close(self) -> None:
        await self._clients.close()
        await self._speech_clients.close()

    def _look(self) -> None:
        self._configured.look()
        # Whoever else looks at the configuration may have seen the change first.
        if self._configured.served is not self._made_of:
            self._make()

    def _make(self) -> None:
        # Tried once: what cannot be made must not fail every call from now on, and leaves what there was as a whole.
        served = self._made_of = self._configured.served
        chat = _backends(served.profiles, ModelKind.CHAT, self._observed_chat)
        speech = _backends(served.profiles, ModelKind.SPEECH, self._observed_speech)
        embeddings = _backends(served.profiles, ModelKind.EMBEDDINGS, self._observed_embeddings)
        self._health = self._health_of(served.profiles)
        self._chat, self._speech, self._embeddings = chat, speech, embeddings
        self._profiles = {profile.name: profile for profile in served.profiles}
        self._routes = served.routes

    def _health_of(self, profiles: Iterable[ModelProfile]) -> HttpHealth:
        return HttpHealth(
            self._clients.usual,
            {
                profile.name: Server(
                    profile.base_url,
                    SERVERS.get(profile.provider),
                    profile.key,
                    model=profile.model,
                    client=self._clients.of(profile),
                )
                for profile in profiles
                if profile.provider is not ProviderName.PRACTICE
            },
        )

    def _fallbacks(self, name: str) -> tuple[str, ...]:
        profile = self._profiles.get(name)
        return profile.fallbacks if profile else ()

    def _current_health(self) -> HttpHealth:
        self._look()
        return self._health

    def _observed_chat(self, profile: ModelProfile) -> ChatProvider:
        return ObservedChat(self._chat_provider(profile), _called(profile, "chat"), self._telemetry)

    def _observed_speech(self, profile: ModelProfile) -> SpeechProvider:
        return ObservedSpeech(self._speech_provider(profile), _called(profile, "transcription"), self._telemetry)

    def _observed_embeddings(self, profile: ModelProfile) -> EmbeddingProvider:
        return ObservedEmbeddings(self._embedding_provider(profile), _called(profile, "embeddings"), self._telemetry)

    def _chat_provider(self, profile: ModelProfile) -> ChatProvider:
        client = self._clients.of(profile)
        match profile.provider:
            case ProviderName.PRACTICE:
                return PracticeProvider()
            case ProviderName.ANTHROPIC:
                return AnthropicChatProvider(client, max_tokens=profile.max_tokens or MAX_TOKENS, **_common(profile))
            case ProviderName.OLLAMA if not profile.speaks_openai:
                return OllamaChatProvider(client, num_ctx=profile.num_ctx, **_common(profile))
            case _:
                return OpenAIChatProvider(client, **_common(profile))

    def _speech_provider(self, profile: ModelProfile) -> SpeechProvider:
        client = self._speech_clients.of(profile)
        match profile.provider:
            case ProviderName.PRACTICE:
                return PracticeSpeechProvider()
            case ProviderName.WHISPER_ASR:
                # Of the engine under this name it is known that it takes no prompt; any other tells of itself.
                engine = WHISPERX if profile.name == WHISPERX else None
                return WhisperAsrProvider(client, engine=engine, most_bytes=profile.max_file_bytes, **_common(profile))
            case _:
                dialect = DIALECTS.get(profile.provider, OPENAI)
                return OpenAISpeechProvider(
                    client, most_bytes=profile.max_file_bytes, dialect=dialect, **_common(profile)
                )

    def _embedding_provider(self, profile: ModelProfile) -> EmbeddingProvider:
        if profile.provider is ProviderName.PRACTICE:
            return PracticeEmbeddings()
        return OpenAIEmbeddings(self._clients.of(profile), **_common(profile))


class _Common(TypedDict):
    model: str
    base_url: str
    api_key: str
    timeout: timedelta


def _common(profile: ModelProfile) -> _Common:
    return _Common(model=profile.model, base_url=profile.base_url, api_key=profile.key, timeout=profile.timeout)


def _called(profile: ModelProfile, operation: str) -> Called:
    address = urlsplit(profile.base_url)
    return Called(
        profile=profile.name,
        provider=str(profile.provider),
        model=profile.model,
        operation=operation,
        host=address.hostname or "",
        port=address.port,
    )


class CurrentHealth:
    """Asks after the servers of the moment."""

    def __init__(self, current: Callable[[], HttpHealth], fallbacks: Callable[[str], Sequence[str]]) -> None:
        self._current = current
        self._fallbacks = fallbacks

    async def answers(self, model_profile: str) -> bool:
        """Whether the profile's jobs find somebody: its own server, or one that it falls back on."""
        health = self._current()
        for name in (model_profile, *self._fallbacks(model_profile)):
            if await health.answers(name):
                return True
        return False

    async def pressure(self, model_profile: str) -> Pressure | None:
        return await self._current().pressure(model_profile)

    async def status(self, model_profile: str) -> ProviderState:
        return await self._current().status(model_profile)


@asynccontextmanager
async def serving(configured: Configured, telemetry: Telemetry = NO_TELEMETRY) -> AsyncIterator[Serving]:
    """
    Args:
        telemetry: hears of every call.

    Raises:
        StartupError: a profile cannot be served.
    """
    current = Serving(configured, telemetry)
    try:
        yield current
    finally:
        await current.close()


def _backends(
    profiles: Iterable[ModelProfile], kind: ModelKind, provider: Callable[[ModelProfile], P]
) -> dict[str, Backend[P]]:
    return {
        profile.name: Backend(profile.name, provider(profile), str(profile.provider), profile.model, profile.fallbacks)
        for profile in profiles
        if profile.kind is kind
    }


async def with_a_provider(settings: Settings, places: Sequence[Place] = USUAL) -> Settings:
    """Where no model is configured: a server that runs on this machine, else practice. The log tells which.

    Args:
        places: where to look.

    Raises:
        StartupError: what is configured cannot be used.
    """
    if Configured(settings).served.profiles:
        return settings
    found = await _discovered(places) if settings.providers.discover else None
    if found is None:
        log.warning("no model is configured: the practice provider answers", hint="see docs/providers.md")
        return replace(settings, providers=replace(settings.providers, active="practice"))
    log.info("model server found on this machine", provider=found.provider, model=found.model)
    endpoint = Endpoint(base_url=found.base_url, model=found.model)
    match found.provider:
        case "ollama":
            providers = replace(settings.providers, active="ollama", ollama=settings.providers.ollama.over(endpoint))
        case "lmstudio":
            providers = replace(
                settings.providers, active="lmstudio", lmstudio=settings.providers.lmstudio.over(endpoint)
            )
        case _:
            return replace(settings, llm=replace(settings.llm, endpoint=settings.llm.endpoint.over(endpoint)))
    return replace(settings, providers=providers)


async def _discovered(places: Sequence[Place]) -> Found | None:
    async with open_client() as client:
        return await discover(client, places)
