"""What the machines behind the model servers tell of themselves: GPUs, containers, model servers, speech servers.

None stands for what its source does not tell; a figure of 0 is one that was told.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class TargetKind(StrEnum):
    """Who answers at a target, and so how its answer reads."""

    DCGM = "dcgm"
    """NVIDIA's dcgm-exporter: GPUs."""
    NVIDIA_SMI = "nvidia_smi"
    """nvidia_gpu_exporter: GPUs, where there is no dcgm-exporter."""
    CADVISOR = "cadvisor"
    """Containers."""
    VLLM = "vllm"
    """The metrics of a vLLM server."""
    SPEECH = "speech"
    """The health address of a speech server."""


class Gpu(Struct, frozen=True, kw_only=True):
    index: int | None = None
    """Its number in its machine."""
    uuid: str | None = None
    name: str | None = None
    """Its model: `NVIDIA A100-SXM4-80GB`."""
    mig_profile: str | None = None
    """Of a part of a GPU that was split: `3g.20gb`; None: it is a whole one."""
    utilisation_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    power_watts: float | None = None
    xid_error: int | None = None
    """The number of the last error that its driver reported; 0: there was none."""


class Container(Struct, frozen=True, kw_only=True):
    name: str
    image: str | None = None
    service: str | None = None
    """What Compose calls its service, or Kubernetes its container."""
    cpu_cores: float | None = None
    """In use, over the time between the last two looks: 1.0 is one core all the time. None: there was one look only."""
    memory_working_set_bytes: int | None = None
    """What the kernel cannot take back at once: it is killed when this reaches the limit."""
    memory_limit_bytes: int | None = None
    """None: it has none."""
    oom_events: int | None = None
    """How often it was killed, or one of its processes, for want of memory."""


class ModelServer(Struct, frozen=True, kw_only=True):
    """A model that a server serves; its engines are summed up. Rates are those between the last two looks."""

    model: str
    running: float | None = None
    """Requests in its batches."""
    waiting: float | None = None
    """Requests that wait for room there."""
    kv_cache_use: float | None = None
    """0 to 1, of its fullest engine."""
    prompt_tokens_per_second: float | None = None
    generation_tokens_per_second: float | None = None
    preemptions: int | None = None
    """Requests that were set back for want of KV cache since the server started: growing, it has too many at once."""
    prefix_cache_hit_rate: float | None = None
    """0 to 1, of the tokens that were looked up there between the last two looks; None: none were."""


class Speech(Struct, frozen=True, kw_only=True):
    healthy: bool
    """Whether its health address says that all is well."""
    latency_seconds: float
    """How long that answer took."""
    running: float | None = None
    """Requests that it works on; None: it has no metrics that tell."""
    waiting: float | None = None


class Readings(Struct, frozen=True, kw_only=True):
    """What one target told; a tuple is empty where it is of another kind."""

    gpus: tuple[Gpu, ...] = ()
    containers: tuple[Container, ...] = ()
    model_servers: tuple[ModelServer, ...] = ()
    speech: Speech | None = None


class Target(Struct, frozen=True, kw_only=True):
    """Something that is asked, and what it told when it was asked last."""

    name: str
    kind: TargetKind
    error: str | None = None
    """Why it told nothing, in our words, which name no address."""
    age_seconds: float | None = None
    """For how long its last good answer has been there; None: there was none yet."""
    rates_over_seconds: float | None = None
    """The time between the looks that its rates were made of; None: there was one look only, or the last is too old."""
    readings: Readings | None = None
    """None: it told nothing when it was asked last."""

    @property
    def ok(self) -> bool:
        return self.error is None
