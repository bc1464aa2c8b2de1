"""The doctor: what is configured, what can be reached, what is migrated. Shows no secret."""

from __future__ import annotations

from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.bootstrap import broker_trouble, pooler_trouble, provider_trouble
from app.configured import Configured
from app.keyring import Keyring
from app.migrating import revision
from app.settings import Settings
from domain.errors import StartupError, StorageUnavailable

WELL, ILL, OFF = "[green]ok[/]", "[red]trouble[/]", "[dim]not used[/]"


async def run(settings: Settings, console: Console) -> int:
    """Print the findings. Returns 0 when everything that is configured works, else 1."""
    findings = [
        await _storage(settings),
        await _pooler(settings),
        await _broker(settings),
        await _provider(settings),
        _tokens(settings),
        _configuration(settings),
    ]
    table = Table("part", "state", "what was found", title="AI Service", title_justify="left")
    for finding in findings:
        part, state, found = finding
        table.add_row(part, state, escape(found))
    console.print(table)
    console.print(_configured(settings))
    return int(any(state == ILL for _, state, _ in findings))


async def _storage(settings: Settings) -> tuple[str, str, str]:
    if settings.storage.database_url is None:
        return "PostgreSQL", OFF, f"DATABASE_URL is not set: 'up' runs an embedded one in {settings.storage.data_dir}"
    where = _place(settings.database_url)
    try:
        found, needed = await revision(settings.database_url)
    except (StorageUnavailable, StartupError) as error:
        return "PostgreSQL", ILL, f"{where}: {error}"
    if found is None or found < needed:
        return "PostgreSQL", ILL, f"{where}: at revision {found or 'none'}, needs {needed}: run 'ai-service migrate'"
    return "PostgreSQL", WELL, f"{where}: at revision {found}"


async def _pooler(settings: Settings) -> tuple[str, str, str]:
    if settings.storage.database_url is None:
        return "Past a pooler", OFF, "an embedded PostgreSQL has none"
    told = settings.storage.direct_url is not None
    where = _place(settings.database_direct_url)
    try:
        trouble = await pooler_trouble(settings)
    except StorageUnavailable as error:
        return "Past a pooler", ILL if told else OFF, f"{where}: {error}"
    if trouble:
        return "Past a pooler", ILL, f"{where}: {trouble}"
    if told:
        return "Past a pooler", WELL, f"{where}: the same database"
    return "Past a pooler", OFF, "DATABASE_DIRECT_URL is not set, and DATABASE_URL leads to no pooler"


async def _broker(settings: Settings) -> tuple[str, str, str]:
    if settings.broker.amqp_url is None:
        return "RabbitMQ", OFF, "AMQP_URL is not set: idle workers look every WORKER_POLL_INTERVAL"
    where = _place(settings.broker.amqp_url.reveal())
    trouble = await broker_trouble(settings)
    return "RabbitMQ", ILL if trouble else WELL, f"{where}: {trouble or 'reachable'}"


async def _provider(settings: Settings) -> tuple[str, str, str]:
    if settings.llm.endpoint.base_url is None:
        name = settings.providers.active or "none: 'up' then uses the practice provider, and a worker does not start"
        return "Model server", OFF, f"LLM_BASE_URL is not set; AI_PROVIDER: {name}"
    where = _place(settings.llm.endpoint.base_url)
    trouble = await provider_trouble(settings)
    return "Model server", ILL if trouble else WELL, f"{where}: {trouble or f'reachable, model {settings.llm.model}'}"


def _tokens(settings: Settings) -> tuple[str, str, str]:
    count = Keyring.of(settings.http).count
    if not count:
        return (
            "API tokens",
            OFF,
            "neither AI_SERVICE_TOKEN nor AI_SERVICE_TOKENS is set: whoever reaches the API may use it",
        )
    return "API tokens", WELL, f"{count} configured; the API asks for one"


def _configuration(settings: Settings) -> tuple[str, str, str]:
    file, policies = settings.config.file, Configured(settings).policies
    if not file.exists():
        return "Configuration file", OFF, f"AI_SERVICE_CONFIG is not set, and there is no {file}: nothing is limited"
    queues = f" ({', '.join(policies.queues)})" if policies.queues else ""
    counts = f"queues: {len(policies.queues)}{queues}, owners: {len(policies.owners)}"
    return "Configuration file", WELL, f"{file}: {counts}, task types: {len(policies.task_types)}"


def _place(url: str) -> str:
    """Hosts, ports and path of a URL: what an operator must know, without what only the server may."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2] or 'local socket'}{parts.path}"


def _configured(settings: Settings) -> Table:
    table = Table("setting", "value", title="Settings", title_justify="left")
    for section in settings.__struct_fields__:
        values = getattr(settings, section)
        for name in getattr(values, "__struct_fields__", ()):
            table.add_row(f"{section}.{name}", escape(_shown(getattr(values, name))))
    return table


def _shown(value: object) -> str:
    """A URL without the user, password and query that it may hold."""
    if isinstance(value, str) and "://" in value:
        return f"{value.partition('://')[0]}://{_place(value)}"
    return str(value)
