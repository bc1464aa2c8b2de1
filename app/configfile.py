"""The configuration file: JSON or TOML, how an installation shares its GPUs, and which models it serves.

Keys of providers stand in it, so what is said of a file that cannot be used names places in it and never a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from app.datafile import Missing, Unusable, document
from app.durations import kept_for, positive_duration
from app.endpoint import Endpoint, ProviderName, fits_a_header, http_url
from app.secret import Secret
from domain.errors import StartupError
from domain.identity import NAME
from domain.job import JobStatus
from domain.policy import LARGEST_SHARE, Kept, OwnerPolicy, Policies, QueuePolicy, TaskPolicy
from domain.retention import FINAL
from domain.routing import ModelKind

VARIABLE = "AI_SERVICE_CONFIG"
DEFAULT = Path("/config/ai_service_config.json")

P = TypeVar("P")

SHARING = ("queues", "owners", "task_types")
SECTIONS = {"lmstudio": ProviderName.LMSTUDIO, "ollama": ProviderName.OLLAMA, "anthropic": ProviderName.ANTHROPIC}
ACTIVE = (ProviderName.PRACTICE, *SECTIONS.values())
PARTS = (*SHARING, "profiles", "provider", *SECTIONS)

MOST_SLOTS, MOST_JOBS = 10_000, 1_000_000_000
MOST_TOKENS, MOST_BYTES = 100_000_000, 1 << 30


class ProfileEntry(Struct, frozen=True, kw_only=True):
    """A model profile as the file describes it; None: it does not say."""

    name: str
    kind: ModelKind = ModelKind.CHAT
    provider: ProviderName = ProviderName.OPENAI
    endpoint: Endpoint = Endpoint()
    queue: str | None = None
    timeout: timedelta | None = None
    fallbacks: tuple[str, ...] = ()
    num_ctx: int | None = None
    max_tokens: int | None = None
    max_file_bytes: int | None = None
    max_file_length: timedelta | None = None


class Configuration(Struct, frozen=True):
    """What the file says."""

    policies: Policies = Policies()
    active: ProviderName | None = None
    """The provider of chats that name none."""
    endpoints: Mapping[ProviderName, Endpoint] = {}
    profiles: tuple[ProfileEntry, ...] = ()


def read(path: Path, *, required: bool = True) -> Configuration:
    """What the file says.

    Args:
        path: of the file.
        required: whether there must be one; where there need not, none says nothing.

    Raises:
        StartupError: it cannot be read or used; one line for its operator, which holds no value of the file.
    """
    try:
        return _configuration(document(path))
    except Unusable as error:
        if isinstance(error, Missing) and not required:
            return Configuration()
        raise StartupError(f"{VARIABLE}: {str(path)!r} cannot be used; expected {error}.") from None


Field = Callable[[Any], Any]
"""What a value means; raises ValueError, which says what was expected."""


def _whole(most: int) -> Field:
    def parsed(given: Any) -> int:
        if type(given) is not int or not 1 <= given <= most:
            raise ValueError(f"a whole number from 1 to {most}")
        return given

    return parsed


def _number(least: float, most: float) -> Field:
    def parsed(given: Any) -> float:
        if type(given) not in (int, float) or not least <= given <= most:
            raise ValueError(f"a number from {least} to {most}")
        return float(given)

    return parsed


def _boolean(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError("true or false")
    return given


def _duration(given: Any) -> timedelta:
    if not isinstance(given, str):
        raise ValueError('a duration in quotes, such as "30s", "5m" or "1h30m"')
    return positive_duration(given)


RETENTION = 'a table of any of completed, failed, cancelled, each a duration in quotes such as "30d", or "forever"'


def _retention(given: Any) -> Kept:
    if not isinstance(given, Mapping) or not given.keys() <= {*FINAL}:
        raise ValueError(RETENTION)
    try:
        return {JobStatus(name): kept_for(value) for name, value in given.items() if value is not None}
    except (TypeError, ValueError):
        raise ValueError(RETENTION) from None


QUEUE: Mapping[str, Field] = {
    "concurrency": _whole(MOST_SLOTS),
    "preempt": _boolean,
    "reserved_share": _number(0, LARGEST_SHARE),
    "ageing": _duration,
    "adaptive": _boolean,
}
OWNER: Mapping[str, Field] = {
    "weight": _number(0.001, 1_000_000),
    "max_pending": _whole(MOST_JOBS),
    "max_running": _whole(MOST_JOBS),
    "retention": _retention,
}
TASK: Mapping[str, Field] = {"max_run_time": _duration}


def _text(most: int) -> Field:
    def parsed(given: Any) -> str:
        if not isinstance(given, str) or not given.isprintable() or not 0 < len(given) <= most:
            raise ValueError(f"text on one line, of at most {most} characters")
        return given

    return parsed


def _named(given: Any) -> str:
    if not isinstance(given, str) or not re.fullmatch(NAME, given) or "/" in given:
        raise ValueError("a letter or digit, then up to 99 letters, digits or ._:@+-")
    return given


def _names(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ValueError("a list of names of profiles")
    return tuple(given)


def _url(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError("an http:// or https:// URL")
    return http_url(given)


def _key(given: Any) -> Secret:
    if not fits_a_header(text := _text(10_000)(given)):
        raise ValueError("ASCII text")
    return Secret(text)


def _key_of_variable(given: Any) -> Secret:
    value = os.environ.get(given, "").strip() if isinstance(given, str) else ""
    if not value or not fits_a_header(value):
        raise ValueError("the name of an environment variable that holds a key, in ASCII")
    return Secret(value)


def _choice(choices: Collection[str]) -> Field:
    def parsed(given: Any) -> str:
        if given not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(given)

    return parsed


ENDPOINT: Mapping[str, Field] = {
    "base_url": _url,
    "api_key": _key,
    "api_key_env": _key_of_variable,
    "model": _text(500),
    "ssl_verify": _boolean,
    "ca_bundle": lambda given: Path(_text(4_000)(given)),
}
PROFILE: Mapping[str, Field] = {
    "kind": lambda given: ModelKind(_choice(tuple(ModelKind))(given)),
    "provider": lambda given: ProviderName(_choice(tuple(ProviderName))(given)),
    **ENDPOINT,
    "queue": _named,
    "timeout": _duration,
    "fallbacks": _names,
    "num_ctx": _whole(MOST_TOKENS),
    "max_tokens": _whole(MOST_TOKENS),
    "max_file_bytes": _whole(MOST_BYTES),
    "max_file_length": _duration,
}


def _configuration(given: Any) -> Configuration:
    if not isinstance(given, Mapping):
        raise Unusable(f"a table of any of {', '.join(PARTS)}")
    for place, key in enumerate(given, start=1):
        if key not in PARTS:
            raise Unusable(f"{_shown(key) or f'key {place}'} to be {_one_of(PARTS, key)}")
    return Configuration(
        policies=Policies(
            queues=_entries(given, "queues", QUEUE, QueuePolicy),
            owners=_entries(given, "owners", OWNER, OwnerPolicy),
            task_types=_entries(given, "task_types", TASK, TaskPolicy),
        ),
        active=_active(given.get("provider")),
        endpoints={
            provider: _endpoint(_fields(given[section], section, ENDPOINT))
            for section, provider in SECTIONS.items()
            if given.get(section) is not None
        },
        profiles=_profiles(given.get("profiles", {})),
    )


def _active(given: Any) -> ProviderName | None:
    if given is None:
        return None
    if given not in ACTIVE:
        raise Unusable(f"provider to be one of {', '.join(ACTIVE)}")
    return ProviderName(given)


def _profiles(given: Any) -> tuple[ProfileEntry, ...]:
    """A table by name, or a list of tables with a `name` each."""
    if isinstance(given, list):
        given = _by_name(given)
    entries: dict[str, dict[str, Any]] = _entries({"profiles": given}, "profiles", PROFILE, dict)
    return tuple(_profile(name, fields) for name, fields in entries.items())


def _by_name(given: list[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for place, entry in enumerate(given, start=1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name in named:
            raise Unusable(f"entry {place} of profiles to be a table with a name that no other has")
        named[name] = {key: value for key, value in entry.items() if key != "name"}
    return named


def _profile(name: str, fields: dict[str, Any]) -> ProfileEntry:
    endpoint = {field: fields.pop(field) for field in ENDPOINT if field in fields}
    return ProfileEntry(name=name, endpoint=_endpoint(endpoint), **fields)


def _endpoint(fields: dict[str, Any]) -> Endpoint:
    of_variable = fields.pop("api_key_env", None)
    return Endpoint(**{"api_key": of_variable, **fields})


def _entries(
    document: Mapping[str, Any], part: str, fields: Mapping[str, Field], policy: Callable[..., P]
) -> dict[str, P]:
    given = document.get(part, {})
    if not isinstance(given, Mapping):
        raise Unusable(f"{part} to be a table that has a table for each name")
    return {
        _name(name, part, place): policy(**_fields(entry, f"{part}.{name}", fields))
        for place, (name, entry) in enumerate(given.items(), start=1)
    }


def _name(given: str, part: str, place: int) -> str:
    if not re.fullmatch(NAME, given):
        raise Unusable(f"name {place} of {part} to be a letter or digit, then up to 99 letters, digits or ._:/@+-")
    if part == "queues" and "/" in given:  # a queue is a step of a path, where a slash cannot be sent
        raise Unusable(f"name {place} of {part} to have no slash in it")
    return given


def _fields(given: Any, pointer: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise Unusable(f"{pointer} to be a table of any of {', '.join(fields)}")
    found = {}
    for place, (name, value) in enumerate(given.items(), start=1):
        if name not in fields:
            raise Unusable(_unknown_field(pointer, name, place, value, fields))
        if value is None:
            continue
        try:
            found[name] = fields[name](value)
        except ValueError as error:
            raise Unusable(f"{pointer}.{name} to be {error}") from None
    return found


def _unknown_field(pointer: str, name: str, place: int, value: Any, fields: Mapping[str, Field]) -> str:
    shown = _shown(name)
    subject = f"{pointer}.{shown}" if shown else f"field {place} of {pointer}"
    if not isinstance(value, Mapping):
        return f"{subject} to be {_one_of(fields, name)}"
    # TOML takes [queues.gpu.llm] for a table `llm` in a table `gpu`.
    part, _, first = pointer.partition(".")
    return f'{subject} to be a field; a name with a dot is quoted: [{part}."{first}.{shown or "…"}"]'


def _one_of(known: Collection[str], given: str) -> str:
    meant = get_close_matches(given, known, n=1)
    return f"one of {', '.join(known)}" + (f" (did you mean {meant[0]}?)" if meant else "")


def _shown(key: str) -> str:
    """A key that nobody knows, if it can hardly be a secret in the wrong place; else nothing."""
    return key if re.fullmatch(r"[A-Za-z_-]{1,40}", key) else ""
