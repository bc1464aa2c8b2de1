"""Whether the service lives and can do its work."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from domain.routing import Profile
from domain.usecases.report import Readiness


class Liveness(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ActiveProvider(Struct, frozen=True):
    """Who serves a chat that names no model. All but `configured` is null where nobody does."""

    name: Annotated[str | None, Meta(description="The model profile.")]
    model: str | None
    configured: bool
    kind: Annotated[str | None, Meta(description="What kind of server: `vllm`, `ollama`, `anthropic` ...")] = None

    @classmethod
    def of(cls, profile: Profile | None) -> ActiveProvider:
        if profile is None:
            return cls(None, None, configured=False)
        return cls(profile.name, profile.model or None, configured=True, kind=profile.provider or None)


class Components(Struct, frozen=True):
    postgres: Literal["ok", "down"]
    broker: Literal["ok", "down"]


class ReadinessView(Struct, frozen=True):
    """Without PostgreSQL, or about to stop, the service is down; without its broker it is only slower."""

    status: Literal["ok", "degraded", "down"]
    components: Components

    @classmethod
    def of(cls, readiness: Readiness, *, leaving: bool) -> ReadinessView:
        components = Components(_word(readiness.storage), _word(readiness.broker))
        if leaving or not readiness.storage:
            return cls("down", components)
        return cls("ok" if readiness.broker else "degraded", components)

    @property
    def status_code(self) -> int:
        return 503 if self.status == "down" else 200


def _word(works: bool) -> Literal["ok", "down"]:
    return "ok" if works else "down"
