"""The service's settings, read once from the environment.

A value that cannot be used stops the start with one line: the variable, what was given, what is expected.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from app import configfile, keyfile, plugins
from app.durations import duration, kept_for, positive_duration
from app.endpoint import HOST, Endpoint, UrlWithUser, fits_a_header, http_url
from app.secret import Secret
from app.targets import EntryUnusable, InfraTarget, parse_targets
from domain.errors import StartupError
from domain.identity import NAME
from domain.job import JobStatus
from domain.outbound import AllowedHosts, parse_allowed_hosts
from domain.policy import Kept
from domain.retry import RetryPolicy

T = TypeVar("T")

QueueType = Literal["classic", "quorum"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "pretty", "json"]
Provider = Literal["practice", "lmstudio", "ollama", "anthropic"]

KIB, MIB, GIB = 1024, 1024**2, 1024**3

SHORTEST_LEASE, LONGEST_LEASE = timedelta(seconds=5), timedelta(days=1)

A_MONTH: timedelta | None = timedelta(days=30)
A_QUARTER: timedelta | None = timedelta(days=90)


TRACES_TO = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_WITH = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
NO_TRACES = "OTEL_SDK_DISABLED"


class Http(Struct, frozen=True):
    host: str
    port: int
    token: Secret | None
    """Has all rights for all owners."""
    tokens: Path | None
    """The file of further tokens; it was in order when the settings were read."""


class Storage(Struct, frozen=True):
    database_url: Secret | None
    direct_url: Secret | None
    """Past the pooler that `database_url` leads to."""
    migrate_on_start: bool
    data_dir: Path


class Broker(Struct, frozen=True):
    amqp_url: Secret | None
    queue_type: QueueType
    management_url: Secret | None
    """Of its management API."""


class Llm(Struct, frozen=True):
    """The OpenAI-compatible server behind the profile `model`."""

    endpoint: Endpoint
    model: str
    timeout: timedelta
    """For a whole call of any chat or embedding model."""


class Providers(Struct, frozen=True):
    """Other servers of chat models, and which of them answers chats that name none."""

    active: Provider | None
    lmstudio: Endpoint
    ollama: Endpoint
    anthropic: Endpoint
    num_ctx: int | None
    """Tokens of context that Ollama is to give its model; None: as many as it does by itself."""
    discover: bool
    """Whether `up` looks for a server on this machine where none is configured."""


class Speech(Struct, frozen=True):
    """Servers of speech models."""

    whisper: Endpoint
    """OpenAI-compatible, behind the profile `whisper-large-v3`."""
    whisperx: Endpoint
    prompt: str
    """Of jobs that name none."""
    timeout: timedelta
    """For a whole call."""


class Worker(Struct, frozen=True):
    name: str
    http_host: str
    http_port: int
    poll_interval: timedelta
    claim_limit: int
    lease_timeout: timedelta
    """Of an external worker's claim that names none."""
    shutdown_grace: timedelta


class Scheduler(Struct, frozen=True):
    """What the `scheduler` command shows of itself."""

    http_host: str
    http_port: int


class Config(Struct, frozen=True):
    """The configuration file; it was in order when the settings were read."""

    file: Path
    required: bool
    """A variable names it. That of the default need not exist."""


class Limits(Struct, frozen=True):
    max_input_bytes: int
    max_result_bytes: int
    max_batch_bytes: int
    max_upload_bytes: int
    """Of an upload, and of what lies at a caller's URL."""
    max_crashes: int
    chat_timeout: timedelta
    """For a chat that names none, from its submission on."""
    circuit_threshold: int
    """Calls in a row that found no provider, after which a queue's circuit opens."""


class Outbound(Struct, frozen=True):
    allowed_hosts: AllowedHosts
    """That callers' URLs may lead to, though they are not public."""


class Retention(Struct, frozen=True):
    """How long final jobs stay, where the configuration file says nothing else of their owner. None: forever."""

    completed: timedelta | None
    failed: timedelta | None
    cancelled: timedelta | None

    @property
    def kept(self) -> Kept:
        return {
            JobStatus.COMPLETED: self.completed,
            JobStatus.FAILED: self.failed,
            JobStatus.CANCELLED: self.cancelled,
        }


class Infra(Struct, frozen=True):
    targets: tuple[InfraTarget, ...]
    """What is asked about the machines behind the model servers."""


class Logs(Struct, frozen=True):
    level: LogLevel
    format: LogFormat


