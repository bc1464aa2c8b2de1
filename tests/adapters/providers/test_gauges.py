from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.providers.gauges import read_pressure
from domain.adaptive import Pressure

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="qwen2.5-14b"} 4.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="qwen2.5-14b"} 9.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="qwen2.5-14b",reason="capacity"} 9.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="qwen2.5-14b"} 1204.0
"""

LLAMA_SERVER = b"""\
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 7
"""


def test_vllm_tells_what_runs_and_what_waits():
    assert read_pressure(VLLM) == Pressure(running=4, waiting=9)


def test_llama_server_tells_what_runs_and_what_waits():
    assert read_pressure(LLAMA_SERVER) == Pressure(running=2, waiting=7)


def test_engines_are_summed():
    second = VLLM.replace(b'engine="0"', b'engine="1"')
    assert read_pressure(VLLM + second) == Pressure(running=8, waiting=18)


def test_names_may_have_lost_their_colon():
    assert read_pressure(VLLM.replace(b"vllm:", b"vllm_")) == Pressure(running=4, waiting=9)
    assert read_pressure(LLAMA_SERVER.replace(b":", b"_")) == Pressure(running=2, waiting=7)


@pytest.mark.parametrize(
    ("line", "running"),
    [
        (b"vllm:num_requests_running 1", 1),
        (b"vllm:num_requests_running\t1e2\r", 100),
        (b"vllm:num_requests_running 3 1772366400000", 3),
        (b"vllm:num_requests_running{} 3", 3),
        (b'vllm:num_requests_running{model_name="a {x} 5"} 6', 6),
        (b'vllm:num_requests_running{model_name="\\"a\\\\"} 6 # eh', 6),
        (b'vllm:num_requests_running{model_name="\xd1\x8f\xff"} 6', 6),
    ],
)
def test_a_sample_may_be_written_as(line: bytes, running: float):
    assert read_pressure(line + b"\nvllm:num_requests_waiting 0") == Pressure(running, waiting=0)


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-1", b"many", b""])
def test_what_is_no_count_of_requests_is_passed_over(value: bytes):
    odd = b'vllm:num_requests_waiting{engine="1"} ' + value
    assert read_pressure(VLLM + odd) == Pressure(running=4, waiting=9)
    assert read_pressure(b"vllm:num_requests_running 4\n" + odd) is None


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b"process_cpu_seconds_total 7",
        b'{"error": "Unexpected endpoint or method. (GET /metrics)"}',
        b"# vllm:num_requests_running 4\n# vllm:num_requests_waiting 4",
        b"my_vllm:num_requests_running 4\nmy_vllm:num_requests_waiting 4",
        b"vllm:num_requests_running 4",
        b"vllm:num_requests_waiting 4",
    ],
)
def test_where_nothing_is_told_of_both_there_is_no_pressure(metrics: bytes):
    assert read_pressure(metrics) is None


@given(st.binary())
def test_nothing_that_is_sent_for_metrics_does_harm(garbage: bytes):
    read_pressure(garbage)
    assert read_pressure(VLLM + b"\n" + garbage.replace(b"vllm", b"")) == Pressure(running=4, waiting=9)
