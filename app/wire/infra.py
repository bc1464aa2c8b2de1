"""What the machines behind the model servers tell. No address is shown, and null is what a source does not tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from msgspec import Meta, Struct
from msgspec.structs import asdict

from domain.infra import Container, Gpu, ModelServer, Speech, Target, TargetKind


class GpuView(Struct, kw_only=True, frozen=True):
    """A GPU, or a part of one that was split."""

    index: Annotated[int | None, Meta(description="Its number in its machine.")]
    uuid: str | None
    name: Annotated[str | None, Meta(description="Its model.")]
    mig_profile: Annotated[str | None, Meta(description="Of a part of a GPU; null: it is a whole one.")]
    utilisation_percent: Annotated[float | None, Meta(description="0 to 100.")]
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: float | None
    memory_temperature_celsius: float | None
    power_watts: float | None
    xid_error: Annotated[int | None, Meta(description="The last error that its driver reported; 0: there was none.")]

    @classmethod
    def of(cls, gpu: Gpu) -> Self:
        return cls(**asdict(gpu))


class ContainerView(Struct, kw_only=True, frozen=True):
    """A container on the machine of a cAdvisor."""

    name: str
    image: str | None
    service: Annotated[str | None, Meta(description="What Compose calls its service, or Kubernetes its container.")]
    cpu_cores: Annotated[
        float | None, Meta(description="In use; 1.0 is one core all the time. Null at the first look.")
    ]
    memory_working_set_bytes: Annotated[
        int | None, Meta(description="It is killed when this reaches its limit, whatever caches it holds besides.")
    ]
    memory_limit_bytes: Annotated[int | None, Meta(description="Null: it has none.")]
    oom_events: Annotated[int | None, Meta(description="How often something in it was killed for want of memory.")]

    @classmethod
    def of(cls, container: Container) -> Self:
        return cls(**asdict(container))


class ModelServerView(Struct, kw_only=True, frozen=True):
    """A model that a vLLM server serves."""

    model: str
    running: Annotated[float | None, Meta(description="Requests in its batches.")]
    waiting: Annotated[float | None, Meta(description="Requests that wait for room there.")]
    kv_cache_use: Annotated[float | None, Meta(description="0 to 1, of its fullest engine.")]
    prompt_tokens_per_second: Annotated[float | None, Meta(description="Null at the first look, and after a restart.")]
    generation_tokens_per_second: Annotated[float | None, Meta(description="Likewise.")]
    preemptions: Annotated[
        int | None, Meta(description="Requests set back for want of KV cache, since the server started.")
    ]
    prefix_cache_hit_rate: Annotated[
        float | None, Meta(description="0 to 1, of the tokens looked up since the last look; null: there were none.")
    ]

    @classmethod
    def of(cls, server: ModelServer) -> Self:
        return cls(**asdict(server))


class SpeechServerView(Struct, kw_only=True, frozen=True):
    """A speech server."""

    healthy: Annotated[bool, Meta(description="Whether its health address says so.")]
    latency_ms: Annotated[float, Meta(description="How long that took.")]
    running: Annotated[float | None, Meta(description="Requests that it works on; null: it has no metrics that tell.")]
    waiting: float | None

    @classmethod
    def of(cls, speech: Speech) -> Self:
        latency = round(speech.latency_seconds * 1000, 1)
        return cls(healthy=speech.healthy, latency_ms=latency, running=speech.running, waiting=speech.waiting)


class TargetView(Struct, kw_only=True, frozen=True):
    """Something of `INFRA_TARGETS`, and what it told. Of the lists, those of other kinds are empty."""

    name: str
    kind: TargetKind
    ok: Annotated[bool, Meta(description="Whether it told anything when it was asked last.")]
    age_seconds: Annotated[
        float | None, Meta(description="For how long its last good answer has been there; null: there was none yet.")
    ]
    error: Annotated[str | None, Meta(description="Why it told nothing, in fixed words.")]
    rates_over_seconds: Annotated[
        float | None, Meta(description="The time between the two looks that its rates come from; null: there are none.")
    ]
    gpus: list[GpuView]
    containers: list[ContainerView]
    model_servers: list[ModelServerView]
    speech: SpeechServerView | None

    @classmethod
    def of(cls, target: Target) -> Self:
        told = target.readings
        return cls(
            name=target.name,
            kind=target.kind,
            ok=target.ok,
            age_seconds=target.age_seconds,
            error=target.error,
            rates_over_seconds=target.rates_over_seconds,
            gpus=[GpuView.of(gpu) for gpu in told.gpus] if told else [],
            containers=[ContainerView.of(container) for container in told.containers] if told else [],
            model_servers=[ModelServerView.of(server) for server in told.model_servers] if told else [],
            speech=SpeechServerView.of(told.speech) if told and told.speech else None,
        )


class InfraView(Struct, frozen=True):
    configured: Annotated[bool, Meta(description="Whether `INFRA_TARGETS` names anything.")]
    targets: list[TargetView]

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Self:
        views = [TargetView.of(target) for target in targets]
        return cls(bool(views), views)
