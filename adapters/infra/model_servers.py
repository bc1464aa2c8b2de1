"""What vLLM tells of the models that it serves, under the names of today and those of older versions."""

from __future__ import annotations

from adapters.infra.samples import Samples
from domain.infra import ModelServer, Readings

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
KV_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
PROMPT, GENERATION = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
PREEMPTIONS = "vllm:num_preemptions_total"
QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
STARTED = "process_start_time_seconds"
NAMES = (RUNNING, WAITING, *KV_CACHE, PROMPT, GENERATION, PREEMPTIONS, *QUERIES, *HITS)

MOST = 100


def read_model_servers(samples: Samples, before: Samples | None, seconds: float | None) -> Readings:
    """Each model, its engines summed up."""
    earlier = {} if before is None or _restarted(samples, before) else before.by("model_name")
    told = Samples(sample for sample in samples.all if sample.name != STARTED)
    found = [_model(key[0], model, earlier.get(key), seconds) for key, model in told.by("model_name").items()]
    return Readings(model_servers=tuple(sorted(found, key=lambda each: each.model)[:MOST]))


def load(samples: Samples) -> tuple[float | None, float | None]:
    """Requests that run and that wait, of all models."""
    return samples.sum(RUNNING), samples.sum(WAITING)


def _model(name: str, told: Samples, before: Samples | None, seconds: float | None) -> ModelServer:
    running, waiting = load(told)
    preemptions = told.sum(PREEMPTIONS)
    return ModelServer(
        model=name[:200],
        running=running,
        waiting=waiting,
        kv_cache_use=max((round(sample.value, 4) for sample in told.of(*KV_CACHE)), default=None),
        prompt_tokens_per_second=_rate(told, before, seconds, PROMPT),
        generation_tokens_per_second=_rate(told, before, seconds, GENERATION),
        preemptions=None if preemptions is None else round(preemptions),
        prefix_cache_hit_rate=_hit_rate(told, before),
    )


def _rate(told: Samples, before: Samples | None, seconds: float | None, name: str) -> float | None:
    grown = told.increase(before, name) if before else None
    return round(grown / seconds, 2) if grown is not None and seconds else None


def _hit_rate(told: Samples, before: Samples | None) -> float | None:
    if before is None:
        return None
    queries, hits = told.increase(before, *QUERIES), told.increase(before, *HITS)
    return round(min(hits / queries, 1.0), 4) if queries and hits is not None else None


def _restarted(samples: Samples, before: Samples) -> bool:
    """A server that has counted further than before meanwhile shows that it began anew by this alone."""
    return samples.value(STARTED) != before.value(STARTED)
