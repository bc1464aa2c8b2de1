"""How model servers are asked how they are: by addresses that cost nothing, with nothing of any job.

A server that is slow, that knows its callers not or its addresses otherwise, is not dead. It is where it takes no
connection, breaks one off, or says so itself at an address that is known to be that of its health.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

import httpx
import msgspec
import structlog
from msgspec import Struct

from adapters.providers import classify
from adapters.providers.client import CALL_ERRORS
from adapters.providers.gauges import read_pressure
from adapters.providers.openai_chat import models_url
from domain.adaptive import Pressure
from domain.ports import ProviderState

log = structlog.get_logger()

T = TypeVar("T")

PATIENCE = timedelta(seconds=2)
TROUBLE_KEPT = 1.0
WELL_KEPT = 0.1
"""Seconds: many runs that fail together ask once. That all is well is believed for a moment only: the call that broke
first may have been the beginning of the end, and those that break next must not count as failures of their jobs.
"""
PRESSURE_KEPT = 0.5
NO_METRICS_KEPT = 60.0
SURVEY_KEPT = 2.0
LONGEST_BODY = 1 << 20
GRACE = 0.5
"""Seconds that a look may take longer than one answer."""

MOST_MODELS, LONGEST_NAME = 50, 200
"""Of a server's list, as it is shown."""

NO_KEY: Mapping[str, str] = {}


class ServerKind(StrEnum):
    VLLM = "vllm"
    LLAMA_SERVER = "llama-server"
    OLLAMA = "ollama"
    LMSTUDIO = "lmstudio"
    ANTHROPIC = "anthropic"
    SPEACHES = "speaches"
    WHISPER_ASR = "whisper-asr"
    OPENAI = "openai"
    """Any other that speaks OpenAI's API."""


HEALTH_PATHS: Mapping[ServerKind | None, str] = {
    ServerKind.VLLM: "health",
    ServerKind.LLAMA_SERVER: "health",
    ServerKind.OLLAMA: "api/version",
    ServerKind.SPEACHES: "health",
    # whisper-asr-webservice has no address for it; this is its page of documentation.
    ServerKind.WHISPER_ASR: "docs",
}
"""Beside where the API begins; open, and asked without the key. What is not named here is asked for its models.

Never asked of a server that is not known: LiteLLM's `/health` calls its models, LM Studio answers 200 to any path.
"""

MODELS_QUERY: Mapping[ServerKind | None, Mapping[str, str]] = {ServerKind.ANTHROPIC: {"limit": "1000"}}
"""Where a list comes in pages: a page that holds it all."""

MAKERS = {"vllm": ServerKind.VLLM, "llamacpp": ServerKind.LLAMA_SERVER, "library": ServerKind.OLLAMA}
"""Whom the servers name as the owner of the models they list."""

LISTS_NOTHING = frozenset({ServerKind.WHISPER_ASR})
ANSWERS_TO_ANY_NAME = frozenset({ServerKind.LMSTUDIO, ServerKind.LLAMA_SERVER})
"""These load or keep one model, and take any name for it."""
LISTS_FOR_ANYBODY = frozenset({ServerKind.LLAMA_SERVER})
"""Their list needs no key even where their calls do."""

ANTHROPIC_VERSION = "2023-06-01"

BAD_AT_LISTING = frozenset({500, 501, 529})
"""Somebody answers, although not with a list of models; 502 and its like come from a proxy that found nobody."""


@dataclass(frozen=True, repr=False)
class Server:
    """Where the server of a profile is. Shows nothing of itself: an address may hold a key too."""

    base_url: str
    """Where its API begins: `http://host:8000/v1`, or `http://host:8000`."""
    kind: ServerKind | None = None
    """None: it is recognised by what it lists, and asked accordingly from then on."""
    api_key: str = ""
    model: str = ""
    """The model that the profile asks it for."""
    client: httpx.AsyncClient | None = None
    """One that trusts the certificates that this server is to be trusted by; None: that of all."""


