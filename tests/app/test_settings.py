"""Settings: what each variable is when nobody sets it, how it reads, and what is said of an unusable value."""

from __future__ import annotations

import json
import re
import socket
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.util.re import parse_env_headers

from app.bootstrap import build
from app.secret import Secret
from app.settings import from_env
from app.targets import InfraTarget
from domain.errors import StartupError
from domain.infra import TargetKind
from domain.outbound import AllowedHosts

MIB = 1024 * 1024
DAY = timedelta(days=1)

MODEL_SERVERS = ["http://gpu:8000/v1", "https://x", "http://[::1]:11434/v1/", "https://x/openai/@me?api-version=1"]

VARIABLES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("HTTP_HOST", "http.host", "0.0.0.0", {"127.0.0.1": "127.0.0.1", "::": "::"}),
    ("HTTP_PORT", "http.port", 8080, {"0": 0, "1": 1, "65535": 65535}),
    ("MIGRATE_ON_START", "storage.migrate_on_start", True, {"false": False, "No": False, "0": False, "ON": True}),
    ("DATA_DIR", "storage.data_dir", Path(".ai-service"), {"/var/lib/ai": Path("/var/lib/ai")}),
    ("RABBITMQ_QUEUE_TYPE", "broker.queue_type", "classic", {"quorum": "quorum"}),
    ("LLM_BASE_URL", "llm.endpoint.base_url", None, {url: url for url in MODEL_SERVERS}),
    ("LLM_MODEL", "llm.model", "qwen2.5-14b", {"openai/whisper-large-v3": "openai/whisper-large-v3"}),
    ("LLM_TIMEOUT", "llm.timeout", timedelta(minutes=5), {"90s": timedelta(seconds=90)}),
    ("AI_PROVIDER", "providers.active", None, {"practice": "practice", "ollama": "ollama"}),
    ("LLM_SSL_VERIFY", "llm.endpoint.ssl_verify", None, {"false": False, "true": True}),
    ("LMSTUDIO_BASE_URL", "providers.lmstudio.base_url", None, {url: url for url in MODEL_SERVERS}),
    ("OLLAMA_MODEL", "providers.ollama.model", None, {"qwen2.5:14b": "qwen2.5:14b"}),
    ("OLLAMA_NUM_CTX", "providers.num_ctx", None, {"16384": 16_384}),
    ("ANTHROPIC_MODEL", "providers.anthropic.model", None, {"claude-sonnet-4-5": "claude-sonnet-4-5"}),
    ("PROVIDER_DISCOVERY", "providers.discover", True, {"false": False}),
    ("AUDIO_TRANSCRIPTION_BASE_URL", "speech.whisper.base_url", None, {url: url for url in MODEL_SERVERS}),
    ("AUDIO_TRANSCRIPTION_PROMPT", "speech.prompt", "", {"Beeline, MegaFon.": "Beeline, MegaFon."}),
    ("AUDIO_TRANSCRIPTION_TIMEOUT", "speech.timeout", timedelta(minutes=30), {"1h": timedelta(hours=1)}),
    ("WHISPERX_URL", "speech.whisperx.base_url", None, {url: url for url in MODEL_SERVERS}),
    ("CHAT_TIMEOUT", "limits.chat_timeout", timedelta(minutes=5), {"90s": timedelta(seconds=90)}),
    ("WORKER_ID", "worker.name", socket.gethostname(), {"gpu-1": "gpu-1"}),
    ("WORKER_HTTP_HOST", "worker.http_host", "0.0.0.0", {"localhost": "localhost"}),
    ("WORKER_HTTP_PORT", "worker.http_port", 8081, {"9000": 9000}),
    ("SCHEDULER_HTTP_HOST", "scheduler.http_host", "0.0.0.0", {"127.0.0.1": "127.0.0.1"}),
    ("SCHEDULER_HTTP_PORT", "scheduler.http_port", 8082, {"9000": 9000}),
    ("WORKER_POLL_INTERVAL", "worker.poll_interval", timedelta(seconds=2), {"500ms": timedelta(milliseconds=500)}),
    ("WORKER_CLAIM_LIMIT", "worker.claim_limit", 4, {"1": 1, "64": 64, "1000": 1000}),
    ("WORKER_LEASE_TIMEOUT", "worker.lease_timeout", timedelta(minutes=15), {"5s": timedelta(seconds=5), "24h": DAY}),
    ("SHUTDOWN_GRACE", "worker.shutdown_grace", timedelta(seconds=30), {"0s": timedelta(0)}),
    ("MAX_INPUT_BYTES", "limits.max_input_bytes", MIB, {"4096": 4096, "2MiB": 2 * MIB, "64 kib": 65536}),
    ("MAX_RESULT_BYTES", "limits.max_result_bytes", 16 * MIB, {"1GiB": 1024 * MIB}),
    ("MAX_BATCH_BYTES", "limits.max_batch_bytes", 64 * MIB, {"1MiB": MIB}),
    ("MAX_UPLOAD_BYTES", "limits.max_upload_bytes", 512 * MIB, {"64GiB": 64 * 1024 * MIB, "1MiB": MIB}),
    (
        "ALLOWED_HOSTS",
        "outbound.allowed_hosts",
        AllowedHosts(),
        {"files.lan, *.internal": AllowedHosts(frozenset({"files.lan"}), (".internal",))},
    ),
    ("MAX_CRASHES", "limits.max_crashes", 3, {"1": 1}),
    ("CIRCUIT_THRESHOLD", "limits.circuit_threshold", 5, {"1": 1, "1000": 1000}),
    ("RETRY_DELAY_FAST", "retry.fast", timedelta(seconds=30), {"0s": timedelta(0), "1m": timedelta(minutes=1)}),
    ("RETRY_DELAY_SLOW", "retry.slow", timedelta(minutes=2), {"1h30m": timedelta(minutes=90)}),
    ("RETENTION_COMPLETED", "retention.completed", 30 * DAY, {"7d": 7 * DAY, "forever": None}),
    ("RETENTION_FAILED", "retention.failed", 90 * DAY, {"1h": timedelta(hours=1), "forever": None}),
    ("RETENTION_CANCELLED", "retention.cancelled", 30 * DAY, {"1d": DAY, "forever": None}),
    (
        "INFRA_TARGETS",
        "infra.targets",
        (),
        {
            "gpu-1=dcgm+http://gpu-1:9400/metrics, stt=speech+https://stt": (
                InfraTarget("gpu-1", TargetKind.DCGM, Secret("http://gpu-1:9400/metrics")),
                InfraTarget("stt", TargetKind.SPEECH, Secret("https://stt")),
            ),
            "a=vllm+http://u:p%2C@[::1]:8000?x=1,": (
                InfraTarget("a", TargetKind.VLLM, Secret("http://u:p%2C@[::1]:8000?x=1")),
            ),
        },
    ),
    ("LOG_LEVEL", "logs.level", "info", {"debug": "debug"}),
    ("LOG_FORMAT", "logs.format", "auto", {"json": "json"}),
]

