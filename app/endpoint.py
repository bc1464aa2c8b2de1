"""Where a model server is and how it is spoken to: what variables and the configuration file say of one."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Self

import httpx
from msgspec import Struct
from msgspec.structs import asdict

from app.secret import Secret
from domain.routing import ModelKind

HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^:,@/?#\s\[\]]*)(?::[0-9]{1,5})?"


class ProviderName(StrEnum):
    """What kind of server, or cloud."""

    PRACTICE = "practice"
    OPENAI = "openai"
    """OpenAI, and whatever speaks its API and is not named here."""
    VLLM = "vllm"
    LLAMA_SERVER = "llama-server"
    LMSTUDIO = "lmstudio"
    OLLAMA = "ollama"
    ANTHROPIC = "anthropic"
    SPEACHES = "speaches"
    FASTER_WHISPER = "faster-whisper"
    WHISPER_ASR = "whisper-asr"


_P = ProviderName

PROVIDERS_OF: dict[ModelKind, tuple[ProviderName, ...]] = {
    ModelKind.CHAT: (_P.PRACTICE, _P.OPENAI, _P.VLLM, _P.LLAMA_SERVER, _P.LMSTUDIO, _P.OLLAMA, _P.ANTHROPIC),
    ModelKind.SPEECH: (_P.PRACTICE, _P.OPENAI, _P.VLLM, _P.SPEACHES, _P.FASTER_WHISPER, _P.WHISPER_ASR),
    ModelKind.EMBEDDINGS: (_P.PRACTICE, _P.OPENAI, _P.VLLM, _P.LLAMA_SERVER, _P.LMSTUDIO, _P.OLLAMA),
}
"""Which of them can serve a profile of a kind."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """Of one server; None: nothing is said of that."""

    base_url: str | None = None
    api_key: Secret | None = None
    model: str | None = None
    ssl_verify: bool | None = None
    """Whether its certificate must be good."""
    ca_bundle: Path | None = None
    """The authorities that its certificate may come from, in PEM; None: those of the system."""

    def over(self, other: Endpoint) -> Self:
        """What this says, and where it says nothing, what the other says."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return type(self)(**{**asdict(other), **said})


def fits_a_header(key: str) -> bool:
    """A line break would begin another header, and the HTTP client takes nothing but ASCII."""
    return key.isascii() and key.isprintable()


class UrlWithUser(ValueError):
    """It holds a password, and must not be repeated in an error."""


def http_url(given: str) -> str:
    """
    Raises:
        ValueError: it is no address that a provider can be at; says what was expected.
    """
    # Without a user: the HTTP client refuses one in every call.
    if not re.fullmatch(rf"https?://(?=[^:/?#]){HOST}(?:[/?#]\S*)?", given):
        unusable = UrlWithUser if "@" in given else ValueError
        raise unusable("an http:// or https:// URL without user and password; a key has a setting of its own")
    if not _can_be_called(given):
        raise ValueError("an http:// or https:// URL with a host and a port that there can be")
    return given


def _can_be_called(given: str) -> bool:
    """Whether the HTTP client would not refuse it in every call, or fail over it."""
    try:
        url = httpx.URL(given)
        return bool(url.host) and (url.port is None or 0 < url.port < 1 << 16)
    except (httpx.InvalidURL, ValueError):
        return False
