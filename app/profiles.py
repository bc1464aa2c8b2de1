"""The model profiles that are served here: what variables and the configuration file make of them together.

A variable overrides the file.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from app.configfile import Configuration, ProfileEntry
from app.endpoint import PROVIDERS_OF, Endpoint, ProviderName
from app.secret import Secret
from app.settings import Settings
from domain.errors import StartupError
from domain.routing import ModelKind, OwnQueue, Profile, Routes
from domain.task_type import TaskType

LLM_QUEUE, SPEECH_QUEUE = "gpu.llm", "gpu.speech"
QUEUES = {ModelKind.CHAT: LLM_QUEUE, ModelKind.SPEECH: SPEECH_QUEUE, ModelKind.EMBEDDINGS: LLM_QUEUE}

WHISPER, WHISPERX = "whisper-large-v3", "whisperx"
WHISPER_MODEL = "openai/whisper-large-v3"

LMSTUDIO_URL = "http://host.docker.internal:1234/v1"
OLLAMA_URL = "http://localhost:11434"
ANTHROPIC_URL = "https://api.anthropic.com"

LARGEST_AUDIO = 25 << 20
"""Bytes of a file that a speech server takes where nothing is said: the limit of OpenAI, and vLLM's and others' own."""


class ModelProfile(Struct, frozen=True, kw_only=True):
    """A model profile, and how its server is called."""

    name: str
    kind: ModelKind
    provider: ProviderName
    queue: str
    base_url: str = ""
    """Empty: the provider needs none."""
    api_key: Secret | None = None
    model: str
    timeout: timedelta
    ssl_verify: bool = True
    ca_bundle: Path | None = None
    fallbacks: tuple[str, ...] = ()
    num_ctx: int | None = None
    max_tokens: int | None = None
    """Of an answer that asks for no limit, where the provider needs one."""
    max_file_bytes: int = LARGEST_AUDIO
    max_file_length: timedelta | None = None

    @property
    def key(self) -> str:
        return self.api_key.reveal() if self.api_key else ""

    @property
    def speaks_openai(self) -> bool:
        """Whether its address is that of an API like OpenAI's, whatever server it is."""
        return self.base_url.rstrip("/").endswith("/v1")

    @property
    def route(self) -> Profile:
        return Profile(self.name, self.kind, self.queue, str(self.provider), self.model, self.fallbacks)


class Served(Struct, frozen=True):
    """The profiles of an installation."""

    profiles: tuple[ModelProfile, ...] = ()
    active: str | None = None
    """That of chats that name none."""
    task_types: tuple[TaskType[Any], ...] = ()
    """Those that the installation brings itself."""

    @property
    def routes(self) -> Routes:
        brought = {task_type.name: task_type.needs for task_type in self.task_types}
        return Routes((profile.route for profile in self.profiles), self.active, brought)


class Unservable(Exception):
    """Says what is missing or wrong, and where."""


def served(settings: Settings, file: Configuration, task_types: Sequence[TaskType[Any]] = ()) -> Served:
    """
    Args:
        task_types: that the installation brings itself.

    Raises:
        StartupError: a profile cannot be served as it is described; one line for its operator.
    """
    try:
        profiles = _profiles(settings, file)
        for profile in profiles.values():
            _must_be_servable(profile, profiles)
        _must_have_names_of_their_own(task_types, profiles)
    except Unservable as error:
        raise StartupError(f"{error}.") from None
    return Served(tuple(profiles.values()), _active(settings, file, profiles), tuple(task_types))


def _profiles(settings: Settings, file: Configuration) -> dict[str, ModelProfile]:
    endpoints = _endpoints(settings, file)
    profiles = {entry.name: _of_entry(entry, settings, endpoints) for entry in file.profiles}
    for profile, told in _of_variables(settings, file, endpoints):
        known = profiles.get(profile.name)
        # The variables say where it is; the rest of what the file says of it stands.
        profiles[profile.name] = _moved(known, profile, told) if known else profile
    return _with_stand_ins(profiles, settings, file, endpoints)


