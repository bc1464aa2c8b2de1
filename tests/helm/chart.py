"""The chart, rendered without a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = tuple(sorted(path.stem for path in (CHART / "examples").glob("*.yaml")))
COPIES = {
    CHART / "files" / "rules.yml": ROOT / "deploy" / "prometheus" / "rules.yml",
    CHART / "files" / "dashboard.json": ROOT / "deploy" / "grafana" / "dashboards" / "ai-service.json",
}
"""Files of the chart that are copies: a package of it can hold nothing from outside its folder."""

RELEASE, NAMESPACE = "ai-service", "ai"

# Ten times as quick, where it was built in; a dashboard is long.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Values = dict[str, Any]
Resource = dict[str, Any]

LEAST: Values = {
    "auth": {"existingSecret": "secret"},
    "postgresql": {"existingSecret": "secret"},
    "rabbitmq": {"mode": "none"},
}
"""What has to be said."""


@cache
def loaded() -> helm.Chart:
    return helm.Chart.load(CHART)


def example(name: str) -> Values:
    values: Values = yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> Values:
    """As Helm merges a second file of values over the first."""
    result = deepcopy(dict(values))
    for key, value in more.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else deepcopy(value)
    return result


def render(values: Values, *, release: str = RELEASE, namespace: str = NAMESPACE, **how: Any) -> dict[str, str]:
    """Each template's text by its path.

    Raises:
        helm.HelmError: the values are refused.
    """
    texts = loaded().render(values, name=release, namespace=namespace, **how)
    return {path.removeprefix("ai-service/"): text for path, text in sorted(texts.items())}


def resources(values: Values, **how: Any) -> list[Resource]:
    texts = render(values, **how)
    manifests = [text for path, text in texts.items() if path.endswith(".yaml")]
    return [each for text in manifests for each in yaml.load_all(text, Loader) if each]


def of_kind(found: list[Resource], *kinds: str) -> list[Resource]:
    return [each for each in found if each["kind"] in kinds]


def name_of(resource: Resource) -> str:
    return str(resource["metadata"]["name"])


def one(found: list[Resource], kind: str, name: str) -> Resource:
    """The resource of that kind whose name ends so."""
    [only] = [each for each in of_kind(found, kind) if name_of(each).endswith(name)]
    return only


def pods(found: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """Every pod or template of pods, with the name of what it belongs to."""
    for each in found:
        if each["kind"] == "Pod":
            yield name_of(each), each
        elif each["kind"] in ("Deployment", "Job"):
            yield name_of(each), each["spec"]["template"]


def containers(pod: Resource) -> list[Resource]:
    spec = pod["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def variables(container: Resource) -> dict[str, Any]:
    """Those that the container names itself: a value, or where it comes from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


def golden(name: str) -> str:
    """What an example is rendered to; without what is copied from elsewhere, for that has its own test."""
    kept = []
    for path, text in render(example(name)).items():
        if path.endswith(".yaml") and text.strip():
            short = re.sub(r"(?ms)^(  groups:|  ai-service.json: \|)\n.*?(?=^---$|\Z)", r"\1 # copied\n", text)
            kept.append(f"# {path}\n{short.strip()}\n")
    return re.sub(r"\n[ \n]*\n", "\n", "---\n".join(kept))
