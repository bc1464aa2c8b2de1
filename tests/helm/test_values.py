"""Wrong values are refused with a line that names them; the reference of values is that of the schema."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python as helm
import pytest

from app import configfile
from tests.helm.chart import LEAST, ROOT, Values, merged, render
from tests.helm.table import DEFAULTS, README, SCHEMA, Schema, resolved, rows, written
from tests.helm.variables import FILE, MANAGED, UP_ONLY, read_by_the_service, settable

MODEL: Values = {"image": "vllm/vllm-openai:v0.27.1"}
PROFILES: Values = {"qwen2.5-14b": {"provider": "vllm"}}


def pool(**said: Any) -> Values:
    return {"pools": [{"name": "llm", "queues": ["gpu.llm"], **said}]}


def scaled(**said: Any) -> Values:
    return {"keda": {"prometheusUrl": "http://prometheus:9090"}, **pool(autoscaling={"maxReplicas": 4, **said})}


def cached(**cache: Any) -> Values:
    return pool(profiles=PROFILES, modelServer={**MODEL, "cache": cache})


WRONG: dict[str, tuple[Values, str]] = {
    "an unknown value": ({"replicaCount": 2}, "'replicaCount' not allowed"),
    "an unknown value of the API": ({"api": {"replicsa": 2}}, "at '/api': additional properties 'replicsa'"),
    "an unknown value of a pool": (pool(replcas=2), "at '/pools/0': additional properties 'replcas'"),
    "an unknown variable": (
        {"settings": {"LLM_TIMOUT": "5m"}},
        "settings.LLM_TIMOUT: the service reads no such variable",
    ),
    "a variable of the chart": (
        {"settings": {"DATABASE_URL": "x"}},
        "settings.DATABASE_URL: the service reads no such variable, or the chart sets it",
    ),
    "a misspelt variable of a pool": (
        pool(settings={"LOG_LEVL": "info"}),
        "pools[0] (llm).settings.LOG_LEVL: the service",
    ),
    "a variable that is no text": (
        {"settings": {"CIRCUIT_THRESHOLD": 5}},
        "at '/settings/CIRCUIT_THRESHOLD': got number",
    ),
    "a variable that is no duration": (
        {"settings": {"LLM_TIMEOUT": "5 minutes"}},
        "at '/settings/LLM_TIMEOUT': '5 minutes'",
    ),
    "a tag with a space": ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b'"),
    "a tag within the repository": ({"image": {"repository": "Registry/ai service"}}, "at '/image/repository'"),
    "a digest cut short": ({"image": {"digest": "sha256:abc"}}, "at '/image/digest': 'sha256:abc'"),
    "a label that pods are found by": (
        {"commonLabels": {"app.kubernetes.io/name": "ours"}},
        "commonLabels.app.kubernetes.io/name: pods are found by it",
    ),
    "such a label of a pool": (
        pool(podLabels={"ai-service/pool": "ours"}),
        "pools[0] (llm).podLabels.ai-service/pool: pods are found by it",
    ),
    "a name that begins with a digit": (
        {"fullnameOverride": "2nd"},
        "fullnameOverride: the name of a Service begins with a letter and has no dot; 2nd",
    ),
    "a part left empty": ({"api": None}, "missing property 'api'"),
    "a value left empty": ({"keda": {"prometheusUrl": None}}, "at '/keda': missing property 'prometheusUrl'"),
    "no pods of the API": ({"api": {"replicas": 0}}, "at '/api/replicas': minimum: got 0"),
    "words for a number": ({"scheduler": {"replicas": "two"}}, "at '/scheduler/replicas': got string, want integer"),
    "memory in a unit that is none": ({"api": {"tmpSize": "1 gigabyte"}}, "at '/api/tmpSize': '1 gigabyte'"),
    "a request that is no quantity": (
        {"workers": {"resources": {"requests": {"memory": "lots"}}}},
        "at '/workers/resources/requests/memory': 'lots'",
    ),
    "a database of another kind": ({"postgresql": {"mode": "mysql"}}, "at '/postgresql/mode': value must be one of"),
    "an address of another kind": (
        {"postgresql": {"url": "mysql://db/x", "existingSecret": ""}},
        "postgresql.url: what was given cannot be used; expected a URL such as postgresql://",
    ),
    "an even number of nodes": ({"rabbitmq": {"cluster": {"replicas": 2}}}, "at '/rabbitmq/cluster/replicas'"),
    "a queue type that is none": ({"rabbitmq": {"queueType": "stream"}}, "at '/rabbitmq/queueType'"),
    "a pool without a name": ({"pools": [{"queues": ["gpu.llm"]}]}, "at '/pools/0': missing property 'name'"),
    "a pool without queues": (pool(queues=[]), "at '/pools/0/queues': minItems"),
    "a pool's name in capitals": (pool(name="GPU"), "at '/pools/0/name': 'GPU'"),
    "a pool's name too long": (pool(name="a" * 19), "at '/pools/0/name': maxLength: got 19, want 18"),
    "a queue with a slash": (pool(queues=["gpu/llm"]), "at '/pools/0/queues/0': 'gpu/llm'"),
    "no concurrency": (pool(concurrency=0), "at '/pools/0/concurrency': minimum: got 0"),
    "too much concurrency": (pool(concurrency=1001), "at '/pools/0/concurrency': maximum: got 1,001"),
    "a toleration misspelt": (
        pool(tolerations=[{"ky": "x"}]),
        "at '/pools/0/tolerations/0': additional properties 'ky'",
    ),
    "an image without a tag": (
        pool(profiles=PROFILES, modelServer={"image": "vllm/vllm-openai"}),
        "at '/pools/0/modelServer/image': 'vllm/vllm-openai'",
    ),
    "a key in the configuration file": (
        {"config": {"profiles": {"claude": {"provider": "anthropic", "api_key": "sk"}}}},
        "at '/config/profiles/claude': additional properties 'api_key'",
    ),
    "a provider that is none": (
        {"config": {"profiles": {"x": {"provider": "openia"}}}},
        "at '/config/profiles/x/provider': value must be one of",
    ),
    "a share above the largest": (
        {"config": {"queues": {"gpu.llm": {"reserved_share": 0.9}}}},
        "at '/config/queues/gpu.llm/reserved_share': maximum: got 0.9, want 0.5",
    ),
    "a token too short": (
        {"auth": {"token": "short", "existingSecret": ""}},
        "auth.token: what was given cannot be used; expected at least 8",
    ),
    "labels that no query has": (
        {"keda": {"matchers": "cluster is a"}},
        "at '/keda/matchers': 'cluster is a'",
    ),
    # What the schema cannot see.
    "nobody asked for a token": ({"auth": {"existingSecret": ""}}, "auth: give a token"),
    "open in spite of a token": ({"auth": {"open": True}}, "auth.open: tokens are given as well"),
    "two tokens": ({"auth": {"token": "a-long-token"}}, "auth.token: auth.existingSecret is given as well"),
    "no database": ({"postgresql": {"existingSecret": ""}}, "postgresql.url: give the URL"),
    "two databases": (
        {"postgresql": {"url": "postgresql://h/d"}},
        "postgresql.url: postgresql.existingSecret is given",
    ),
    "a database beside the operator's": (
        {"postgresql": {"mode": "cloudnativepg"}},
        "postgresql.mode: cloudnativepg makes",
    ),
    "a hook before the operator's database": (
        {"postgresql": {"mode": "cloudnativepg", "existingSecret": ""}, "migrations": {"mode": "hook"}},
        "migrations.mode: hook runs before",
    ),
    "no broker": ({"rabbitmq": {"mode": "external"}}, "rabbitmq.url: give the URL"),
    "a broker that is not used": ({"rabbitmq": {"url": "amqp://h"}}, "rabbitmq.mode: none needs no URL"),
    "a connection among the keys": (
        {"secrets": {"values": {"AMQP_URL": "amqp://h"}}},
        "secrets.values.AMQP_URL: has a place of its own",
    ),
    "two pools of one name": (
        {"pools": [{"name": "a", "queues": ["x"]}, {"name": "a", "queues": ["y"]}]},
        "pools[1] (a): another pool has that name",
    ),
    "a profile on another pool's queue": (
        pool(profiles={"m": {"base_url": "http://h", "queue": "gpu.speech"}}),
        "pools[0] (llm).profiles.m.queue: the pool's workers do not serve gpu.speech",
    ),
    "a profile without a server": (pool(profiles=PROFILES), "pools[0] (llm).profiles.qwen2.5-14b.base_url: say where"),
    "a profile said twice": (
        {"config": {"profiles": {"m": {"base_url": "http://h"}}}, **pool(profiles={"m": {"base_url": "http://i"}})},
        "pools[0] (llm).profiles.m: config.profiles has it too",
    ),
    "a model server that nobody calls": (pool(modelServer=MODEL), "pools[0] (llm).profiles: nobody would call"),
    "a model server on the worker's port": (
        pool(profiles=PROFILES, modelServer={**MODEL, "port": 8081}),
        "pools[0] (llm).modelServer.port: 8081 is the worker's own",
    ),
    "GPUs said twice": (
        pool(profiles=PROFILES, modelServer={**MODEL, "resources": {"limits": {"nvidia.com/gpu": 1}}}),
        "pools[0] (llm).modelServer.resources.limits: say how many GPUs in gpus",
    ),
    "two caches": (
        cached(existingClaim="a", hostPath="/b"),
        "modelServer.cache: choose one of existingClaim, hostPath",
    ),
    "a volume that nodes cannot share": (
        merged(cached(claim={"size": "1Gi"}), {"workers": {"replicas": 2}}),
        "modelServer.cache.claim.accessModes: 2 pods share it",
    ),
    "a number and a scaler": (
        {"keda": {"prometheusUrl": "http://p"}, **pool(replicas=2, autoscaling={"maxReplicas": 4})},
        "pools[0] (llm).replicas: autoscaling decides",
    ),
    "a scaler without figures": (
        pool(autoscaling={"maxReplicas": 4}),
        "keda.prometheusUrl: pools[0] (llm).autoscaling",
    ),
    "more at least than at most": (scaled(minReplicas=5), "pools[0] (llm).autoscaling.minReplicas: 5 is more than"),
    "a fallback above the most": (scaled(fallback={"replicas": 9}), "autoscaling.fallback.replicas: 9 is more than"),
    "a trigger without a broker": (
        scaled(rabbitmq={"enabled": True}),
        "autoscaling.rabbitmq.enabled: rabbitmq.mode is none",
    ),
    "a trigger without a management API": (
        {"rabbitmq": {"mode": "external", "existingSecret": "s"}, **scaled(rabbitmq={"enabled": True})},
        "keda.rabbitmqProtocol: http needs rabbitmq.managementUrl",
    ),
    "an API that shrinks upwards": (
        {"api": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
        "api.autoscaling.minReplicas: 9 is more than maxReplicas, 6",
    ),
    "certificates in two places": (
        {"certificates": {"existingSecret": "a", "existingConfigMap": "b"}},
        "certificates.existingConfigMap: certificates.existingSecret is given as well",
    ),
    "an ingress to nowhere": ({"api": {"ingress": {"enabled": True}}}, "api.ingress.hosts: name at least one"),
    "a route from nowhere": ({"api": {"httpRoute": {"enabled": True}}}, "api.httpRoute.parentRefs: name at least one"),
    "nobody's account": ({"serviceAccount": {"create": False}}, "serviceAccount.name: none is created"),
    "metrics behind a closed door": (
        {"networkPolicy": {"clients": [{"podSelector": {}}]}, "monitoring": {"podMonitor": {"enabled": True}}},
        "networkPolicy.prometheus: the API's port is closed",
    ),
}


def test_the_least_that_has_to_be_said_is_enough():
    assert render(LEAST)


@pytest.mark.parametrize(
    "part",
    [
        {"settings": None, "config": None, "pools": None, "commonLabels": None},
        {"secrets": {"values": None, "existing": None}, "image": {"pullSecrets": None}},
        {"api": {"podLabels": None, "tolerations": None, "topologySpread": None}, "workers": {"settings": None}},
        {"networkPolicy": {"clients": None, "egress": None}, "auth": {"tokens": None}},
        {"podSecurityContext": None, "securityContext": None},
    ],
)
def test_lists_and_tables_that_are_left_empty_are_empty(part: Values):
    assert render(merged(LEAST, part))


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_value_is_refused_by_its_name(what: str):
    values, named = WRONG[what]

    with pytest.raises((helm.HelmValuesError, helm.HelmRenderError)) as refused:
        render(merged(LEAST, values))
    assert named in str(refused.value)


@pytest.mark.parametrize("release", ["2nd", "ai.second"])
def test_a_release_whose_name_does_for_no_service_is_refused(release: str):
    with pytest.raises(helm.HelmRenderError, match="fullnameOverride: the name of a Service"):
        render(LEAST, release=release)
    assert render(merged(LEAST, {"fullnameOverride": "second"}), release=release)


@pytest.mark.parametrize(
    "values",
    [
        {"postgresql": {"url": "postgresql://ai:hunter2@db/ai"}},
        {"postgresql": {"url": "mysql://ai:hunter2@db/ai", "existingSecret": ""}},
        {"postgresql": {"directUrl": "hunter2"}},
        {"rabbitmq": {"mode": "external", "url": "http://ai:hunter2@mq"}},
        {"rabbitmq": {"mode": "external", "url": "amqp://mq", "managementUrl": "ai:hunter2@mq"}},
        {"auth": {"token": "hunter2", "existingSecret": ""}},
        {"auth": {"token": "hunter2hunter2"}},
        {"auth": {"tokens": {"hunter2": "telephony"}}},
        {"auth": {"tokens": {"hunter2hunter2": 3}}},
        {"secrets": {"values": {"AMQP_URL": "amqp://ai:hunter2@mq"}}},
    ],
)
def test_what_is_refused_repeats_no_secret(values: Values):
    with pytest.raises(helm.HelmRenderError) as refused:
        render(merged(LEAST, values))
    assert "hunter2" not in str(refused.value)


def test_no_object_of_the_schema_takes_unknown_fields():
    assert not [
        path for path, schema in _objects(SCHEMA, "") if "additionalProperties" not in schema and "properties" in schema
    ]


def _objects(schema: Any, path: str) -> list[tuple[str, Schema]]:
    if isinstance(schema, list):
        return [found for place, each in enumerate(schema) for found in _objects(each, f"{path}/{place}")]
    if not isinstance(schema, dict):
        return []
    here = [(path, schema)] if schema.get("type") == "object" else []
    return here + [found for name, each in schema.items() for found in _objects(each, f"{path}/{name}")]


def test_every_value_has_a_default_and_a_description():
    for path, _, description in rows(SCHEMA, DEFAULTS):
        assert description, path

    assert _names(SCHEMA, DEFAULTS) == []


def _names(schema: Schema, defaults: Any, path: str = "") -> list[str]:
    """Places where the schema and the defaults have other names."""
    known = resolved(schema)
    if "properties" not in known or path.endswith((".resources", ".affinity", "/settings", "/config")):
        return []
    told = set(known["properties"]) - {"global"}
    # A pool's own default depends on whether it has a model server.
    missing = (told ^ set(defaults)) - ({"maxSurge"} if path == "/workers" else set())
    deeper = [
        place
        for name in told & set(defaults)
        if isinstance(defaults[name], dict) and name not in ("resources", "affinity", "settings", "config")
        for place in _names(known["properties"][name], defaults[name], f"{path}/{name}")
    ]
    return [f"{path}: {sorted(missing)}", *deeper] if missing else deeper


def test_the_reference_in_the_readme_is_that_of_the_schema():
    page = README.read_text(encoding="utf-8")

    assert page == written(page), "`python -m tests.helm` writes it"


def test_every_variable_of_the_service_can_be_set_and_no_other():
    assert FILE.read_text(encoding="utf-8") == settable(), "`python -m tests.helm` writes it"


def test_the_variables_that_the_chart_keeps_for_itself_are_those_of_the_service():
    assert read_by_the_service() >= MANAGED | UP_ONLY


def test_what_the_schema_says_of_variables_is_of_those_that_there_are():
    assert set(SCHEMA["properties"]["settings"]["properties"]) <= set(settable().split())


def test_what_the_schema_says_of_the_configuration_file_is_what_the_service_reads():
    config = SCHEMA["$defs"]["config"]["properties"]
    assert set(config) == set(configfile.PARTS)
    fields = {part: set(config[part]["additionalProperties"]["properties"]) for part in configfile.SHARING}
    assert fields == {
        "queues": set(configfile.QUEUE),
        "owners": set(configfile.OWNER),
        "task_types": set(configfile.TASK),
    }
    assert set(SCHEMA["$defs"]["profile"]["properties"]) == set(configfile.PROFILE) - {"api_key"}
    assert set(SCHEMA["$defs"]["endpoint"]["properties"]) == set(configfile.ENDPOINT) - {"api_key"}


def test_the_chart_is_of_this_version():
    chart = (ROOT / "helm" / "Chart.yaml").read_text(encoding="utf-8")
    [version] = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

    assert re.findall(r"^(?:version|appVersion): (.*)$", chart, re.MULTILINE) == [version, version]
    assert json.dumps(SCHEMA)
