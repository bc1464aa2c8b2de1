"""What the chart renders is what Kubernetes and its operators take, and what was looked at."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import helm_python as helm
import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from tests.helm.chart import (
    CHART,
    COPIES,
    EXAMPLES,
    GOLDEN,
    LEAST,
    NAMESPACE,
    RELEASE,
    Resource,
    example,
    golden,
    loaded,
    merged,
    of_kind,
    resources,
)
from tests.helm.crds import SCHEMAS

OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()

EVERYTHING = merged(
    example("autoscaled"),
    {
        "secrets": {"values": {"ANTHROPIC_KEY": "sk-everything"}, "existing": ["more"]},
        "auth": {"existingSecret": "", "token": "secret-token", "tokens": {"another-token": "telephony"}},
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
        "api": {"ingress": {"enabled": True, "hosts": ["ai.example.com"], "tlsSecret": "tls"}, "podLabels": {"a": "b"}},
        "commonLabels": {"team": "ai"},
        "certificates": {"existingSecret": "authorities"},
        "networkPolicy": {
            "dns": [{"namespaceSelector": {}}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"port": 4318, "protocol": "TCP"}]}],
        },
        "serviceAccount": {"annotations": {"role": "ai"}},
        "settings": {"LOG_LEVEL": "debug"},
        "workers": {"priorityClassName": "gpu", "settings": {"LOG_LEVEL": "info"}},
    },
)
SETUPS = {**{name: example(name) for name in EXAMPLES}, "least": LEAST, "everything": EVERYTHING}


@cache
def rendered(setup: str) -> list[Resource]:
    """To be read only: it is rendered once."""
    return resources(SETUPS[setup])


def test_there_are_three_set_ups():
    assert EXAMPLES == ("autoscaled", "one-gpu-box", "three-gpus")


@pytest.mark.parametrize("setup", list(SETUPS))
def test_helm_finds_nothing_to_complain_about(setup: str):
    report = helm.lint(CHART, SETUPS[setup], strict=True)

    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(("setup", "kubernetes"), list(product(SETUPS, (OLDEST, NEWEST))))
def test_kubernetes_takes_every_resource(setup: str, kubernetes: str):
    for resource in rendered(setup):
        if resource["kind"] not in SCHEMAS:
            kubernetes_validate.validate(resource, kubernetes, strict=True)


@pytest.mark.parametrize("setup", list(SETUPS))
def test_operators_take_their_resources(setup: str):
    for kind, schema in SCHEMAS.items():
        validator = jsonschema_rs.validator_for(schema)
        for resource in of_kind(rendered(setup), kind):
            validator.validate(resource)


def test_each_operators_resource_is_in_a_set_up():
    made = {resource["kind"] for setup in EXAMPLES for resource in rendered(setup)}

    assert set(SCHEMAS) <= made


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ScaledObject", ("spec", "maxReplicas"), 3),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 30),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "treshold"), "30"),
        ("TriggerAuthentication", ("spec", "secretTargetRef", 0, "secret"), "x"),
        ("Cluster", ("spec", "storage", "size"), "much"),
        ("Cluster", ("spec", "postgresql", "parameters", "max_connections"), 300),
        ("RabbitmqCluster", ("spec", "persistence", "size"), "10Gi"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "relabelings", 0, "target"), "job"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), "soon"),
        ("HTTPRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), "http"),
    ],
)
def test_the_schemas_refuse_what_an_operator_would(kind: str, path: tuple[str | int, ...], value: object):
    resource, *_ = of_kind(rendered("autoscaled"), kind)
    spoilt: Resource = yaml.safe_load(yaml.safe_dump(resource))
    *way, last = path
    place: Resource = spoilt
    for step in way:
        place = place[step]  # type: ignore[index]  # a list's place among them
    place[last] = value  # type: ignore[index]  # likewise

    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(SCHEMAS[kind]).validate(spoilt)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_set_up_is_rendered_as_it_was_looked_at(name: str):
    kept = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")

    assert golden(name) == kept, "`python -m tests.helm` writes it anew: look at what changes"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_upgrade_without_a_change_changes_nothing(name: str):
    installed = resources(example(name), is_install=True, revision=1)

    assert resources(example(name), is_install=False, is_upgrade=True, revision=7) == installed


def test_a_package_of_the_chart_is_complete(tmp_path: Path):
    with helm.Chart.load(helm.package(CHART, destination=tmp_path)) as packaged:
        texts = packaged.render(EVERYTHING, name=RELEASE, namespace=NAMESPACE)

    assert texts == loaded().render(EVERYTHING, name=RELEASE, namespace=NAMESPACE)


@pytest.mark.parametrize("copy", list(COPIES), ids=lambda path: path.name)
def test_what_the_chart_has_from_elsewhere_is_the_same_there(copy: object):
    [(mine, theirs)] = [each for each in COPIES.items() if each[0] == copy]

    assert mine.read_bytes() == theirs.read_bytes(), "`python -m tests.helm` copies it"
