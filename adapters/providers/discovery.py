"""Looks for a model server on this machine, at the ports that such servers usually have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx
from msgspec import Struct

from adapters.providers.client import look

PATIENCE = timedelta(seconds=1)

NO_CHATS = ("embed", "bge-", "minilm", "rerank", "whisper")
"""What the names of models have in them that cannot chat."""


class Place(Struct, frozen=True):
    """Where a kind of server usually is, and how it lists its models."""

    provider: str
    base_url: str
    models: str


USUAL = (
    Place("ollama", "http://127.0.0.1:11434", "http://127.0.0.1:11434/api/tags"),
    Place("lmstudio", "http://127.0.0.1:1234/v1", "http://127.0.0.1:1234/v1/models"),
    Place("vllm", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/models"),
)


class Found(Struct, frozen=True):
    """A server that is there, and a model of it that can chat."""

    provider: str
    base_url: str
    model: str


async def discover(client: httpx.AsyncClient, places: Sequence[Place] = USUAL) -> Found | None:
    """The first of these servers that is there and has a model; None where there is none. Takes a second at most."""
    found = await asyncio.gather(*(_look(client, place) for place in places))
    return next(filter(None, found), None)


async def _look(client: httpx.AsyncClient, place: Place) -> Found | None:
    listed = await look(client, "GET", place.models, headers={}, patience=PATIENCE)
    model = next((name for name in _names(place, listed) if not any(sign in name.lower() for sign in NO_CHATS)), None)
    return Found(place.provider, place.base_url, model) if model else None


def _names(place: Place, listed: Any) -> list[str]:
    """Names of models, if this is how the server that is usual there lists them: somebody else may be at its port."""
    match listed:
        case {"models": list(models)} if place.provider == "ollama":
            names = [model.get("name") for model in models if isinstance(model, dict)]
        case {"data": list(models)} if place.provider != "ollama":
            owner = "vllm" if place.provider == "vllm" else None
            known = [model for model in models if isinstance(model, dict)]
            names = [model.get("id") for model in known if owner in (None, model.get("owned_by"))]
        case _:
            return []
    return [name for name in names if isinstance(name, str) and name]