class Settings(Struct, frozen=True):
    http: Http
    storage: Storage
    broker: Broker
    llm: Llm
    providers: Providers
    speech: Speech
    worker: Worker
    scheduler: Scheduler
    config: Config
    plugins: tuple[str, ...]
    """Modules that bring task types."""
    limits: Limits
    outbound: Outbound
    retry: RetryPolicy
    retention: Retention
    infra: Infra
    logs: Logs
    traces: bool
    """Whether spans are sent to a collector; where it is, OpenTelemetry reads from its own variables."""

    @property
    def database_url(self) -> str:
        """Where PostgreSQL is.

        Raises:
            StartupError: nothing was given; only `up` and `demo` may run embedded.
        """
        if self.storage.database_url is None:
            raise StartupError(
                "DATABASE_URL is not set: give the URL of a PostgreSQL, or use 'ai-service up', which brings its own."
            )
        return self.storage.database_url.reveal()

    @property
    def database_direct_url(self) -> str:
        """Where PostgreSQL is without a pooler before it, as far as is known.

        Raises:
            StartupError: no URL was given.
        """
        return self.storage.direct_url.reveal() if self.storage.direct_url else self.database_url


def from_env(environ: Mapping[str, str]) -> Settings:
    """The settings that these variables make.

    Raises:
        StartupError: a value cannot be used.
    """
    env = _Env(environ)
    settings = Settings(
        http=Http(
            host=env.get("HTTP_HOST", _text, "0.0.0.0"),  # noqa: S104  # the contract's default: it runs in a container
            port=env.get("HTTP_PORT", _port, 8080),
            token=env.get("AI_SERVICE_TOKEN", _secret, None),
            tokens=env.get(keyfile.VARIABLE, _keyfile, None),
        ),
        storage=Storage(
            database_url=env.get("DATABASE_URL", _database_url, None),
            direct_url=env.get("DATABASE_DIRECT_URL", _database_url, None),
            migrate_on_start=env.get("MIGRATE_ON_START", _boolean, True),
            data_dir=env.get("DATA_DIR", Path, Path(".ai-service")),
        ),
        broker=Broker(
            amqp_url=env.get("AMQP_URL", _amqp_url, None),
            queue_type=env.get("RABBITMQ_QUEUE_TYPE", _one_of(QueueType), "classic"),
            management_url=env.get("RABBITMQ_MANAGEMENT_URL", _management_url, None),
        ),
        llm=Llm(
            endpoint=_endpoint(env, "LLM"),
            model=env.get("LLM_MODEL", _name, "qwen2.5-14b"),
            timeout=env.get("LLM_TIMEOUT", positive_duration, timedelta(minutes=5)),
        ),
        providers=Providers(
            active=env.get("AI_PROVIDER", _one_of(Provider), None),
            lmstudio=_endpoint(env, "LMSTUDIO"),
            ollama=_endpoint(env, "OLLAMA"),
            anthropic=_endpoint(env, "ANTHROPIC"),
            num_ctx=env.get("OLLAMA_NUM_CTX", _between(1, 100_000_000), None),
            discover=env.get("PROVIDER_DISCOVERY", _boolean, True),
        ),
        speech=Speech(
            whisper=_endpoint(env, "AUDIO_TRANSCRIPTION", "AUDIO_LLM", "LLM"),
            whisperx=_endpoint(env, "WHISPERX", address="WHISPERX_URL"),
            prompt=env.get("AUDIO_TRANSCRIPTION_PROMPT", _text, ""),
            timeout=env.get("AUDIO_TRANSCRIPTION_TIMEOUT", positive_duration, timedelta(minutes=30)),
        ),
        worker=Worker(
            name=env.get("WORKER_ID", _name, socket.gethostname()),
            http_host=env.get("WORKER_HTTP_HOST", _text, "0.0.0.0"),  # noqa: S104  # as above
            http_port=env.get("WORKER_HTTP_PORT", _port, 8081),
            poll_interval=env.get("WORKER_POLL_INTERVAL", positive_duration, timedelta(seconds=2)),
            claim_limit=env.get("WORKER_CLAIM_LIMIT", _between(1, 1000), 4),
            lease_timeout=env.get("WORKER_LEASE_TIMEOUT", _lease, timedelta(minutes=15)),
            shutdown_grace=env.get("SHUTDOWN_GRACE", duration, timedelta(seconds=30)),
        ),
        scheduler=Scheduler(
            http_host=env.get("SCHEDULER_HTTP_HOST", _text, "0.0.0.0"),  # noqa: S104  # as above
            http_port=env.get("SCHEDULER_HTTP_PORT", _port, 8082),
        ),
        config=_config(env.get(configfile.VARIABLE, Path, None)),
        plugins=env.get(plugins.VARIABLE, plugins.names, ()),
        limits=Limits(
            max_input_bytes=env.get("MAX_INPUT_BYTES", _size, 1 * MIB),
            max_result_bytes=env.get("MAX_RESULT_BYTES", _size, 16 * MIB),
            max_batch_bytes=env.get("MAX_BATCH_BYTES", _size, 64 * MIB),
            max_upload_bytes=env.get("MAX_UPLOAD_BYTES", _large_size, 512 * MIB),
            max_crashes=env.get("MAX_CRASHES", _between(1, 1000), 3),
            chat_timeout=env.get("CHAT_TIMEOUT", positive_duration, timedelta(minutes=5)),
            circuit_threshold=env.get("CIRCUIT_THRESHOLD", _between(1, 1000), 5),
        ),
        outbound=Outbound(allowed_hosts=env.get("ALLOWED_HOSTS", parse_allowed_hosts, AllowedHosts())),
        retry=RetryPolicy(
            fast=env.get("RETRY_DELAY_FAST", duration, timedelta(seconds=30)),
            slow=env.get("RETRY_DELAY_SLOW", duration, timedelta(minutes=2)),
        ),
        retention=Retention(
            completed=env.get("RETENTION_COMPLETED", kept_for, A_MONTH),
            failed=env.get("RETENTION_FAILED", kept_for, A_QUARTER),
            cancelled=env.get("RETENTION_CANCELLED", kept_for, A_MONTH),
        ),
        infra=Infra(targets=env.get("INFRA_TARGETS", parse_targets, ())),
        logs=Logs(
            level=env.get("LOG_LEVEL", _one_of(LogLevel), "info"),
            format=env.get("LOG_FORMAT", _one_of(LogFormat), "auto"),
        ),
        traces=_traces(env),
    )
    if settings.broker.amqp_url and not settings.storage.database_url:
        raise StartupError(
            "AMQP_URL is set without DATABASE_URL: RabbitMQ only wakes workers, jobs live in PostgreSQL."
        )
    if settings.broker.management_url and not settings.broker.amqp_url:
        raise StartupError(
            "RABBITMQ_MANAGEMENT_URL is set without AMQP_URL: that names the virtual host whose queues are shown."
        )
    if settings.storage.direct_url and not settings.storage.database_url:
        raise StartupError(
            "DATABASE_DIRECT_URL is set without DATABASE_URL: it leads past a pooler to that same database."
        )
    return settings