SECRETS = [
    ("AI_SERVICE_TOKEN", "http.token", ["hunter2", "ü ñ"]),
    ("LLM_API_KEY", "llm.endpoint.api_key", ["sk-hunter2", "***"]),
    (
        "DATABASE_URL",
        "storage.database_url",
        [
            "postgresql://ai:hunter2@db:5432/jobs",
            "postgres://db/jobs",
            "postgresql:///jobs?host=/run/postgresql",
            "postgresql://ai:p%40%2F%3F@one:1,two:2/jobs?target_session_attrs=primary",
            "postgresql://ai@[::1]:5432/jobs",
            "postgresql://ai@%2Frun%2Fpostgresql/jobs",
        ],
    ),
]

UNUSABLE = [
    ("HTTP_PORT", "65536", "a port number"),
    ("HTTP_PORT", "-1", "a port number"),
    ("HTTP_PORT", "http", "a port number"),
    ("HTTP_PORT", "٣", "a port number"),
    ("HTTP_PORT", "9" * 5000, "a port number"),
    ("MIGRATE_ON_START", "maybe", "true or false"),
    ("RABBITMQ_QUEUE_TYPE", "stream", "one of: classic, quorum"),
    ("LLM_BASE_URL", "gpu:8000", "an http:// or https:// URL"),
    ("LLM_BASE_URL", "ftp://gpu", "an http:// or https:// URL"),
    ("LLM_BASE_URL", "http://gpu:port/v1", "an http:// or https:// URL"),
    ("LLM_BASE_URL", "http:///v1", "an http:// or https:// URL"),
    ("LLM_BASE_URL", "http://gpu:99999/v1", "a port that there can be"),
    ("LLM_BASE_URL", "http://[1]/v1", "a host and a port that there can be"),
    ("LLM_BASE_URL", "http://xn--a/v1", "a host and a port that there can be"),
    ("LLM_MODEL", "qwen 2.5", "a letter or digit"),
    ("LLM_TIMEOUT", "0s", "a duration above zero"),
    ("RETENTION_COMPLETED", "0s", "a duration above zero, or forever"),
    ("RETENTION_FAILED", "never", "a duration such as 500ms, 2s, 5m, 1h30m or 30d, or forever"),
    ("AI_PROVIDER", "Practice", "one of: practice"),
    ("WORKER_ID", "-gpu", "a letter or digit"),
    ("WORKER_POLL_INTERVAL", "2", "a duration such as"),
    ("WORKER_CLAIM_LIMIT", "0", "a whole number from 1"),
    ("WORKER_CLAIM_LIMIT", "1001", "a whole number from 1"),
    ("WORKER_CLAIM_LIMIT", "4.5", "a whole number from 1"),
    ("WORKER_LEASE_TIMEOUT", "4s", "a duration from 5s to 24h"),
    ("WORKER_LEASE_TIMEOUT", "25h", "a duration from 5s to 24h"),
    ("MAX_BATCH_BYTES", "64MB", "a number of bytes"),
    ("MAX_UPLOAD_BYTES", "65GiB", "at most 64GiB"),
    ("ALLOWED_HOSTS", "http://files.lan", "hosts, *.suffixes, addresses and networks"),
    ("ALLOWED_HOSTS", "10.1.2.3/16", "of a network no bits after the prefix are set"),
    ("MAX_CRASHES", "40000", "a whole number from 1"),
    ("CIRCUIT_THRESHOLD", "0", "a whole number from 1 to 1000"),
    ("CIRCUIT_THRESHOLD", "1001", "a whole number from 1 to 1000"),
    ("MAX_INPUT_BYTES", "0", "a number of bytes"),
    ("MAX_INPUT_BYTES", "1 MB", "a number of bytes"),
    ("MAX_RESULT_BYTES", "2GiB", "at most 1GiB"),
    ("RETRY_DELAY_SLOW", "99999999999d", "at most 3650d"),
    ("LOG_LEVEL", "INFO", "one of: debug, info"),
]

