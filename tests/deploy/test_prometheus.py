"""deploy/prometheus: what Prometheus' own checker makes of it, and that it speaks of what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.catalogue import PAGE, ROOT, named, unknown

FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.test.yml").read_text(encoding="utf-8"))["tests"]


@pytest.mark.parametrize(
    "check",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "--lint-fatal", "rules.yml"],
        ["test", "rules", "rules.test.yml"],
    ],
    ids=" ".join,
)
def test_prometheus_accepts_them(check: list[str], promtool: Path):
    done = subprocess.run([promtool, *check], cwd=FOLDER, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_shown_to_fire():
    fired = {
        name
        for test in TESTS
        for each in test["promql_expr_test"]
        for sample in each["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_is_wrong_how_urgent_it_is_and_where_to_read_on(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    says = rule["annotations"]
    assert set(says) == {"summary", "description", "runbook_url"}
    assert says["summary"].endswith(".")
    assert says["description"].strip().endswith(".")
    assert says["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    # Jobs that were rescued are over: there is nothing to wait for.
    assert ("for" in rule) == (rule["alert"] != "AIServiceWorkersCrash")


def test_the_runbook_has_a_section_for_every_alert():
    if not RUNBOOK.exists():
        pytest.skip("docs/runbook.md is not there yet")
    sections = set(re.findall(r"^#+ (AIService\w+)\s*$", RUNBOOK.read_text(encoding="utf-8"), re.M))
    assert sections == {rule["alert"] for rule in ALERTS}


def test_rules_name_only_metrics_that_there_are():
    for rule in RULES:
        assert set(re.findall(r"aijobs:\w+(?::\w+)*", rule["expr"])) <= RECORDED, rule
        if PAGE.exists():
            assert unknown(rule["expr"]) == [], rule


def test_rules_count_only_processes_of_the_service():
    for rule in RULES:
        for name, labels in named(rule["expr"]).items():
            assert "job" in labels, f"{name} in {rule}"


def test_figures_of_the_whole_installation_lose_the_labels_of_who_exports_them():
    """Else a change of the leader would end an alert and begin another."""
    for rule in RULES:
        for by in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert not {"instance", "pod"} & set(re.split(r"\W+", by)), rule
