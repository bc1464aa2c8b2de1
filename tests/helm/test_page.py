"""Every example of the page is one that the chart, or Kubernetes, takes."""

from __future__ import annotations

import re
import textwrap

import kubernetes_validate
import pytest
import yaml

from tests.docs.test_documents import blocks
from tests.helm.chart import EXAMPLES, LEAST, ROOT, merged, name_of, of_kind, one, render, resources
from tests.helm.test_renders import NEWEST, OLDEST, rendered

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)]
VALUES = [block for block in BLOCKS if "apiVersion:" not in block]
MANIFESTS = [block for block in BLOCKS if "apiVersion:" in block]


def test_the_page_has_examples():
    assert (len(VALUES), len(MANIFESTS)) == (8, 1)


@pytest.mark.parametrize("example", [*VALUES, *blocks("docs/task-types.md", "yaml")])
def test_values_that_are_shown_are_rendered(example: str):
    found = resources(merged(LEAST, yaml.safe_load(example)))

    for resource in of_kind(found, "ConfigMap", "Deployment", "NetworkPolicy"):
        kubernetes_validate.validate(resource, OLDEST, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_that_are_shown_are_taken(manifest: str):
    kubernetes_validate.validate(yaml.safe_load(manifest), NEWEST, strict=True)


def test_files_and_deployments_that_are_named_are_there():
    for path in re.findall(r"--values (helm/\S+)", PAGE):
        assert (ROOT / path).is_file()
    assert {f"helm/examples/{name}.yaml" for name in EXAMPLES} <= set(re.findall(r"helm/examples/[\w.-]+", PAGE))
    names = {name_of(each) for each in of_kind(rendered("one-gpu-box"), "Deployment")}
    assert set(re.findall(r"deployment/(\S+)", PAGE)) <= names


def test_the_values_that_are_set_on_command_lines_are_known():
    for path, value in re.findall(r"--set ([\w.]+)=(\S+)", PAGE):
        part, _, name = path.partition(".")
        assert render(merged(LEAST, {part: {name: value}}))


def test_the_arithmetic_of_the_page_is_that_of_the_chart():
    [example] = [each for each in VALUES if "targetWaitSeconds: 120" in each]
    scaler = one(resources(merged(LEAST, yaml.safe_load(example))), "ScaledObject", "llm")
    [trigger] = scaler["spec"]["triggers"]
    asked = int(trigger["metadata"]["threshold"])

    assert f"{asked:,} s each" in PAGE
    assert "1,000 jobs of 20 s each are 20,000 s" in PAGE
    assert f"so there are {-(-20_000 // asked)}" in PAGE


def test_the_ports_of_the_page_are_those_of_the_chart():
    [row] = re.findall(r"^\| anybody; or `networkPolicy.prometheus`.*$", PAGE, re.MULTILINE)
    for component, port in (("scheduler", "8082"), ("worker-llm", "8081")):
        [container] = one(rendered("autoscaled"), "Deployment", component)["spec"]["template"]["spec"]["containers"]
        assert str(container["ports"][0]["containerPort"]) == port
        assert port in row
