"""deploy/grafana: the dashboard and how Grafana is told of it."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.catalogue import PAGE, ROOT, documented, named, unknown

FOLDER = ROOT / "deploy" / "grafana"
TEXT = (FOLDER / "dashboards" / "ai-service.json").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads(TEXT)
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

TYPES = {"stat", "timeseries", "state-timeline", "bargauge", "table"}
KEYS = {"id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "options", "targets"}


def filled_in(expression: str) -> str:
    """As Grafana sends it."""
    for variable, value in {"$__rate_interval": "5m", "$__range": "1h", "$namespace": ".*", "$queue": ".*"}.items():
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_what(panel: dict[str, Any]):
    assert panel.keys() - {"transformations"} == KEYS
    assert panel["type"] in TYPES
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["expr"]
        assert "legendFormat" in target
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


def test_panels_have_ids_and_titles_of_their_own():
    for key in ("id", "title"):
        values = [panel[key] for panel in DASHBOARD["panels"]]
        assert len(set(values)) == len(values), key


def test_panels_keep_clear_of_each_other():
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_rows_are_what_operators_ask_about():
    assert [row["title"] for row in ROWS] == [
        "At a glance",
        "Queues",
        "Waiting and running",
        "Throughput and errors",
        "Model servers",
        "Workers",
        "Scheduler",
        "PostgreSQL",
        "RabbitMQ",
        "API",
    ]


def test_no_data_source_is_built_in():
    used = set(re.findall(r'"datasource": \{\s*"type": "(\w+)",\s*"uid": "([^"]+)"', TEXT))
    assert used == {("prometheus", "${datasource}"), ("grafana", "-- Grafana --")}
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"


def test_what_is_chosen_reaches_every_expression():
    for title, expression in EXPRESSIONS:
        for name, labels in named(expression).items():
            assert {"job", "namespace"} <= labels, f"{title}: {name}"
    assert list(VARIABLES) == ["datasource", "namespace", "queue"]
    for name in ("namespace", "queue"):
        assert VARIABLES[name]["includeAll"]
        # All: series without the label too.
        assert VARIABLES[name]["allValue"] == ".*"
    used = set(re.findall(r"\$(\w+)", " ".join(expression for _, expression in EXPRESSIONS)))
    assert used <= {"namespace", "queue", "__rate_interval", "__range"}


def test_counters_are_rated_over_what_grafana_finds_long_enough():
    for title, expression in EXPRESSIONS:
        for counter, window in re.findall(r"(\w+_total|\w+_bucket|\w+_sum|\w+_count)\{[^}]*\}(\[\S+?\])?", expression):
            assert window, f"{title}: {counter} is not a rate"


def test_panels_name_only_metrics_that_there_are():
    if not PAGE.exists():
        pytest.skip("docs/metrics.md is not there yet")
    for title, expression in EXPRESSIONS:
        assert unknown(expression) == [], title


def test_prometheus_understands_every_expression(tmp_path: Path, promtool: Path):
    rules = [{"record": f"panel:{at}", "expr": filled_in(expression)} for at, (_, expression) in enumerate(EXPRESSIONS)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


VALUES = {
    "status": ["pending", "running", "completed", "failed"],
    "state": ["closed", "open", "half_open"],
    "error_code": ["", "timeout"],
    "le": ["1", "+Inf"],
}
"""Of labels by which panels choose; any other label has one value."""


def test_every_panel_shows_something_where_every_metric_is_there(tmp_path: Path, promtool: Path):
    """Parts of an expression that do not fit each other show nothing, and nobody is told."""
    if not PAGE.exists():
        pytest.skip("docs/metrics.md is not there yet")
    series = []
    for name, metric in documented().items():
        for each in metric.series(name):
            labels = sorted(metric.labels | ({"le"} if each.endswith("_bucket") else set()))
            values = [
                ["200", "503"] if name.startswith("aijobs_http") and label == "status" else VALUES.get(label, ["x"])
                for label in labels
            ]
            for chosen in product(*values):
                shown = "".join(f',{label}="{value}"' for label, value in zip(labels, chosen, strict=True))
                series.append({"series": f'{each}{{job="ai-service"{shown}}}', "values": "0+3x20"})
    asked = [
        {
            "expr": f"count({filled_in(expression)}) > bool 0",
            "eval_time": "15m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for _, expression in EXPRESSIONS
    ]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": asked}
    file = tmp_path / "panels.json"
    file.write_text(json.dumps({"evaluation_interval": "1m", "tests": [test]}), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_the_dashboard_where_compose_mounts_it():
    provisioning = FOLDER / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "ai-service.yml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["grafana"]
    mounted = dict(volume.rsplit(":", 2)[:2] for volume in compose["volumes"] if volume.startswith("./"))
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert (
        compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        == f"{provider['options']['path']}/ai-service.json"
    )
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert source["url"] == "http://prometheus:9090"


def test_it_is_of_grafana_11_and_can_be_found_again():
    assert DASHBOARD["schemaVersion"] == 39
    assert (DASHBOARD["uid"], DASHBOARD["title"], DASHBOARD["id"]) == ("ai-service", "AI Service", None)
