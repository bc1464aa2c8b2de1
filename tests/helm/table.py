"""The table of values in the chart's README, made of their schema and their defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.chart import CHART

README = CHART / "README.md"
BEGIN, END = "<!-- values -->\n", "<!-- /values -->\n"

Schema = dict[str, Any]

SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

WHOLE = ("settings", "config", "resources", "affinity")
"""Their fields are told elsewhere: in the configuration's reference, or in Kubernetes' own."""


def resolved(schema: Schema) -> Schema:
    target = schema.get("$ref")
    return {**SCHEMA["$defs"][target.rpartition("/")[2]], **schema} if target else schema


def rows(schema: Schema, default: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each value's path, default and description."""
    for name, part in schema["properties"].items():
        known = resolved(part)
        here = f"{path}.{name}" if path else name
        value = default.get(name) if isinstance(default, dict) else None
        if known.get("properties") and name not in WHOLE:
            if "description" in known:
                yield here, ..., known["description"]
            yield from rows(known, value, here)
            continue
        yield here, value, known.get("description", "")
        items = resolved(known.get("items", {}))
        if here == "pools":
            yield from rows(items, None, "pools[]")


def table() -> str:
    lines = ["| value | default | |", "| --- | --- | --- |"]
    for path, default, description in rows(SCHEMA, DEFAULTS):
        shown = "" if default in (..., None, "", [], {}) else f"`{json.dumps(default)}`"
        lines.append(f"| `{path}` | {shown} | {description} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]