class HttpHealth:
    """Asks the servers of profiles over HTTP; True for a profile that has none. Belongs to its client's event loop.

    Profiles of one server share its answers. At one moment one question of a kind is on its way to a server. One of
    unknown kind can only be recognised while it is well: who wants to know at once what ails it later asks it once at
    the start.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        servers: Mapping[str, Server],
        *,
        patience: timedelta = PATIENCE,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        patients: dict[object, _Patient] = {}
        self._now = now
        self._models = {profile: server.model for profile, server in servers.items()}
        self._patients = {
            profile: patients.setdefault(
                _identity(server), _Patient(server.client or client, server, patience, monotonic, now)
            )
            for profile, server in servers.items()
        }

    async def answers(self, model_profile: str) -> bool:
        patient = self._patients.get(model_profile)
        return patient is None or await patient.trouble.latest() is None

    async def pressure(self, model_profile: str) -> Pressure | None:
        patient = self._patients.get(model_profile)
        return await patient.pressure.latest() if patient else None

    async def status(self, model_profile: str) -> ProviderState:
        """How the server of the profile is; one without a server is well."""
        patient = self._patients.get(model_profile)
        if patient is None:
            return ProviderState(reachable=True, asked_at=self._now())
        return (await patient.survey.latest()).state(self._models[model_profile])


class _Kept(Generic[T]):
    """The latest answer to a question, for as long as it is worth keeping; who comes meanwhile waits for it."""

    def __init__(self, ask: Callable[[], Awaitable[tuple[T, float]]], monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._monotonic = monotonic
        # A lock, and no task of its own: when the one who asks is cancelled, the next in line asks anew.
        self._asking = asyncio.Lock()
        self._kept: tuple[T, float] | None = None

    async def latest(self) -> T:
        async with self._asking:
            if self._kept is None or self._monotonic() >= self._kept[1]:
                answer, seconds = await self._ask()
                self._kept = answer, self._monotonic() + seconds
            return self._kept[0]


class _Answer(Struct, frozen=True):
    status: int
    body: bytes
    """As far as it came; nothing of one that is too long."""
    whole: bool

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def trouble(self) -> str | None:
        return f"The provider answered {self.status}." if self.status >= 500 else None


class _Survey(Struct, frozen=True):
    """What a server said of itself, the same for all profiles that it serves."""

    reachable: bool
    trouble: str | None
    latency: float | None
    models: tuple[str, ...] | None
    takes_any_name: bool
    authorised: bool | None
    asked_at: datetime

    def state(self, model: str) -> ProviderState:
        unknown = self.models is None or self.takes_any_name or not model
        return ProviderState(
            reachable=self.reachable,
            trouble=self.trouble,
            latency=self.latency,
            models=None if self.models is None else tuple(name[:LONGEST_NAME] for name in self.models[:MOST_MODELS]),
            serves_model=None if unknown else _is_among(model, self.models or ()),
            authorised=self.authorised,
            asked_at=self.asked_at,
        )


class _Patient:
    """One server, and what has been learnt of it."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        server: Server,
        patience: timedelta,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self.trouble: _Kept[str | None] = _Kept(self._look, monotonic)
        """What is wrong with it; None while it can be used."""
        self.pressure: _Kept[Pressure | None] = _Kept(self._measure, monotonic)
        self.survey: _Kept[_Survey] = _Kept(self._survey, monotonic)
        self._monotonic = monotonic
        self._now = now
        self._client = client
        self._server = server
        self._patience = patience.total_seconds()
        self._models = httpx.URL(models_url(server.base_url))
        self._recognised: ServerKind | None = None
        self._name = f"{self._models.host}:{_port(self._models)}"
        self._troubled = False

    async def _look(self) -> tuple[str | None, float]:
        trouble = await self._trouble()
        if trouble and not self._troubled:
            log.warning("model server is down", server=self._name, trouble=trouble)
        if self._troubled and not trouble:
            log.info("model server is back", server=self._name)
        self._troubled = trouble is not None
        return trouble, TROUBLE_KEPT if trouble else WELL_KEPT

    async def _trouble(self) -> str | None:
        try:
            async with asyncio.timeout(self._patience):
                return await self._ask()
        except CALL_ERRORS as error:
            # What is started in its place may be of another kind.
            self._recognised = None
            return classify.broken_call(error).message
        except TimeoutError:
            return await self._connect()

    @property
    def _kind(self) -> ServerKind | None:
        return self._server.kind or self._recognised

    async def _ask(self) -> str | None:
        path = HEALTH_PATHS.get(self._kind)
        if path:
            answer = await self._get(self._beside(path))
            if answer.good or answer.status >= 500:
                return answer.trouble
            # It has no such address, or something before it lets nobody through to it.
            self._recognised = None
        return await self._ask_for_models()

    async def _ask_for_models(self) -> str | None:
        answer = await self._get(self._models, self._key)
        if self._kind is None and answer.good:
            self._recognised = await self._recognise(answer.body)
        return None if answer.status in BAD_AT_LISTING else answer.trouble

    async def _recognise(self, models: bytes) -> ServerKind | None:
        """What kind of server lists such models. Its health address is believed once it has said that all is well."""
        kind = _maker(models)
        if kind is None:
            return ServerKind.OPENAI
        with suppress(*CALL_ERRORS):
            if (await self._get(self._beside(HEALTH_PATHS[kind]))).good:
                return kind
        return None

    async def _connect(self) -> str | None:
        """Whether it takes a connection: one that does is alive, however long it lets us wait."""
        try:
            async with asyncio.timeout(self._patience):
                _, writer = await asyncio.open_connection(self._models.raw_host.decode(), _port(self._models))
        except OSError:
            return "The provider accepts no connections."
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return None

    async def _measure(self) -> tuple[Pressure | None, float]:
        try:
            async with asyncio.timeout(self._patience):
                # vLLM's is open; llama-server's is not.
                answer = await self._get(self._beside("metrics"), self._key)
        except (*CALL_ERRORS, TimeoutError):
            return None, PRESSURE_KEPT
        if not answer.whole:
            return None, PRESSURE_KEPT
        pressure = read_pressure(answer.body) if answer.good else None
        # 501 is llama-server's way to say that it was started without metrics.
        has_none = pressure is None and (answer.status < 500 or answer.status == 501)
        return pressure, NO_METRICS_KEPT if has_none else PRESSURE_KEPT

    async def _survey(self) -> tuple[_Survey, float]:
        asked_at = self._now()
        trouble, (listed, seconds) = await asyncio.gather(self._in_time(self._trouble()), self._list())
        models = _names(listed.body) if listed and listed.good and listed.whole else None
        authorised = self._authorised(listed)
        survey = _Survey(
            reachable=trouble is None,
            trouble=trouble or ("The provider refuses the key." if authorised is False else None),
            latency=seconds if listed else None,
            models=models,
            takes_any_name=self._kind in ANSWERS_TO_ANY_NAME,
            authorised=authorised,
            asked_at=asked_at,
        )
        return survey, SURVEY_KEPT

    async def _in_time(self, trouble: Awaitable[str | None]) -> str | None:
        """Nobody waits for the second half of a look that takes twice as long as one has patience."""
        try:
            async with asyncio.timeout(self._patience + GRACE):
                return await trouble
        except TimeoutError:
            return "The provider accepts no connections."

    async def _list(self) -> tuple[_Answer | None, float]:
        """What it says when it is asked for its models, or where it has none to list, for its health."""
        began = self._monotonic()
        lists = self._kind not in LISTS_NOTHING
        url = self._models.copy_merge_params(MODELS_QUERY.get(self._kind, {})) if lists else self._beside("docs")
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._get(url, self._key if lists else {})
        except (*CALL_ERRORS, TimeoutError):
            return None, 0.0
        return answer, self._monotonic() - began

    def _authorised(self, listed: _Answer | None) -> bool | None:
        if listed is None or self._kind in LISTS_NOTHING | LISTS_FOR_ANYBODY:
            return None
        if listed.status in (401, 403):
            return False
        return True if listed.good else None

    @property
    def _key(self) -> Mapping[str, str]:
        """The headers that tell who asks."""
        key = self._server.api_key
        if self._server.kind is ServerKind.ANTHROPIC:
            return {"anthropic-version": ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})}
        return {"authorization": f"Bearer {key}"} if key else {}

    async def _get(self, url: httpx.URL, key: Mapping[str, str] = NO_KEY) -> _Answer:
        """What it answers; when it is silent this does not end."""
        headers = {"accept-encoding": "identity", **key}
        async with self._client.stream("GET", url, headers=headers, timeout=None) as response:
            body = bytearray()
            try:
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > LONGEST_BODY:
                        return _Answer(response.status_code, b"", whole=True)
            except CALL_ERRORS:
                # Its status has arrived: somebody is there.
                return _Answer(response.status_code, bytes(body), whole=False)
            return _Answer(response.status_code, bytes(body), whole=True)

    def _beside(self, path: str) -> httpx.URL:
        """An address beside `/v1`, not below it."""
        above = self._models.path.removesuffix("/models").removesuffix("/v1")
        return self._models.copy_with(path=f"{above}/{path}")


def _identity(server: Server) -> object:
    return models_url(server.base_url), server.kind, server.api_key, id(server.client)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


class _Model(Struct):
    id: Any = None
    owned_by: Any = None


class _Models(Struct):
    data: list[_Model] = []


def _maker(models: bytes) -> ServerKind | None:
    """Who serves all of these models, where they say so."""
    try:
        listed = msgspec.json.decode(models, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    owners = {str(model.owned_by) for model in listed}
    return MAKERS.get(owners.pop()) if len(owners) == 1 else None


def _names(models: bytes) -> tuple[str, ...] | None:
    try:
        listed = msgspec.json.decode(models, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return tuple(model.id for model in listed if isinstance(model.id, str)) or None


def _is_among(model: str, names: tuple[str, ...]) -> bool:
    """Ollama adds `:latest` to a name without a tag; Anthropic lists a dated name for a short one."""
    bare = model.removesuffix(":latest").removesuffix("-latest")
    dated = re.compile(rf"{re.escape(bare)}-[0-9]{{8}}")
    return any(name in (model, bare, f"{bare}:latest") or dated.fullmatch(name) for name in names)