UNUSABLE_SECRETS = [
    ("DATABASE_URL", "mysql://ai:hunter2@db/jobs"),
    ("DATABASE_URL", "ai:hunter2@db/jobs"),
    ("DATABASE_URL", "postgresql://ai:hunter2/@db/jobs"),
    ("DATABASE_URL", "postgresql://ai:hunter2#@db/jobs"),
    ("DATABASE_URL", "postgresql://ai:hunter2?@db/jobs"),
    ("DATABASE_URL", "postgresql://ai:hunter2@@db/jobs"),
    ("DATABASE_URL", "postgresql://ai:hunter2@db:port/jobs"),
    ("DATABASE_URL", "postgresql://ai:hunter2@db/jobs\nx"),
    ("DATABASE_URL", "postgresql://ai:hunter2@db/jobs?sslmode=verify-full&sslrootcert=/nowhere/root.crt"),
    ("DATABASE_URL", "postgresql://ai:hunter2@db/jobs?sslmode=always"),
    ("DATABASE_DIRECT_URL", "mysql://ai:hunter2@db/jobs"),
    ("AMQP_URL", "http://ai:hunter2@rabbit"),
    ("AMQP_URL", "amqp://ai:hunter2/@rabbit"),
    ("RABBITMQ_MANAGEMENT_URL", "amqp://ai:hunter2@rabbit:15672"),
    ("RABBITMQ_MANAGEMENT_URL", "http://ai:hunter2/@rabbit:15672"),
    ("RABBITMQ_MANAGEMENT_URL", "http://ai:hunter2@@rabbit:15672"),
    ("RABBITMQ_MANAGEMENT_URL", "http://ai:hunter2@rabbit:99999"),
    ("RABBITMQ_MANAGEMENT_URL", "http://rabbit:15672?password=hunter2"),
    ("RABBITMQ_MANAGEMENT_URL", "http://rabbit:15672/hunter2@x"),
    ("LLM_BASE_URL", "ftp://ai:hunter2@gpu"),
    ("LLM_BASE_URL", "https://ai:hunter2@gpu/v1"),
    ("LLM_API_KEY", "“hunter2”"),
    ("LLM_API_KEY", "hunter2\nx"),
]