def _moved(known: ModelProfile, to: ModelProfile, told: Endpoint) -> ModelProfile:
    if known.kind is not to.kind:
        return to
    return replace(
        known,
        provider=known.provider if known.provider in SPEAK_OPENAI and to.provider in SPEAK_OPENAI else to.provider,
        base_url=to.base_url,
        api_key=to.api_key or known.api_key,
        model=to.model,
        ssl_verify=known.ssl_verify if told.ssl_verify is None else to.ssl_verify,
        ca_bundle=to.ca_bundle or known.ca_bundle,
    )


SPEAK_OPENAI = (
    ProviderName.OPENAI,
    ProviderName.VLLM,
    ProviderName.LLAMA_SERVER,
    ProviderName.SPEACHES,
    ProviderName.FASTER_WHISPER,
)


def _endpoints(settings: Settings, file: Configuration) -> dict[ProviderName, Endpoint]:
    """What is known of the providers that have a section of their own."""
    told = settings.providers
    usual = {
        ProviderName.LMSTUDIO: (told.lmstudio, Endpoint(base_url=LMSTUDIO_URL)),
        ProviderName.OLLAMA: (told.ollama, Endpoint(base_url=OLLAMA_URL)),
        ProviderName.ANTHROPIC: (told.anthropic, Endpoint(base_url=ANTHROPIC_URL)),
    }
    return {
        name: variables.over(file.endpoints.get(name, Endpoint()).over(default))
        for name, (variables, default) in usual.items()
    }


def _of_entry(entry: ProfileEntry, settings: Settings, endpoints: Mapping[ProviderName, Endpoint]) -> ModelProfile:
    kind = entry.kind
    if entry.provider not in PROVIDERS_OF[kind]:
        known = ", ".join(PROVIDERS_OF[kind])
        raise Unservable(f"AI_SERVICE_CONFIG: profiles.{entry.name}.provider cannot be used; expected one of {known}")
    endpoint = entry.endpoint.over(endpoints.get(entry.provider, Endpoint()))
    profile = _profile(entry.name, kind, entry.provider, endpoint, settings, model=endpoint.model or entry.name)
    return replace(
        profile,
        queue=entry.queue or profile.queue,
        timeout=entry.timeout or profile.timeout,
        fallbacks=entry.fallbacks,
        num_ctx=entry.num_ctx or profile.num_ctx,
        max_tokens=entry.max_tokens,
        max_file_bytes=entry.max_file_bytes or profile.max_file_bytes,
        max_file_length=entry.max_file_length,
    )


def _of_variables(
    settings: Settings, file: Configuration, endpoints: Mapping[ProviderName, Endpoint]
) -> Iterator[tuple[ModelProfile, Endpoint]]:
    """The profiles that have an address of their own, and what the variables say of each."""
    name = _active_provider(settings, file)
    if name and (name is ProviderName.PRACTICE or name not in {entry.name for entry in file.profiles}):
        yield _of_provider(name, str(name), endpoints, settings), Endpoint()
    if settings.llm.endpoint.base_url:
        llm = settings.llm
        model = llm.endpoint.model or llm.model
        profile = _profile(llm.model, ModelKind.CHAT, ProviderName.OPENAI, llm.endpoint, settings, model=model)
        yield profile, llm.endpoint
    speech = settings.speech
    if speech.whisper.base_url:
        model = speech.whisper.model or WHISPER_MODEL
        profile = _profile(WHISPER, ModelKind.SPEECH, ProviderName.OPENAI, speech.whisper, settings, model=model)
        yield profile, speech.whisper
    if speech.whisperx.base_url:
        model = speech.whisperx.model or speech.whisper.model or WHISPER_MODEL
        profile = _profile(WHISPERX, ModelKind.SPEECH, ProviderName.WHISPER_ASR, speech.whisperx, settings, model=model)
        yield replace(profile, provider=ProviderName.OPENAI) if profile.speaks_openai else profile, speech.whisperx