class _Env:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, variable: str, parse: Callable[[str], T], default: T) -> T:
        given = self._environ.get(variable, "").strip()
        if not given:
            return default
        try:
            return parse(given)
        except EntryUnusable as error:
            raise StartupError(f"{variable}: {error}.") from None
        except _SecretUnusable as error:
            raise StartupError(f"{variable}: what was given cannot be used; expected {error}.") from None
        except ValueError as error:
            raise StartupError(f"{variable}: {given!r} cannot be used; expected {error}.") from None


class _SecretUnusable(ValueError):
    """A value that must not be repeated in an error."""


_NUMBER = re.compile(r"[0-9]{1,9}")
_SIZE = re.compile(r"([0-9]{1,12})\s*(B|KiB|MiB|GiB)?", re.IGNORECASE)
_SIZES = {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB}


def _lease(given: str) -> timedelta:
    value = duration(given)
    if not SHORTEST_LEASE <= value <= LONGEST_LEASE:
        raise ValueError("a duration from 5s to 24h")
    return value


def _size(given: str) -> int:
    return _size_to(1, given)


def _large_size(given: str) -> int:
    return _size_to(64, given)


def _size_to(most_gib: int, given: str) -> int:
    match = _SIZE.fullmatch(given)
    size = int(match[1]) * _SIZES[(match[2] or "B").lower()] if match else 0
    if not 0 < size <= most_gib * GIB:
        raise ValueError(f"a number of bytes such as 1048576 or 1MiB, at most {most_gib}GiB")
    return size


def _between(least: int, most: int) -> Callable[[str], int]:
    def parsed(given: str) -> int:
        if not _NUMBER.fullmatch(given) or not least <= int(given) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(given)

    return parsed


def _port(given: str) -> int:
    if not _NUMBER.fullmatch(given) or int(given) > 65535:
        raise ValueError("a port number, 1 to 65535 (0: any free one)")
    return int(given)


def _boolean(given: str) -> bool:
    values = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if given.lower() not in values:
        raise ValueError("true or false")
    return values[given.lower()]


def _one_of(choices: object) -> Callable[[str], Any]:
    values = get_args(choices)

    def parsed(given: str) -> Any:
        if given not in values:
            raise ValueError(f"one of: {', '.join(values)}")
        return given

    return parsed


def _text(given: str) -> str:
    return given