@pytest.mark.parametrize(("variable", "where", "default", "_"), VARIABLES)
def test_a_variable_that_is_not_set_has_its_default(variable: str, where: str, default: Any, _: Any):
    assert attrgetter(where)(from_env({})) == default
    assert attrgetter(where)(from_env({variable: ""})) == default
    assert attrgetter(where)(from_env({variable: "  "})) == default


@pytest.mark.parametrize(
    ("variable", "where", "given", "read"),
    [
        pytest.param(variable, where, given, read, id=f"{variable}={given}")
        for variable, where, _, values in VARIABLES
        for given, read in values.items()
    ],
)
def test_a_variable_is_read(variable: str, where: str, given: str, read: Any):
    assert attrgetter(where)(from_env({variable: f" {given} "})) == read


@pytest.mark.parametrize(
    ("variable", "where", "given"),
    [pytest.param(variable, where, given, id=given) for variable, where, values in SECRETS for given in values],
)
def test_a_secret_is_kept_and_never_shown(variable: str, where: str, given: str):
    settings = from_env({variable: given})
    assert attrgetter(where)(settings).reveal() == given
    assert "hunter2" not in f"{settings} {settings!r}"


@pytest.mark.parametrize(("variable", "where", "_"), SECRETS)
def test_a_secret_that_is_not_set_is_none(variable: str, where: str, _: Any):
    assert attrgetter(where)(from_env({variable: ""})) is None


@pytest.mark.parametrize(("variable", "given", "expected"), UNUSABLE)
def test_of_an_unusable_value_one_line_tells_variable_value_and_what_is_expected(
    variable: str, given: str, expected: str
):
    with pytest.raises(StartupError) as stopped:
        from_env({variable: given})
    line = str(stopped.value)
    assert re.fullmatch(rf"{variable}: .*expected .*", line)
    assert repr(given) in line
    assert expected in line


@pytest.mark.parametrize(("variable", "given"), UNUSABLE_SECRETS)
def test_of_an_unusable_secret_nothing_is_repeated(variable: str, given: str):
    with pytest.raises(StartupError) as stopped:
        from_env({variable: given})
    assert re.fullmatch(rf"{variable}: what was given cannot be used; expected .*", str(stopped.value))
    assert "hunter2" not in str(stopped.value)
    assert stopped.value.__cause__ is None


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [
        ("gpu-1", "entry 1", "name=kind+url"),
        ("gpu-1=dcm+http://gpu-1:9400", "entry 1 (gpu-1=dcm+...)", "one of: dcgm, nvidia_smi, cadvisor, vllm, speech"),
        ("gpu-1=dcgm", "entry 1 (gpu-1=dcgm+...)", "an http:// or https:// URL"),
        ("a=dcgm+http://a,b=dcgm+ftp://b", "entry 2 (b=dcgm+...)", "an http:// or https:// URL"),
        ("a=dcgm+http://a:port", "entry 1 (a=dcgm+...)", "an http:// or https:// URL with a host"),
        ("a=dcgm+http://a:65536", "entry 1 (a=dcgm+...)", "an http:// or https:// URL with a host"),
        ("a=dcgm+http://", "entry 1 (a=dcgm+...)", "an http:// or https:// URL with a host"),
        ("a=dcgm+http://a,a=vllm+http://b", "entry 2 (a=vllm+...)", "a name that no other entry has"),
        ("gpu 1=dcgm+http://a", "entry 1", "name=kind+url"),
        (",".join(f"n{n}=vllm+http://a" for n in range(101)), "there are 101 entries", "100 at most"),
        ("a=dcgm+http://u:hunter2,hunter2@a", "entry 1 (a=dcgm+...)", "percent-encoded"),
        ("a=dcgm+http://u:,hunter2@a", "entry 1 (a=dcgm+...)", "percent-encoded"),
        ("a=dcgm+http://u,hunter2=hunter2/@a", "entry 2", "name=kind+url"),
        ("a=dcgm+http://u:1,hunter2=hunter2+x@a", "entry 2", "name=kind+url"),
        ("a=dcgm+http://u:hunter2/@a", "entry 1 (a=dcgm+...)", "percent-encoded"),
        ("http://u:hunter2@a", "entry 1", "name=kind+url"),
        ("http://u:hunter2@a?b=dcgm", "entry 1", "name=kind+url"),
    ],
)
def test_of_an_unusable_target_one_line_tells_which_and_what_is_expected_and_no_password(
    given: str, named: str, expected: str
):
    with pytest.raises(StartupError) as stopped:
        from_env({"INFRA_TARGETS": given})
    line = str(stopped.value)
    assert line.startswith(f"INFRA_TARGETS: {named}")
    assert f"expected {expected}" in line or expected in line.partition("; expected ")[2]
    assert "hunter2" not in line
    assert "\n" not in line


