"""The doctor: what is configured, what can be reached, what is migrated. Shows no secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import plugins
from app.bootstrap import broker_state, broker_trouble, infra_targets, pooler_trouble, provider_states
from app.configured import Configured
from app.keyring import Keyring
from app.migrating import revision
from app.profiles import ModelProfile
from app.settings import Settings
from domain.errors import StartupError, StorageUnavailable
from domain.ports import ProviderState
from domain.routing import OwnQueue
from domain.task_type import TaskType

Finding = tuple[str, str, str]
"""A part, its state, and what was found."""

WELL, ILL, OFF = "[green]ok[/]", "[red]trouble[/]", "[dim]not used[/]"


async def run(settings: Settings, console: Console) -> int:
    """Print the findings. Returns 0 when everything that is configured works, else 1."""
    findings = [
        await _storage(settings),
        await _pooler(settings),
        await _broker(settings),
        await _figures(settings),
        *await _providers(settings),
        *await _infra(settings),
        _tokens(settings),
        _configuration(settings),
        _plugins(settings),
    ]
    table = Table("part", "state", "what was found", title="AI Service", title_justify="left")
    for finding in findings:
        part, state, found = finding
        table.add_row(part, state, escape(found))
    console.print(table)
    console.print(_configured(settings))
    return int(any(state == ILL for _, state, _ in findings))


async def _storage(settings: Settings) -> Finding:
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


async def _pooler(settings: Settings) -> Finding:
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


async def _broker(settings: Settings) -> Finding:
    if settings.broker.amqp_url is None:
        return "RabbitMQ", OFF, "AMQP_URL is not set: idle workers look every WORKER_POLL_INTERVAL"
    where = _place(settings.broker.amqp_url.reveal())
    trouble = await broker_trouble(settings)
    return "RabbitMQ", ILL if trouble else WELL, f"{where}: {trouble or 'reachable'}"


async def _figures(settings: Settings) -> Finding:
    part, url = "RabbitMQ's figures", settings.broker.management_url
    if url is None:
        return part, OFF, "RABBITMQ_MANAGEMENT_URL is not set: what lies in its queues is not shown"
    state, where = await broker_state(settings), _host(url.reveal())
    if state is None or state.trouble:
        return part, ILL, f"{where}: {state.trouble if state else 'nobody is asked'}"
    short = [what for what, alarm in (("memory", state.memory_alarm), ("disk", state.disk_alarm)) if alarm]
    if short:
        return part, ILL, f"{where}: a node is short of {' and '.join(short)}: nothing can be published"
    version = f", RabbitMQ {state.version}" if state.version else ""
    down = f", nodes that are down: {state.nodes_down}" if state.nodes_down else ""
    return part, WELL, f"{where}: reachable{version}{down}"


async def _providers(settings: Settings) -> list[Finding]:
    try:
        states = await provider_states(settings)
    except StartupError as error:
        return [("Model profiles", ILL, str(error))]
    if not states:
        return [
            (
                "Model profiles",
                OFF,
                "none: 'up' then takes a server that it finds on this machine, else practises; a worker does not start",
            )
        ]
    return [(f"Profile {profile.name}", *_served(profile, state)) for profile, state in states]


def _served(profile: ModelProfile, state: ProviderState) -> tuple[str, str]:
    """How a profile's server is. Of its address no more than host and port: the rest may hold a key."""
    where = f"{profile.provider} at {_host(profile.base_url)}" if profile.base_url else str(profile.provider)
    if state.trouble:
        return ILL, f"{where}: {state.trouble}"
    if state.serves_model is False:
        return ILL, f"{where}: reachable, but it does not list the model {profile.model}"
    key = ", takes the key" if state.authorised and profile.api_key else ""
    model = f", serves {profile.model}" if state.serves_model else f", model {profile.model}"
    return WELL, f"{where}: reachable{key}{model}"


async def _infra(settings: Settings) -> list[Finding]:
    """Without their addresses: they may hold passwords, and the names are the operator's own."""
    return [
        (
            f"Target {target.name}",
            ILL if target.error else WELL,
            f"{target.kind}: {target.error or 'tells its figures'}",
        )
        for target in await infra_targets(settings)
    ]


def _tokens(settings: Settings) -> Finding:
    count = Keyring.of(settings.http).count
    if not count:
        return (
            "API tokens",
            OFF,
            "neither AI_SERVICE_TOKEN nor AI_SERVICE_TOKENS is set: whoever reaches the API may use it",
        )
    return "API tokens", WELL, f"{count} configured; the API asks for one"


def _configuration(settings: Settings) -> Finding:
    file, policies = settings.config.file, Configured(settings).policies
    if not file.exists():
        return "Configuration file", OFF, f"AI_SERVICE_CONFIG is not set, and there is no {file}: nothing is limited"
    queues = f" ({', '.join(policies.queues)})" if policies.queues else ""
    counts = f"queues: {len(policies.queues)}{queues}, owners: {len(policies.owners)}"
    return "Configuration file", WELL, f"{file}: {counts}, task types: {len(policies.task_types)}"


def _plugins(settings: Settings) -> Finding:
    if not settings.plugins:
        return "Plug-ins", OFF, "AI_SERVICE_PLUGINS is not set: the built-in task types are served"
    brought = ", ".join(f"{task_type.name} ({_needs(task_type)})" for task_type in plugins.load(settings.plugins))
    return "Plug-ins", WELL, f"{', '.join(settings.plugins)}: {brought}"


def _needs(task_type: TaskType[Any]) -> str:
    need = task_type.needs
    if isinstance(need, OwnQueue):
        return f"profile {need.profile} on {need.queue}"
    return f"any profile for {need}"


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _place(url: str) -> str:
    """Hosts, ports and path of a URL: what an operator must know, without what only the server may."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2] or 'local socket'}{parts.path}"


def _configured(settings: Settings) -> Table:
    table = Table("setting", "value", title="Settings", title_justify="left")
    for section in settings.__struct_fields__:
        for name, value in _each(section, getattr(settings, section)):
            table.add_row(name, escape(_shown(value)))
    return table


def _each(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A setting, or those of a section, however deep: each value is shown for itself, or a URL would be shown whole."""
    if not isinstance(value, Struct):
        yield name, value
        return
    for field in value.__struct_fields__:
        yield from _each(f"{name}.{field}", getattr(value, field))


def _shown(value: object) -> str:
    """A URL without the user, password and query that it may hold."""
    if isinstance(value, str) and "://" in value:
        return f"{value.partition('://')[0]}://{_place(value)}"
    return str(value)