def _with_stand_ins(
    profiles: dict[str, ModelProfile],
    settings: Settings,
    file: Configuration,
    endpoints: Mapping[ProviderName, Endpoint],
) -> dict[str, ModelProfile]:
    """With the usual profiles that have no server of their own, where the active provider can serve them."""
    active = _active_provider(settings, file)
    if active and settings.llm.model not in profiles:
        profiles[settings.llm.model] = _of_provider(active, settings.llm.model, endpoints, settings)
    if active is ProviderName.PRACTICE and WHISPER not in profiles:
        profiles[WHISPER] = _profile(WHISPER, ModelKind.SPEECH, active, Endpoint(), settings, model=str(active))
    return profiles


def _of_provider(
    provider: ProviderName, name: str, endpoints: Mapping[ProviderName, Endpoint], settings: Settings
) -> ModelProfile:
    endpoint = endpoints.get(provider, Endpoint(model=str(provider)))
    if not endpoint.model:
        variable = provider.upper()
        raise Unservable(f"{variable}_MODEL is not set: AI_PROVIDER={provider} needs the name of a model")
    return _profile(name, ModelKind.CHAT, provider, endpoint, settings, model=endpoint.model)


def _profile(
    name: str, kind: ModelKind, provider: ProviderName, endpoint: Endpoint, settings: Settings, *, model: str
) -> ModelProfile:
    return ModelProfile(
        name=name,
        kind=kind,
        provider=provider,
        queue=QUEUES[kind],
        base_url=endpoint.base_url or "",
        api_key=endpoint.api_key,
        model=model,
        timeout=settings.speech.timeout if kind is ModelKind.SPEECH else settings.llm.timeout,
        ssl_verify=endpoint.ssl_verify is not False,
        ca_bundle=endpoint.ca_bundle,
        num_ctx=settings.providers.num_ctx if provider is ProviderName.OLLAMA else None,
    )


def _active_provider(settings: Settings, file: Configuration) -> ProviderName | None:
    return ProviderName(settings.providers.active) if settings.providers.active else file.active


def _active(settings: Settings, file: Configuration, profiles: Mapping[str, ModelProfile]) -> str | None:
    chats = [profile.name for profile in profiles.values() if profile.kind is ModelKind.CHAT]
    wanted = (str(_active_provider(settings, file)), settings.llm.model, *chats)
    return next((name for name in wanted if name in chats), None)


def _must_be_servable(profile: ModelProfile, profiles: Mapping[str, ModelProfile]) -> None:
    where = f"the profile {profile.name}"
    if not profile.base_url and profile.provider is not ProviderName.PRACTICE:
        raise Unservable(f"{where} has no base_url: say where its server is")
    if profile.provider is ProviderName.ANTHROPIC and profile.api_key is None:
        raise Unservable(f"{where} has no key: set ANTHROPIC_API_KEY")
    if profile.ca_bundle is not None:
        _must_be_bundle(profile.ca_bundle, where)
    for name in profile.fallbacks:
        other = profiles.get(name)
        if other is None or other.kind is not profile.kind or name == profile.name:
            raise Unservable(
                f"AI_SERVICE_CONFIG: profiles.{profile.name}.fallbacks cannot be used; expected names of other "
                f"profiles for {profile.kind} that are served here"
            )


def _must_have_names_of_their_own(task_types: Sequence[TaskType[Any]], profiles: Mapping[str, ModelProfile]) -> None:
    for task_type in task_types:
        need = task_type.needs
        if isinstance(need, OwnQueue) and need.profile in profiles:
            raise Unservable(f"AI_SERVICE_PLUGINS: {task_type.name} has the profile {need.profile}, which is a model's")


def _must_be_bundle(path: Path, where: str) -> None:
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError):
        raise Unservable(f"{where} has a ca_bundle that cannot be used: expected certificates in PEM") from None


def changed(before: Sequence[ModelProfile], after: Sequence[ModelProfile]) -> list[str]:
    """The names of the profiles that differ."""
    old, new = ({profile.name: profile for profile in each} for each in (before, after))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