def test_a_target_shows_its_name_and_kind_and_not_its_url():
    infra = from_env({"INFRA_TARGETS": "gpu-1=dcgm+http://u:hunter2@gpu-1:9400"}).infra
    assert str(infra.targets) == "(gpu-1=dcgm+***,)"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("2s", timedelta(seconds=2)),
        ("1.5s", timedelta(seconds=1.5)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("1h0m5s", timedelta(hours=1, seconds=5)),
        ("30d", timedelta(days=30)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_a_duration_is_read(given: str, read: timedelta):
    assert from_env({"LLM_TIMEOUT": given}).llm.timeout == read


@pytest.mark.parametrize(
    "given",
    [
        "5",
        "5 m",
        "m",
        "1h 30m",
        "-5s",
        "5S",
        "5min",
        "1e3s",
        ".5s",
        "5.s",
        "5,5s",
        "1h30",
        "x5s",
        "5sx",
        "inf",
        "4000d",
    ],
)
def test_what_is_no_duration_is_refused(given: str):
    with pytest.raises(StartupError, match="LLM_TIMEOUT"):
        from_env({"LLM_TIMEOUT": given})


def test_a_secret_shows_itself_in_no_form():
    secret = Secret("hunter2")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r}",
        str([secret]),
        json.dumps({"s": secret}, default=repr),
    ]
    assert "hunter2" not in "".join(shown)
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)


@pytest.mark.parametrize(
    ("name", "text"), [("t.json", '{"hunter2-token": "telephony"}'), ("t.toml", 'hunter2-token = "x"')]
)
def test_a_file_of_tokens_is_named_and_its_tokens_are_not_shown(name: str, text: str, tmp_path: Path):
    (path := tmp_path / name).write_text(text)
    settings = from_env({"AI_SERVICE_TOKENS": f" {path} "})
    assert settings.http.tokens == path
    assert "hunter2" not in f"{settings} {settings!r}"


def test_a_file_of_tokens_that_is_not_set_is_none():
    assert from_env({"AI_SERVICE_TOKENS": ""}).http.tokens is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("t.json", '{"hunter2-token": {"owner": "x", "weight": 0}}', "weight of token 1 to be a number"),
        ("t.toml", "hunter2-token = x", "valid TOML"),
        ("t.txt", "hunter2-token", "a file whose name ends in .json or .toml"),
        ("t.json", None, "a file that can be read (No such file or directory)"),
    ],
)
def test_a_file_of_tokens_that_cannot_be_used_stops_the_start_with_one_line(
    name: str, text: str | None, expected: str, tmp_path: Path
):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError) as stopped:
        from_env({"AI_SERVICE_TOKENS": str(path)})
    line = str(stopped.value)
    assert re.fullmatch(rf"AI_SERVICE_TOKENS: '{path}' cannot be used; expected {re.escape(expected)}.*\.", line)
    assert "hunter2" not in line


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_spans_are_sent_where_a_collector_is_named_and_opentelemetry_is_not_off(variable: str):
    collector = {variable: "http://collector:4318"}
    assert from_env(collector).traces
    assert not from_env({**collector, "OTEL_SDK_DISABLED": "True"}).traces
    assert not from_env({}).traces


