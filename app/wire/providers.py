"""Providers as operators see them: what is configured, and how the servers behind it are. No address, no key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from msgspec import Meta, Struct

from app.wire.fields import Moment
from domain.circuit import CircuitState
from domain.errors import ErrorCode
from domain.routing import ModelKind
from domain.usecases.providers import ProviderReport


class ProviderCircuit(Struct, kw_only=True, frozen=True):
    """Whether the profile's queue is held because its model server is sick."""

    state: CircuitState
    reason: Annotated[ErrorCode | None, Meta(description="Why it opened; null while it is closed.")]


class ProviderView(Struct, kw_only=True, frozen=True):
    """A configured model profile, and how its server is."""

    profile: str
    kind: ModelKind
    provider: Annotated[str, Meta(description="What kind of server: `vllm`, `ollama`, `anthropic` ...")]
    model: Annotated[str, Meta(description="The model that it is asked for.")]
    queue: str
    fallbacks: Annotated[list[str], Meta(description="Profiles that are asked in turn when it fails.")]
    reachable: Annotated[bool, Meta(description="Whether it can be used at all. One that is slow is reachable.")]
    serves_model: Annotated[
        bool | None,
        Meta(description="Whether it lists the model; null: its list does not tell, or was not had."),
    ]
    authorised: Annotated[bool | None, Meta(description="Whether it takes our key; null: not known.")]
    models: Annotated[
        list[str] | None, Meta(description="What it lists, 50 at most; null: nothing that could be read.")
    ]
    trouble: Annotated[str | None, Meta(description="What is wrong with it, in fixed words.")]
    latency_ms: Annotated[float | None, Meta(description="How long its answer took; null: it gave none.")]
    circuit: Annotated[ProviderCircuit | None, Meta(description="Of its queue; null while PostgreSQL is away.")]
    asked_at: Moment

    @classmethod
    def of(cls, report: ProviderReport) -> Self:
        profile, state, circuit = report.profile, report.state, report.circuit
        return cls(
            profile=profile.name,
            kind=profile.kind,
            provider=profile.provider,
            model=profile.model,
            queue=profile.queue,
            fallbacks=list(profile.fallbacks),
            reachable=state.reachable,
            serves_model=state.serves_model,
            authorised=state.authorised,
            models=None if state.models is None else list(state.models),
            trouble=state.trouble,
            latency_ms=None if state.latency is None else round(state.latency * 1000, 1),
            circuit=ProviderCircuit(state=circuit.state, reason=circuit.reason) if circuit else None,
            asked_at=state.asked_at,
        )


class ProviderList(Struct, frozen=True):
    providers: list[ProviderView]

    @classmethod
    def of(cls, reports: Iterable[ProviderReport]) -> Self:
        return cls([ProviderView.of(report) for report in reports])