def _name(given: str) -> str:
    if not re.fullmatch(NAME, given):
        raise ValueError("a letter or digit, then up to 99 letters, digits or ._:/@+-")
    return given


def _secret(given: str) -> Secret:
    # It goes into a header: a line break in it would begin another one.
    if not given.isprintable():
        raise _SecretUnusable("text on one line, without control characters")
    return Secret(given)


def _api_key(given: str) -> Secret:
    if not fits_a_header(given):
        raise _SecretUnusable("ASCII text on one line, without control characters")
    return Secret(given)


def _keyfile(given: str) -> Path:
    path = Path(given)
    keyfile.read(path)
    return path


def _config(given: Path | None) -> Config:
    config = Config(file=given or configfile.DEFAULT, required=given is not None)
    configfile.read(config.file, required=config.required)
    return config


def _endpoint(env: _Env, prefix: str, *keys_of: str, address: str = "") -> Endpoint:
    """
    Args:
        keys_of: prefixes of the keys that are taken in turn where it has none of its own.
        address: the variable of its address, where that has a name of its own.
    """
    keys = [env.get(f"{each}_API_KEY", _api_key, None) for each in (prefix, *keys_of)]
    return Endpoint(
        base_url=env.get(address or f"{prefix}_BASE_URL", _http_url, None),
        api_key=next(filter(None, keys), None),
        model=env.get(f"{prefix}_MODEL", _model, None),
        ssl_verify=env.get(f"{prefix}_SSL_VERIFY", _boolean, None),
        ca_bundle=env.get(f"{prefix}_CA_BUNDLE", _file, None),
    )


def _http_url(given: str) -> str:
    try:
        return http_url(given)
    except UrlWithUser as error:
        raise _SecretUnusable(str(error)) from None


def _traces(env: _Env) -> bool:
    wanted = any(env.get(variable, _http_url, None) for variable in TRACES_TO)
    if not wanted or env.get(NO_TRACES, str.lower, "") == "true":
        return False
    for variable in TRACES_WITH:
        env.get(variable, _headers, None)
    return True


_HEADER = re.compile(r"\s*[!#-'*+.0-9A-Z^-z|~-]+\s*=[ -+\--:<-\[\]-~]*")


def _headers(given: str) -> Secret:
    """Those that OpenTelemetry can read: what it cannot, it logs."""
    if not all(_HEADER.fullmatch(each) for each in given.split(",") if each.strip()):
        raise _SecretUnusable("name=value, separated by commas, with other characters in a value percent-encoded")
    return Secret(given)


def _model(given: str) -> str:
    if not given.isprintable() or len(given) > 500:
        raise ValueError("the name of a model, on one line")
    return given


def _file(given: str) -> Path:
    path = Path(given)
    if not path.is_file():
        raise ValueError("the path of a file that is there")
    return path


def _database_url(given: str) -> Secret:
    url = _server_url(given, "postgres(ql)?", "postgresql://user:password@host:5432/database")
    _must_have_certificates(parse_qs(urlsplit(given).query))
    return url


SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def _must_have_certificates(options: Mapping[str, Sequence[str]]) -> None:
    """PostgreSQL's driver would take a file that is not there for a server that is away, and wait for it."""
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        for file in options.get(name, ()):
            if not os.access(file, os.R_OK):
                raise _SecretUnusable(f"a file that can be read as {name}; {file} is none")
    for mode in options.get("sslmode", ()):
        if mode not in SSL_MODES:
            raise _SecretUnusable(f"as sslmode one of: {', '.join(SSL_MODES)}")


def _amqp_url(given: str) -> Secret:
    return _server_url(given, "amqps?", "amqp://user:password@host:5672/vhost")


_MANAGEMENT_URL = re.compile(rf"(https?://)(?:[^@/?#\s]*@)?({HOST}(?:/[^@?#\s]*)?)")


def _management_url(given: str) -> Secret:
    match = _MANAGEMENT_URL.fullmatch(given)
    try:
        http_url(f"{match[1]}{match[2]}" if match else "")
    except ValueError:
        raise _SecretUnusable(
            "a URL such as http://user:password@host:15672, with special characters in the password percent-encoded"
        ) from None
    return Secret(given)


def _server_url(given: str, scheme: str, example: str) -> Secret:
    # Exact about where the password ends: with a bare / or @ in it, half of it would be taken for a host or a port.
    if not re.fullmatch(rf"{scheme}://(?:[^@/?#\s]*@)?{HOST}(?:,{HOST})*(?:[/?][^@#\s]*)?", given):
        raise _SecretUnusable(f"a URL such as {example}, with special characters in the password percent-encoded")
    return Secret(given)