@pytest.mark.parametrize("given", ["Authorization: Bearer hunter2", "authorization=Basic%20x, hunter2", "a=\\hunter2"])
def test_headers_that_opentelemetry_would_log_stop_the_start_instead(given: str):
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": given}
    assert not from_env(environ).traces
    with pytest.raises(StartupError) as stopped:
        from_env({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert "OTEL_EXPORTER_OTLP_HEADERS: what was given cannot be used; expected name=value" in str(stopped.value)
    assert "hunter2" not in str(stopped.value)


@pytest.mark.parametrize("given", ["Authorization=Basic%20aGk=", "x-scope=a b/c:d, api-key=1,"])
def test_headers_that_opentelemetry_can_read_are_its_own_affair(given: str):
    assert from_env({"OTEL_EXPORTER_OTLP_HEADERS": given, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}).traces
    assert len(parse_env_headers(given, liberal=True)) == len(given.strip(",").split(","))


def test_what_opentelemetry_cannot_use_stops_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-5")
    settings = from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    with pytest.raises(
        StartupError, match=r"^The OTEL_\.\.\. variables .* max_queue_size must be a positive integer\.$"
    ):
        build(settings, dsn="postgresql://nowhere")


@pytest.mark.parametrize("given", ["", "  "])
def test_without_a_name_the_configuration_file_is_the_default_one_which_need_not_exist(given: str):
    config = from_env({"AI_SERVICE_CONFIG": given}).config
    assert (config.file, config.required) == (Path("/config/ai_service_config.json"), False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"ollama": {"api_key": "hunter2"}, "queues": {"gpu.llm": {}}}'),
        ("c.toml", "ollama.api_key='hunter2'"),
    ],
)
def test_a_configuration_file_is_named_and_nothing_of_it_is_shown(name: str, text: str, tmp_path: Path):
    (path := tmp_path / name).write_text(text)
    settings = from_env({"AI_SERVICE_CONFIG": f" {path} "})
    assert (settings.config.file, settings.config.required) == (path, True)
    assert "hunter2" not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.json", '{"queues": {"gpu": {"hunter2": 4}}}', "field 1 of queues.gpu to be one of concurrency"),
        ("c.json", '{"owners": {"me": {"weight": "hunter2"}}}', "owners.me.weight to be a number"),
        ("c.toml", "provider = hunter2", "valid TOML"),
        ("c.yaml", "provider: hunter2", "a file whose name ends in .json or .toml"),
        ("c.json", None, "a file that can be read (No such file or directory)"),
    ],
)
def test_a_configuration_file_that_cannot_be_used_stops_the_start_with_one_line(
    name: str, text: str | None, expected: str, tmp_path: Path
):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError) as stopped:
        from_env({"AI_SERVICE_CONFIG": str(path)})
    line = str(stopped.value)
    assert re.fullmatch(rf"AI_SERVICE_CONFIG: '{path}' cannot be used; expected {re.escape(expected)}.*\.", line)
    assert "hunter2" not in line


def test_rabbitmq_without_postgresql_is_refused():
    with pytest.raises(StartupError, match="AMQP_URL is set without DATABASE_URL"):
        from_env({"AMQP_URL": "amqp://guest:guest@localhost"})


def test_rabbitmq_beside_postgresql_is_used():
    settings = from_env({"AMQP_URL": "amqp://guest:guest@localhost:5672/%2F", "DATABASE_URL": "postgresql://db/jobs"})
    assert settings.broker.amqp_url
    assert settings.broker.amqp_url.reveal() == "amqp://guest:guest@localhost:5672/%2F"


def test_the_management_api_is_where_the_settings_say_and_as_secret():
    urls = {
        "AMQP_URL": "amqp://mq",
        "DATABASE_URL": "postgresql://db/jobs",
        "RABBITMQ_MANAGEMENT_URL": "https://ai:hunter2@mq:15671/rabbit",
    }
    settings = from_env(urls)
    assert settings.broker.management_url
    assert settings.broker.management_url.reveal() == "https://ai:hunter2@mq:15671/rabbit"
    assert "hunter2" not in f"{settings} {settings!r}"


def test_a_management_api_without_a_broker_is_refused():
    with pytest.raises(StartupError, match="RABBITMQ_MANAGEMENT_URL is set without AMQP_URL"):
        from_env({"RABBITMQ_MANAGEMENT_URL": "http://mq:15672"})


def test_past_no_pooler_is_the_same_database():
    assert from_env({"DATABASE_URL": "postgresql://db/jobs"}).database_direct_url == "postgresql://db/jobs"


def test_past_a_pooler_is_where_the_settings_say_and_as_secret():
    urls = {"DATABASE_URL": "postgresql://pooler/jobs", "DATABASE_DIRECT_URL": "postgresql://ai:hunter2@db/jobs"}
    settings = from_env(urls)
    assert settings.database_direct_url == "postgresql://ai:hunter2@db/jobs"
    assert "hunter2" not in f"{settings} {settings!r}"


def test_past_a_pooler_without_a_pooler_is_refused():
    with pytest.raises(StartupError, match="DATABASE_DIRECT_URL is set without DATABASE_URL"):
        from_env({"DATABASE_DIRECT_URL": "postgresql://db/jobs"})


def test_where_a_database_is_needed_its_absence_is_one_line():
    with pytest.raises(StartupError, match="DATABASE_URL is not set"):
        _ = from_env({}).database_url
