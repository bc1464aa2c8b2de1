"""What dcgm-exporter and nvidia_gpu_exporter tell of GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapters.infra.samples import Samples
from adapters.infra.trouble import TargetTrouble
from domain.infra import Gpu, Readings

MIB = 1 << 20

Metrics = Mapping[str, tuple[tuple[str, float], ...]]
"""By the field of a GPU: the metrics that may tell it, the best first, and by what each is multiplied."""

DCGM: Metrics = {
    "utilisation_percent": (("DCGM_FI_DEV_GPU_UTIL", 1), ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 100)),
    "memory_used_bytes": (("DCGM_FI_DEV_FB_USED", MIB),),
    "temperature_celsius": (("DCGM_FI_DEV_GPU_TEMP", 1),),
    "memory_temperature_celsius": (("DCGM_FI_DEV_MEMORY_TEMP", 1),),
    "power_watts": (("DCGM_FI_DEV_POWER_USAGE", 1),),
    "xid_error": (("DCGM_FI_DEV_XID_ERRORS", 1),),
}
DCGM_MEMORY = ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED")
"""Together they are all of it; reserved is not told by default, nor by older drivers."""
DCGM_NAMES = (*(name for names in DCGM.values() for name, _ in names), *DCGM_MEMORY[1:])

BLANKS = frozenset({2147483632 + n for n in range(4)} | {140737488355328 + n for n in range(4)})
"""What DCGM calls blank, not found, not supported and not permitted, in numbers of 32 bits and with fractions."""

NVIDIA_SMI: Metrics = {
    "utilisation_percent": (("nvidia_smi_utilization_gpu_ratio", 100),),
    "memory_used_bytes": (("nvidia_smi_memory_used_bytes", 1),),
    "memory_total_bytes": (("nvidia_smi_memory_total_bytes", 1),),
    "temperature_celsius": (("nvidia_smi_temperature_gpu", 1),),
    "memory_temperature_celsius": (("nvidia_smi_temperature_memory", 1),),
    "power_watts": (
        ("nvidia_smi_power_draw_watts", 1),
        ("nvidia_smi_power_draw_instant_watts", 1),
        ("nvidia_smi_power_draw_average_watts", 1),
    ),
}
NVIDIA_SMI_INFO = "nvidia_smi_gpu_info"
NVIDIA_SMI_WELL, NVIDIA_SMI_EXIT_CODE = "nvidia_smi_last_collect_success", "nvidia_smi_command_exit_code"
NVIDIA_SMI_NAMES = (
    *(name for names in NVIDIA_SMI.values() for name, _ in names),
    NVIDIA_SMI_INFO,
    NVIDIA_SMI_WELL,
    NVIDIA_SMI_EXIT_CODE,
)

WHOLE = frozenset({"memory_used_bytes", "memory_total_bytes", "xid_error"})
"""Figures without a fraction."""


def read_dcgm(samples: Samples) -> Readings:
    """GPUs, and parts of GPUs that were split, each once, whoever uses it."""
    told = Samples(sample for sample in samples.all if sample.value not in BLANKS)
    return Readings(gpus=_in_order(_dcgm(each) for each in told.by("gpu", "GPU_I_ID").values()))


def read_nvidia_smi(samples: Samples) -> Readings:
    """
    Raises:
        TargetTrouble: nvidia-smi failed; what the exporter still tells may be of any age.
    """
    if samples.value(NVIDIA_SMI_WELL) == 0 or samples.value(NVIDIA_SMI_EXIT_CODE):
        raise TargetTrouble("It answers, but its nvidia-smi fails.")
    cards = samples.by("uuid")
    return Readings(gpus=_in_order(_nvidia_smi(uuid, card) for (uuid,), card in cards.items() if uuid))


def _dcgm(card: Samples) -> Gpu:
    one, memory = card.all[0], [card.value(name) for name in DCGM_MEMORY]
    used, free, reserved = memory
    total = None if used is None or free is None else round((used + free + (reserved or 0)) * MIB)
    return Gpu(
        index=_number(one.label("gpu")),
        uuid=one.label("UUID", "uuid"),
        name=one.label("modelName"),
        mig_profile=one.label("GPU_I_PROFILE"),
        memory_total_bytes=total,
        **_figures(card, DCGM),
    )


def _nvidia_smi(uuid: str, card: Samples) -> Gpu:
    info = next(iter(card.of(NVIDIA_SMI_INFO)), None)
    return Gpu(
        index=_number(info.label("index")) if info else None,
        uuid=uuid[:100],
        name=info.label("name") if info else None,
        **_figures(card, NVIDIA_SMI),
    )


def _figures(card: Samples, metrics: Metrics) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for field, sources in metrics.items():
        told = [value * times for name, times in sources if (value := card.value(name)) is not None]
        if told:
            figures[field] = round(told[0]) if field in WHOLE else round(told[0], 3)
    return figures


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else None


def _in_order(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=lambda gpu: (gpu.index is None, gpu.index or 0, gpu.mig_profile or "")))
