"""The rendered resources fit together: what one names, another is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import helm_python as helm
import pytest
import yaml
from pika import URLParameters

from adapters.telemetry.catalogue import BY_NAME
from app import configfile
from app.profiles import served
from app.settings import from_env
from tests.helm.chart import (
    CHART,
    EXAMPLES,
    LEAST,
    NAMESPACE,
    RELEASE,
    ROOT,
    Loader,
    Resource,
    containers,
    example,
    merged,
    name_of,
    of_kind,
    one,
    pods,
    resources,
    variables,
)
from tests.helm.test_renders import EVERYTHING, SETUPS, rendered
from tests.helm.variables import read_by_the_service

ELSEWHERE = {
    "cnpg": re.compile(r".*-postgresql-app"),
    "rabbitmq": re.compile(r".*-rabbitmq-default-user"),
}
"""Secrets that operators make."""

KEYS_OF_OPERATORS = {"cnpg": {"uri"}, "rabbitmq": {"connection_string", "username", "password"}}
STORING = 15
"""Seconds beyond SHUTDOWN_GRACE that the service promises to end within."""

SECRETS = {"DATABASE_URL": "postgresql://db/ai", "AMQP_URL": "amqp://mq"}
POOL = {"name": "llm", "queues": ["gpu.llm"]}
CLIENT = {"AI_SERVICE_URL", "TEST_TIMEOUT"}
SETUP = pytest.mark.parametrize("setup", list(SETUPS))


@pytest.fixture
def found(setup: str) -> list[Resource]:
    return rendered(setup)


def workloads(found: list[Resource]) -> list[Resource]:
    return of_kind(found, "Deployment")


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    return wanted.items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions if each["operator"] == "In"
    )


def labels_of(pod: Resource) -> dict[str, str]:
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


# Names


@pytest.mark.parametrize(
    "release", ["a", "ai-service", "my-ai-service", "r" * 28, "r" * 53, "a-release-of-the-ai-service-by-name"]
)
@pytest.mark.parametrize("setup", ["everything", "three-gpus"])
def test_every_name_is_its_own_and_short_enough(setup: str, release: str):
    found = resources(SETUPS[setup], release=release)
    named = [(each["kind"], name_of(each)) for each in found]

    assert len(named) == len(set(named))
    for kind, name in named:
        # KEDA labels an autoscaler with `keda-hpa-` and the name; CloudNativePG takes no more than 50.
        assert len(name) <= {"ScaledObject": 54, "Cluster": 50}.get(kind, 63), name
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    for value in (value for each in found for value in each["metadata"]["labels"].values()):
        assert len(value) <= 63


def test_two_long_releases_have_names_of_their_own():
    first, second = (resources(LEAST, release="r" * 50 + end) for end in ("a", "b"))

    assert not {name_of(each) for each in first} & {name_of(each) for each in second}


# Selectors


@SETUP
def test_each_deployment_selects_its_own_pods_and_no_others(found: list[Resource]):
    templates = dict(pods(found))
    for workload in workloads(found):
        selected = [name for name, pod in templates.items() if matches(workload["spec"]["selector"], labels_of(pod))]
        assert selected == [name_of(workload)]


@SETUP
def test_each_service_leads_to_one_deployments_port(found: list[Resource]):
    for service in of_kind(found, "Service"):
        [target] = [
            pod
            for workload in workloads(found)
            if matches({"matchLabels": service["spec"]["selector"]}, labels_of(pod := workload["spec"]["template"]))
        ]
        names = {port["name"] for container in containers(target) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@SETUP
def test_what_callers_reach_is_the_service_of_the_api(found: list[Resource]):
    service = one(found, "Service", "-api")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    for ingress in of_kind(found, "Ingress"):
        backends = [path["backend"]["service"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
        assert all((each["name"], each["port"]["name"]) == (name_of(service), "http") for each in backends)
    for route in of_kind(found, "HTTPRoute"):
        backends = [each for rule in route["spec"]["rules"] for each in rule["backendRefs"]]
        assert all((each["name"], each["port"]) == (name_of(service), ports["http"]) for each in backends)


@SETUP
def test_a_budget_covers_each_deployment_and_never_blocks_a_drain(found: list[Resource]):
    budgets = of_kind(found, "PodDisruptionBudget")
    for workload in workloads(found):
        labels = labels_of(workload["spec"]["template"])
        [budget] = [each for each in budgets if matches(each["spec"]["selector"], labels)]
        assert budget["spec"]["maxUnavailable"] == 1
        assert "minAvailable" not in budget["spec"]


@SETUP
def test_scalers_scale_deployments_that_leave_their_number_open(found: list[Resource]):
    by_name = {name_of(each): each for each in workloads(found)}
    scaled = [
        each["spec"]["scaleTargetRef"]["name"] for each in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled))
    for name, workload in by_name.items():
        assert ("replicas" in workload["spec"]) is (name not in scaled)
    assert set(scaled) <= set(by_name)


# References


def referred_secrets(found: list[Resource]) -> Iterator[tuple[str, str | None]]:
    """Secrets that pods and triggers name, and their keys where one is named."""
    for _, pod in pods(found):
        for each in pod["spec"].get("imagePullSecrets", []):
            yield each["name"], None
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                yield volume["secret"]["secretName"], None
        for container in containers(pod):
            yield from (
                (each["secretRef"]["name"], None) for each in container.get("envFrom", []) if "secretRef" in each
            )
            for source in variables(container).values():
                if isinstance(source, dict) and "secretKeyRef" in source:
                    yield source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
    for each in of_kind(found, "TriggerAuthentication"):
        yield from ((target["name"], target["key"]) for target in each["spec"]["secretTargetRef"])
    for each in of_kind(found, "Ingress"):
        yield from ((tls["secretName"], None) for tls in each["spec"].get("tls", []))


def named_by_the_operator(values: Any) -> set[str]:
    """Every text in the values: a Secret that is not ours must be named there."""
    if isinstance(values, dict):
        return set().union(*map(named_by_the_operator, values.values()), set())
    if isinstance(values, list):
        return set().union(*map(named_by_the_operator, values), set())
    return {values} if isinstance(values, str) else set()


@SETUP
def test_every_secret_is_made_by_the_chart_or_an_operator_or_named_in_the_values(setup: str, found: list[Resource]):
    ours = {name_of(each): set(each["stringData"]) for each in of_kind(found, "Secret")}
    for name, key in referred_secrets(found):
        operator = next((operator for operator, pattern in ELSEWHERE.items() if pattern.fullmatch(name)), None)
        if name in ours:
            assert key is None or key in ours[name], f"{name} has no {key}"
        elif operator:
            assert key in KEYS_OF_OPERATORS[operator]
        else:
            assert name in named_by_the_operator(SETUPS[setup]), name


@SETUP
def test_secrets_hold_what_they_are_named_for_and_config_maps_no_secret(setup: str, found: list[Resource]):
    said = json.dumps([each["data"] for each in of_kind(found, "ConfigMap")])

    for secret in of_kind(found, "Secret"):
        for value in secret["stringData"].values():
            assert value not in said


@SETUP
def test_every_config_map_account_claim_and_authentication_is_there(found: list[Resource]):
    there = {(each["kind"], name_of(each)) for each in found}
    for _, pod in pods(found):
        spec = pod["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in there
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there or volume["name"] == "certificates"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim in (None, "models") or ("PersistentVolumeClaim", claim) in there
        for container in containers(pod):
            for each in container.get("envFrom", []):
                assert "configMapRef" not in each or ("ConfigMap", each["configMapRef"]["name"]) in there
    for scaler in of_kind(found, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            name = trigger.get("authenticationRef", {}).get("name")
            assert name is None or ("TriggerAuthentication", name) in there


@SETUP
def test_every_mount_has_a_volume_and_every_volume_a_mount(found: list[Resource]):
    for _, pod in pods(found):
        volumes = {each["name"] for each in pod["spec"].get("volumes", [])}
        mounted = {each["name"] for container in containers(pod) for each in container.get("volumeMounts", [])}
        assert volumes == mounted


# Pods


@SETUP
def test_probes_hit_ports_that_the_container_has(found: list[Resource]):
    for workload in workloads(found):
        for container in containers(workload["spec"]["template"]):
            names = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in names


@SETUP
def test_processes_listen_where_their_ports_say(found: list[Resource]):
    listens = {"api": "HTTP_PORT", "scheduler": "SCHEDULER_HTTP_PORT", "worker": "WORKER_HTTP_PORT"}
    for workload in workloads(found):
        [container] = workload["spec"]["template"]["spec"]["containers"]
        [port] = container["ports"]
        assert variables(container)[listens[container["name"]]] == str(port["containerPort"])


@SETUP
def test_a_pod_is_given_the_time_that_its_stop_may_take(found: list[Resource]):
    for workload in workloads(found):
        spec = workload["spec"]["template"]["spec"]
        [container] = spec["containers"]
        grace = int(variables(container)["SHUTDOWN_GRACE"].removesuffix("s"))
        waits = int(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0, 0])[1])
        assert spec["terminationGracePeriodSeconds"] == waits + grace + STORING
        assert (waits > 0) is (container["name"] == "api")


@SETUP
def test_nothing_runs_as_root_or_writes_where_it_should_not(found: list[Resource]):
    for name, pod in pods(found):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context.get("runAsUser") != 0
            assert context.get("readOnlyRootFilesystem") is True or container["name"] == "model", name
            assert container.get("resources")


def test_a_model_server_may_run_as_somebody_else():
    values = example("three-gpus")
    values["pools"][0]["modelServer"]["securityContext"] = {"runAsUser": 2000, "readOnlyRootFilesystem": True}
    [server] = one(resources(values), "Deployment", "worker-llm")["spec"]["template"]["spec"]["initContainers"]

    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 2000,
        "readOnlyRootFilesystem": True,
    }


@pytest.mark.parametrize("kind", ["existingSecret", "existingConfigMap"])
def test_certificates_are_where_every_process_finds_them(kind: str):
    for name, pod in pods(resources(merged(LEAST, {"certificates": {kind: "authorities"}, "pools": [POOL]}))):
        mounts = {each["name"]: each["mountPath"] for each in containers(pod)[0]["volumeMounts"]}
        assert (mounts.get("certificates") == "/etc/ai-service/certificates") is ("test" not in name)


@SETUP
def test_what_grows_on_a_disk_is_bounded(found: list[Resource]):
    for _, pod in pods(found):
        for volume in pod["spec"].get("volumes", []):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


@SETUP
def test_a_model_server_starts_before_its_worker_and_is_given_its_gpu(found: list[Resource]):
    for workload in workloads(found):
        for server in workload["spec"]["template"]["spec"].get("initContainers", []):
            assert server["restartPolicy"] == "Always"
            assert (
                server["resources"]["limits"]["nvidia.com/gpu"]
                == server["resources"]["requests"]["nvidia.com/gpu"]
                == 1
            )
            assert workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
            may_take = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
            assert workload["spec"]["progressDeadlineSeconds"] > may_take


@pytest.mark.parametrize(("said", "resource"), [({"gpus": 0}, {}), ({"gpuResource": "nvidia.com/mig-1g.10gb"}, None)])
def test_a_gpu_may_be_a_part_of_one_or_none(said: dict[str, Any], resource: dict[str, Any] | None):
    values = example("three-gpus")
    values["pools"][1]["modelServer"] |= said
    [server] = one(resources(values), "Deployment", "worker-speech")["spec"]["template"]["spec"]["initContainers"]

    assert server["resources"].get("limits", {}) == ({"nvidia.com/mig-1g.10gb": 1} if resource is None else resource)


# Variables and the configuration file


@SETUP
def test_every_variable_is_one_that_the_service_reads(found: list[Resource]):
    known = read_by_the_service()
    [shared] = [each for each in of_kind(found, "ConfigMap") if name_of(each).endswith("-env")]
    named = set(shared["data"])
    for _, pod in pods(found):
        for container in containers(pod):
            if container["name"] != "model":
                named |= set(variables(container)) - (CLIENT if container["name"] == "test" else set())

    assert named <= known


@pytest.mark.parametrize("setup", EXAMPLES)
def test_the_service_starts_with_the_configuration_of_a_set_up(
    setup: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANTHROPIC_KEY", "sk-somebody")  # of the Secret that three-gpus names
    values = example(setup)
    found = resources(values)
    [shared] = [each for each in of_kind(found, "ConfigMap") if name_of(each).endswith("-env")]
    queues = {queue for pool in values["pools"] for queue in pool["queues"]}
    for each in of_kind(found, "ConfigMap"):
        if "config.json" in each["data"]:
            (path := tmp_path / "config.json").write_text(each["data"]["config.json"])
            settings = from_env({**shared["data"], **SECRETS, "AI_SERVICE_CONFIG": str(path)})
            assert queues == set(served(settings, configfile.read(path)).routes.queues)


def test_the_service_takes_the_urls_that_operators_make():
    settings = from_env(
        {
            "DATABASE_URL": "postgresql://ai_service:pAss-w0rd_@ai-service-postgresql-rw.ai:5432/ai_service",
            "AMQP_URL": (broker := "amqp://default_user_a-b_c:pAss-w0rd_@ai-service-rabbitmq.ai.svc:5672/"),
        }
    )

    assert settings.broker.amqp_url
    assert URLParameters(broker).virtual_host == "/"


def test_workers_call_the_model_server_beside_them_and_others_its_service():
    found = resources(example("three-gpus"))

    def addresses(config: str) -> dict[str, str]:
        profiles = json.loads(one(found, "ConfigMap", config)["data"]["config.json"])["profiles"]
        return {name: profile.get("base_url", "") for name, profile in profiles.items()}

    services = {name_of(each): each["spec"]["ports"][0]["port"] for each in of_kind(found, "Service")}
    shared = addresses("ai-service-config")
    assert shared == {
        "claude": "",
        "qwen2.5-72b": "http://ai-service-llm-model:8000/v1",
        "whisper-large-v3": "http://ai-service-speech-model:8000/v1",
    }
    assert services["ai-service-llm-model"] == services["ai-service-speech-model"] == 8000
    assert addresses("llm-config") == {**shared, "qwen2.5-72b": "http://127.0.0.1:8000/v1"}
    [worker] = one(found, "Deployment", "worker-llm")["spec"]["template"]["spec"]["containers"]
    assert worker["args"] == ["worker", "--queues", "gpu.llm"]
    mounted = one(found, "Deployment", "worker-llm")["spec"]["template"]["spec"]["volumes"][0]
    assert mounted == {"name": "config", "configMap": {"name": "ai-service-llm-config"}}


def test_numbers_of_the_configuration_stay_whole():
    values = merged(LEAST, {"config": {"profiles": {"w": {"base_url": "http://h", "max_file_bytes": 26_214_400}}}})

    assert '"max_file_bytes": 26214400' in one(resources(values), "ConfigMap", "-config")["data"]["config.json"]


def checksums(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {name_of(each): each["spec"]["template"]["metadata"]["annotations"] for each in workloads(resources(values))}


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": {"LOG_LEVEL": "error"}},
        {"secrets": {"values": {"ANTHROPIC_KEY": "another"}}},
        {"auth": {"token": "another-secret-token"}},
    ],
)
def test_pods_are_replaced_where_what_they_read_at_their_start_changes(changed: dict[str, Any]):
    before, after = checksums(EVERYTHING), checksums(merged(EVERYTHING, changed))

    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_a_change_of_the_file_that_is_read_again_replaces_no_pod():
    changed = merged(EVERYTHING, {"config": {"queues": {"gpu.llm": {"concurrency": 7}}}})

    assert workloads(resources(EVERYTHING)) == workloads(resources(changed))
    assert of_kind(resources(EVERYTHING), "ConfigMap") != of_kind(resources(changed), "ConfigMap")


def test_two_pools_may_say_of_themselves_what_the_others_have_not():
    values = merged(
        LEAST,
        {
            "workers": {"replicas": 3, "podDisruptionBudget": True, "shutdownGraceSeconds": 60},
            "pools": [
                {"name": "usual", "queues": ["a"]},
                {
                    "name": "other",
                    "queues": ["b", "c"],
                    "replicas": 0,
                    "podDisruptionBudget": False,
                    "shutdownGraceSeconds": 0,
                },
            ],
        },
    )
    found = resources(values)
    usual, other = (one(found, "Deployment", name)["spec"] for name in ("usual", "other"))

    assert (usual["replicas"], other["replicas"]) == (3, 0)
    assert [
        usual["template"]["spec"]["terminationGracePeriodSeconds"],
        other["template"]["spec"]["terminationGracePeriodSeconds"],
    ] == [75, 15]
    assert [name for each in of_kind(found, "PodDisruptionBudget") if "worker" in (name := name_of(each))] == [
        "ai-service-worker-usual"
    ]
    assert other["template"]["spec"]["containers"][0]["args"] == ["worker", "--queues", "b", "--queues", "c"]
    assert usual["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


# Migrations


@pytest.mark.parametrize(
    ("values", "hook"),
    [
        (example("three-gpus"), True),
        (example("autoscaled"), False),
        (merged(LEAST, {"migrations": {"mode": "job"}}), False),
    ],
)
def test_one_job_migrates_and_the_processes_do_not(values: dict[str, Any], hook: bool):
    found = resources(values)
    [job] = of_kind(found, "Job")

    assert ("helm.sh/hook" in job["metadata"].get("annotations", {})) is hook
    assert one(found, "ConfigMap", "-env")["data"]["MIGRATE_ON_START"] == "false"


def test_processes_migrate_where_no_job_does():
    found = resources(merged(LEAST, {"migrations": {"mode": "start"}}))

    assert of_kind(found, "Job") == []
    assert one(found, "ConfigMap", "-env")["data"]["MIGRATE_ON_START"] == "true"


def test_what_the_hook_needs_is_there_before_it():
    """Before an installation there is nothing but hooks, in the order of their weights."""
    values = merged(
        LEAST,
        {
            "postgresql": {
                "existingSecret": "",
                "url": "postgresql://u:p@db/ai",
                "directUrl": "postgresql://u:p@direct/ai",
            }
        },
    )
    hooks = [
        each
        for each in resources(values)
        if "pre-install" in each["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    ]
    weights = {each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in hooks}

    assert weights == {"Secret": -10, "NetworkPolicy": -10, "Job": 0}
    [(_, pod)] = pods(of_kind(hooks, "Job"))
    assert "serviceAccountName" not in pod["spec"]
    secrets = {name_of(each) for each in of_kind(hooks, "Secret")}
    assert {name for name, _ in referred_secrets(of_kind(hooks, "Job"))} == secrets


def test_a_job_beside_an_installation_waits_for_a_database_that_is_being_made():
    [job] = of_kind(rendered("autoscaled"), "Job")

    assert "activeDeadlineSeconds" not in job["spec"]
    assert job["spec"]["backoffLimit"] == 1000


def test_a_job_beside_an_upgrade_is_another_where_its_image_is():
    values = example("autoscaled")
    [before], [same], [after] = (
        of_kind(resources(each), "Job")
        for each in (values, merged(values, {"api": {"replicas": 3}}), merged(values, {"image": {"tag": "0.2.0"}}))
    )

    assert name_of(before) == name_of(same) != name_of(after)


@pytest.mark.parametrize("setup", EXAMPLES)
def test_a_new_chart_alone_replaces_no_pod(setup: str, tmp_path: Path):
    shutil.copytree(CHART, tmp_path / "helm")
    description = tmp_path / "helm" / "Chart.yaml"
    description.write_text(re.sub(r"(?m)^version: .*", "version: 9.9.9", description.read_text(encoding="utf-8")))
    with helm.Chart.load(tmp_path / "helm") as newer:
        texts = newer.render(example(setup), name=RELEASE, namespace=NAMESPACE)
    found = [
        each for path, text in texts.items() if path.endswith(".yaml") for each in yaml.load_all(text, Loader) if each
    ]

    assert {name_of(each): each["spec"] for each in of_kind(found, "Deployment", "Job")} == {
        name_of(each): each["spec"] for each in of_kind(rendered(setup), "Deployment", "Job")
    }


# Network policies


def allowed(found: list[Resource], direction: str, pod: dict[str, str]) -> list[Resource]:
    """The rules of every policy that selects it."""
    return [
        rule
        for policy in of_kind(found, "NetworkPolicy")
        if matches(policy["spec"]["podSelector"], pod)
        for rule in policy["spec"].get(direction, [])
    ]


def to_pods(rules: list[Resource], direction: str, pod: dict[str, str]) -> set[int | str]:
    """The ports over which these rules let speak with such a pod by its labels, or with anybody."""
    side = {"egress": "to", "ingress": "from"}[direction]
    return {
        port["port"]
        for rule in rules
        if side not in rule
        or any(matches(peer.get("podSelector", {"matchLabels": {"": ""}}), pod) for peer in rule[side])
        for port in rule.get("ports", [])
    }


def labelled(found: list[Resource]) -> dict[str, dict[str, str]]:
    return {
        labels["app.kubernetes.io/component"] + labels.get("ai-service/pool", ""): labels
        for labels in (labels_of(pod) for _, pod in pods(found))
    }


@SETUP
def test_nothing_is_allowed_that_no_policy_lets_through(found: list[Resource]):
    deny = one(found, "NetworkPolicy", "-deny")["spec"]

    assert deny == {"podSelector": deny["podSelector"], "policyTypes": ["Ingress", "Egress"]}
    assert all(matches(deny["podSelector"], labels_of(pod)) for _, pod in pods(found))


def test_exactly_the_needed_flows_are_allowed():
    found = resources(example("autoscaled"))
    pod = labelled(found)
    stores = {
        "postgresql": {"cnpg.io/cluster": "ai-service-postgresql"},
        "rabbitmq": {"app.kubernetes.io/name": "ai-service-rabbitmq"},
    }
    flows = {
        (start, end): ports
        for start in pod
        for end, labels in {**pod, **stores}.items()
        if (ports := to_pods([r for r in allowed(found, "egress", pod[start]) if "to" in r], "egress", labels))
    }

    processes = ["api", "scheduler", "workerllm", "workerspeech"]
    models = ["workerllm", "workerspeech"]
    assert flows == {
        **{(start, "postgresql"): {5432} for start in [*processes, "migrate"]},
        **{(start, "rabbitmq"): {5672, 15672} for start in processes},
        **{(start, end): {8000} for start in processes for end in models},
        ("test", "api"): {8080},
    }
    # The other ends let them in, and nobody else but callers and Prometheus.
    for (start, end), ports in flows.items():
        if end in pod:
            assert ports <= to_pods(allowed(found, "ingress", pod[end]), "ingress", pod[start])
    for end in pod:
        assert not to_pods(allowed(found, "ingress", pod[end]), "ingress", {"somebody": "else"})
    assert not allowed(found, "ingress", pod["migrate"])
    assert not allowed(found, "ingress", pod["test"])


def test_callers_and_prometheus_may_come_from_where_the_values_say():
    found = resources(example("autoscaled"))
    pod = labelled(found)

    def namespaces(end: str) -> set[str]:
        peers = [peer for rule in allowed(found, "ingress", pod[end]) for peer in rule["from"]]
        return {json.dumps(each["namespaceSelector"]["matchLabels"]) for each in peers if "namespaceSelector" in each}

    monitoring = '{"kubernetes.io/metadata.name": "monitoring"}'
    callers = {'{"kubernetes.io/metadata.name": "gateways"}', '{"ai-service/caller": "true"}'}
    assert namespaces("api") == {monitoring, *callers}
    assert namespaces("scheduler") == namespaces("workerllm") == {monitoring}


def test_a_closed_api_is_not_opened_by_its_metrics():
    values = merged(LEAST, {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"role": "caller"}}}]}})
    found = resources(values)

    rules = allowed(found, "ingress", labelled(found)["api"])
    assert to_pods(rules, "ingress", {"role": "caller"}) == {8080}
    assert to_pods(rules, "ingress", {"role": "other"}) == set()


def test_network_policies_may_be_left_to_others():
    assert of_kind(resources(merged(EVERYTHING, {"networkPolicy": {"enabled": False}})), "NetworkPolicy") == []


def test_the_owner_of_a_new_database_may_see_how_old_sessions_are():
    cluster = one(rendered("autoscaled"), "Cluster", "-postgresql")
    started = cluster["spec"]["bootstrap"]["initdb"]

    assert started["postInitSQL"] == [f"GRANT pg_read_all_stats TO {started['owner']}"]


# Autoscaling and monitoring


def test_a_pool_is_scaled_by_seconds_of_work_per_slot():
    found = resources(example("autoscaled"))
    spec = one(found, "ScaledObject", "worker-llm")["spec"]
    backlog, tickets = spec["triggers"]

    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 8)
    assert (
        backlog["metadata"]["query"] == 'max(aijobs_backlog_seconds{job="ai-service",namespace="ai",queue="gpu.llm"})'
    )
    assert backlog["metadata"]["threshold"] == str(32 * 120)  # slots of a pod x the wait that is wanted
    assert backlog["metricType"] == "AverageValue"
    assert backlog["metadata"]["ignoreNullValues"] == "false"
    assert tickets["metadata"]["queueName"] == r"^gpu\.llm$"
    assert "password" not in json.dumps(tickets)


def test_the_figure_that_a_pool_is_scaled_by_is_one_that_the_service_tells():
    scalers = of_kind(rendered("autoscaled"), "ScaledObject")
    queries = [trigger["metadata"].get("query", "") for each in scalers for trigger in each["spec"]["triggers"]]

    assert set(re.findall(r"aijobs_\w+", " ".join(queries))) == {"aijobs_backlog_seconds"} <= BY_NAME.keys()


def test_each_queue_of_a_pool_has_its_triggers():
    values = merged(example("autoscaled"), {})
    values["pools"][0]["queues"] = ["gpu.llm", "gpu-llm", "GPU.llm"]
    triggers = one(resources(values), "ScaledObject", "worker-llm")["spec"]["triggers"]

    # KEDA refuses two of one name.
    assert [each["name"] for each in triggers] == [
        "backlog-gpu.llm",
        "backlog-gpu-llm",
        "backlog-GPU.llm",
        "tickets-gpu.llm",
        "tickets-gpu-llm",
        "tickets-GPU.llm",
    ]


@pytest.mark.parametrize(
    ("protocol", "rabbitmq", "key"),
    [
        ("amqp", {"url": "amqp://u:p@h"}, ("ai-service-connections", "AMQP_URL")),
        (
            "http",
            {"url": "amqp://u:p@h", "managementUrl": "http://u:p@h:15672/"},
            ("ai-service-connections", "RABBITMQ_MANAGEMENT_URL"),
        ),
        ("http", {"existingSecret": "broker", "managementKey": "management"}, ("broker", "management")),
        ("amqp", {"existingSecret": "broker"}, ("broker", "AMQP_URL")),
    ],
)
def test_the_second_trigger_finds_an_external_rabbitmq(protocol: str, rabbitmq: dict[str, str], key: tuple[str, str]):
    values = merged(
        example("autoscaled"), {"rabbitmq": {"mode": "external", **rabbitmq}, "keda": {"rabbitmqProtocol": protocol}}
    )
    found = resources(values)

    [authentication] = of_kind(found, "TriggerAuthentication")
    [target] = authentication["spec"]["secretTargetRef"]
    assert (target["parameter"], target["name"], target["key"]) == ("host", *key)
    *_, tickets = one(found, "ScaledObject", "worker-llm")["spec"]["triggers"]
    assert tickets["metadata"]["protocol"] == protocol
    assert "host" not in tickets["metadata"]


def test_prometheus_scrapes_every_process_with_the_labels_of_the_rules():
    found = resources(example("autoscaled"))
    [monitor] = of_kind(found, "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    scraped = {
        labels_of(pod)["app.kubernetes.io/component"]
        for _, pod in pods(found)
        if matches(monitor["spec"]["selector"], labels_of(pod))
        and any(
            port["name"] == endpoint["port"] for container in containers(pod) for port in container.get("ports", [])
        )
    }

    assert scraped == {"api", "scheduler", "worker"}
    assert {each["targetLabel"] for each in endpoint["relabelings"]} == {"job", "component", "pool"}


def test_each_alert_leads_to_its_part_of_the_runbook():
    [rules] = of_kind(resources(example("three-gpus")), "PrometheusRule")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]

    assert alerts
    for alert in alerts:
        page, _, heading = alert["annotations"]["runbook_url"].partition("#")
        assert page == "https://docs.example.com/ai-service/runbook.html"
        assert heading == alert["alert"].lower()


def test_the_dashboard_is_one_that_grafana_reads():
    found = resources(example("three-gpus"))

    assert json.loads(one(found, "ConfigMap", "-dashboard")["data"]["ai-service.json"])["panels"]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_test_of_helm_tells_whether_the_api_is_ready(status: int, code: int):
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", (CHART / "files" / "ready.py").read_text(encoding="utf-8")],
            env={"AI_SERVICE_URL": f"http://127.0.0.1:{server.server_port}", "TEST_TIMEOUT": "0", "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        server.shutdown()
    assert done.returncode == code
    assert ("503" in done.stderr) is (code == 1)


def test_model_servers_are_of_the_version_that_is_known():
    compose = (ROOT / "deploy" / "ai-server" / "docker-compose.yml").read_text(encoding="utf-8")
    [version] = set(re.findall(r"VLLM_VERSION:-([0-9.]+)", compose))
    images = [
        pool["modelServer"]["image"]
        for name in EXAMPLES
        for pool in example(name)["pools"]
        if "vllm" in pool.get("modelServer", {}).get("image", "")
    ]

    assert {re.sub(r".*:v?", "", image) for image in images} == {version}


def test_the_tests_of_helm_use_the_image_itself():
    found = resources(EVERYTHING)
    [api] = one(found, "Deployment", "-api")["spec"]["template"]["spec"]["containers"]
    tests = of_kind(found, "Pod")

    assert [name_of(each) for each in tests] == ["ai-service-test-ready", "ai-service-test-queues"]
    for test in tests:
        assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert test["spec"]["containers"][0]["image"] == api["image"] == "ai-service@sha256:" + "0" * 64
