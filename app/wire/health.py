"""Whether the service lives and can do its work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from msgspec import Meta, Struct

from domain.access import Caller, Right
from domain.diagnosis import Component, Diagnosis, Figure, Word
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


class FindingView(Struct, frozen=True):
    """Something that is wrong."""

    about: Annotated[str, Meta(description="The queue, profile, target or component.")]
    text: str


class ComponentView(Struct, frozen=True):
    status: Word
    figures: Annotated[
        Mapping[str, Figure], Meta(description="By their names, which are always the same; null: not known now.")
    ]
    findings: Annotated[
        list[FindingView] | None,
        Meta(description="What is wrong with it; null for callers without a token that may read."),
    ]

    @classmethod
    def of(cls, component: Component, *, told_all: bool) -> Self:
        findings = [FindingView(each.about, each.text) for each in component.findings] if told_all else None
        return cls(component.status, component.figures, findings)


class ComponentsView(Struct, kw_only=True, frozen=True):
    """The parts of the service."""

    postgres: ComponentView
    broker: ComponentView
    providers: ComponentView
    queues: ComponentView
    errors: ComponentView
    throughput: ComponentView
    infra: ComponentView


class HealthDetail(Struct, frozen=True):
    """How the service fares."""

    status: Annotated[
        Word, Meta(description="`down` where PostgreSQL is; `degraded` where any other component is not `ok`.")
    ]
    components: ComponentsView

    @classmethod
    def of(cls, diagnosis: Diagnosis, caller: Caller) -> Self:
        told_all = Right.READ in caller.rights
        views = {name: ComponentView.of(each, told_all=told_all) for name, each in diagnosis.components.items()}
        return cls(diagnosis.status, ComponentsView(**views))


def _word(works: bool) -> Literal["ok", "down"]:
    return "ok" if works else "down"
