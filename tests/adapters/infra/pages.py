"""Pages as the exporters write them: what is wanted among much that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

UNKNOWN = "9223372036854775794"


def page(*metrics: tuple[str, str, str, Sequence[tuple[str, str]]]) -> str:
    """
    Args:
        metrics: name, type, help, and label text and value of each sample.
    """
    lines: list[str] = []
    for name, kind, text, samples in metrics:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{labels}}} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _card(index: int, uuid: str, **more: str) -> str:
    """The labels of a GPU as dcgm-exporter writes them under Kubernetes."""
    labels = {
        "gpu": str(index),
        "UUID": uuid,
        "pci_bus_id": f"00000000:{index + 1:02}:00.0",
        "device": f"nvidia{index}",
        "modelName": "NVIDIA A100-SXM4-80GB",
        **more,
        "Hostname": "gpu-1",
        "DCGM_FI_DRIVER_VERSION": "580.65.06",
        "container": "vllm",
        "namespace": "ai",
        "pod": "vllm-0",
    }
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


FIRST = _card(0, "GPU-5fd4b087-86f3-7a43-b711-4771313afc50")
SECOND = _card(1, "GPU-1d8f0e2c-3e1b-4b54-9a55-0c5f4a1f7b11")

DCGM = page(
    ("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", [(FIRST, "1410"), (SECOND, "210")]),
    ("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C).", [(FIRST, UNKNOWN), (SECOND, "41")]),
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", [(FIRST, "63"), (SECOND, "31")]),
    ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", [(FIRST, "287.432000"), (SECOND, "52.101000")]),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Total energy (in mJ).", [(FIRST, "15347724978")]),
    ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", [(FIRST, "87"), (SECOND, "0")]),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Memory utilization (in %).", [(FIRST, "44"), (SECOND, "0")]),
    (
        "DCGM_FI_DEV_XID_ERRORS",
        "gauge",
        "Value of the last XID error encountered.",
        [(f'{FIRST},err_code="0",err_msg="No Error"', "0"), (f'{SECOND},err_code="79",err_msg="Fallen off"', "79")],
    ),
    ("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", [(FIRST, "41200"), (SECOND, "80000")]),
    ("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", [(FIRST, "39392"), (SECOND, "1024")]),
    ("DCGM_FI_DEV_FB_RESERVED", "gauge", "Framebuffer memory reserved (in MiB).", [(FIRST, "640")]),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Double-bit errors.", [(FIRST, UNKNOWN), (SECOND, UNKNOWN)]),
)

_SLICES = [
    _card(0, "GPU-5fd4b087-86f3-7a43-b711-4771313afc50", GPU_I_PROFILE=profile, GPU_I_ID=number)
    for profile, number in (("3g.40gb", "2"), ("1g.10gb", "9"))
]
DCGM_SPLIT = page(
    ("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", [(each, "6") for each in _SLICES]),
    ("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", [(each, "100") for each in _SLICES]),
    (
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "gauge",
        "Ratio of time the graphics engine is active.",
        [(_SLICES[0], "0.250000"), (_SLICES[1], "0.000000")],
    ),
)

_NVIDIA_SMI_UUID = 'uuid="5fd4b087-86f3-7a43-b711-4771313afc50"'
NVIDIA_SMI = page(
    (
        "nvidia_smi_gpu_info",
        "gauge",
        "A metric with a constant '1' value labeled by gpu uuid, name and others.",
        [(f'compute_cap="8.9",cuda_version="13.0",index="0",name="NVIDIA L40S",serial="1",{_NVIDIA_SMI_UUID}', "1")],
    ),
    ("nvidia_smi_utilization_gpu_ratio", "gauge", "utilization.gpu [%]", [(_NVIDIA_SMI_UUID, "0.87")]),
    ("nvidia_smi_memory_used_bytes", "gauge", "memory.used [MiB]", [(_NVIDIA_SMI_UUID, "4.1305505792e+10")]),
    ("nvidia_smi_memory_total_bytes", "gauge", "memory.total [MiB]", [(_NVIDIA_SMI_UUID, "4.8305799168e+10")]),
    ("nvidia_smi_temperature_gpu", "gauge", "temperature.gpu", [(_NVIDIA_SMI_UUID, "63")]),
    ("nvidia_smi_power_draw_instant_watts", "gauge", "power.draw.instant [W]", [(_NVIDIA_SMI_UUID, "287.4")]),
    ("nvidia_smi_compute_app_used_memory_bytes", "gauge", "Of a process.", [(f'pid="7",{_NVIDIA_SMI_UUID}', "1e9")]),
    ("nvidia_smi_last_collect_success", "gauge", "Whether the most recent collection succeeded.", [("", "1")]),
).replace("{}", "")


def vllm(
    prompt: float = 50_000,
    generated: float = 12_000,
    queries: float = 1000,
    hits: float = 250,
    *,
    engine: int = 0,
    started: float = 1_772_366_400.5,
    model: str = "Qwen/Qwen2.5-14B-Instruct-AWQ",
) -> str:
    """The page of a vLLM of today."""
    who = f'engine="{engine}",model_name="{model}"'
    return page(
        (
            "python_info",
            "gauge",
            "Python platform information.",
            [('implementation="CPython",version="3.12.9"', "1.0")],
        ),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch.", [("", f"{started}")]),
        ("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", [(who, "6.0")]),
        ("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", [(who, "2.0")]),
        (
            "vllm:num_requests_waiting_by_reason",
            "gauge",
            "The same by reason.",
            [(f'{who},reason="capacity"', "2.0")],
        ),
        ("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", [(who, "0.41299")]),
        ("vllm:prefix_cache_queries_total", "counter", "Prefix cache queries.", [(who, f"{queries}")]),
        ("vllm:prefix_cache_hits_total", "counter", "Prefix cache hits.", [(who, f"{hits}")]),
        ("vllm:num_preemptions_total", "counter", "Cumulative number of preemptions.", [(who, "3.0")]),
        ("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", [(who, f"{prompt}")]),
        ("vllm:prompt_tokens_created", "gauge", "Number of prefill tokens processed.", [(who, "1.77e+09")]),
        ("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", [(who, f"{generated}")]),
        (
            "vllm:time_to_first_token_seconds",
            "histogram",
            "Time to first token in seconds.",
            [],
        ),
    ).replace("{}", "") + (
        f'vllm:time_to_first_token_seconds_bucket{{{who},le="0.1"}} 10.0\n'
        f"vllm:time_to_first_token_seconds_count{{{who}}} 40.0\n"
        f'vllm:cache_config_info{{block_size="16",cache_dtype="auto",{who}}} 1.0\n'
    )


def old_vllm(prompt: float = 1000) -> str:
    """The page of a vLLM before 0.9."""
    who = 'model_name="mistral"'
    return page(
        ("vllm:num_requests_running", "gauge", "Number of requests currently running on GPU.", [(who, "1.0")]),
        ("vllm:num_requests_swapped", "gauge", "Number of requests swapped to CPU.", [(who, "0.0")]),
        ("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", [(who, "0.0")]),
        ("vllm:gpu_cache_usage_perc", "gauge", "GPU KV-cache usage. 1 means 100 percent usage.", [(who, "0.25")]),
        ("vllm:cpu_cache_usage_perc", "gauge", "CPU KV-cache usage.", [(who, "0.0")]),
        ("vllm:gpu_prefix_cache_queries_total", "counter", "Prefix cache queries.", [(who, f"{prompt}")]),
        ("vllm:gpu_prefix_cache_hits_total", "counter", "Prefix cache hits.", [(who, f"{prompt / 4}")]),
        ("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", [(who, f"{prompt}")]),
    )


def cadvisor(cpu: Mapping[str, float], *, identity: str = "/system.slice/docker-4f1c.scope") -> str:
    """The page of a cAdvisor beside one container, whose counters of processor seconds are these."""
    who = (
        'container_label_com_docker_compose_project="ai",container_label_com_docker_compose_service="vllm",'
        f'container_label_note="braces {{}} and \\"quotes\\"",id="{identity}",image="vllm/vllm-openai:v0.12.0",'
        'name="ai-vllm-1"'
    )
    other = 'id="/docker/77",image="redis:8",name="ai-cache-1"'
    pause = 'container_label_io_kubernetes_container_name="POD",id="/kube/1",image="pause",name="k8s_POD_x"'
    root, slice_ = 'id="/",image="",name=""', 'id="/system.slice/ssh.service",image="",name=""'
    at = "1788387174142"
    return page(
        ("cadvisor_version_info", "gauge", "Of cAdvisor.", [('cadvisorVersion="v0.53.0"', "1")]),
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            [
                (f'cpu="total",{root}', f"99999 {at}"),
                (f'cpu="total",{slice_}', f"5 {at}"),
                *((f'{who},cpu="{core}"', f"{seconds} {at}") for core, seconds in cpu.items()),
                (f'cpu="total",{pause}', f"1 {at}"),
            ],
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory.",
            [(who, f"9.9e+09 {at}")],
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
            [(root, f"6.4e+10 {at}"), (who, f"9.126805504e+09 {at}"), (other, f"1.2e+07 {at}")],
        ),
        (
            "container_spec_memory_limit_bytes",
            "gauge",
            "Memory limit for the container.",
            [(root, "0"), (who, "3.4359738368e+10"), (other, "0")],
        ),
        ("container_oom_events_total", "counter", "Count of out of memory events.", [(who, f"2 {at}"), (other, "0")]),
        ("machine_cpu_cores", "gauge", "Number of logical CPU cores.", [('machine_id=""', "16")]),
    )
