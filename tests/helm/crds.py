"""Schemas of the operators' resources that the chart makes: enough of each to refuse what its operator would.

Written after the operators' own definitions. What the chart never sets is mostly left out, so it is refused like a
field that nobody knows.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1}
TRUTH: Schema = {"type": "boolean"}
STRINGS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {
    "type": ["string", "integer"],
    "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}


def thing(*required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def things(item: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": item, **bounds}


def whole(least: int | None = None) -> Schema:
    return {"type": "integer", "format": "int32"} | ({} if least is None else {"minimum": least})


def choice(*values: str) -> Schema:
    return {"enum": list(values)}


def resource(api_version: str, kind: str, spec: Schema) -> Schema:
    metadata = thing("name", name=NAME, namespace=NAME, labels=STRINGS, annotations=STRINGS)
    return thing(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


REQUIREMENTS = thing(
    "key", "operator", key=TEXT, operator=choice("In", "NotIn", "Exists", "DoesNotExist"), values=things(TEXT)
)
SELECTOR = thing(matchLabels=STRINGS, matchExpressions=things(REQUIREMENTS))
RESOURCES = thing(
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
DURATION: Schema = {
    "type": "string",
    "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
}

RELABELLING = thing(
    sourceLabels=things({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}),
    separator=TEXT,
    targetLabel=TEXT,
    regex=TEXT,
    modulus=whole(),
    replacement=TEXT,
    action=choice("replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase"),
)
POD_MONITOR = resource(
    "monitoring.coreos.com/v1",
    "PodMonitor",
    thing(
        "selector",
        jobLabel=TEXT,
        podTargetLabels=things(TEXT),
        selector=SELECTOR,
        namespaceSelector=thing(any=TRUTH, matchNames=things(TEXT)),
        podMetricsEndpoints=things(
            thing(
                port=TEXT,
                path=TEXT,
                scheme=choice("http", "https"),
                interval=DURATION,
                scrapeTimeout=DURATION,
                honorLabels=TRUTH,
                relabelings=things(RELABELLING),
                metricRelabelings=things(RELABELLING),
            )
        ),
    ),
)

RULE: Schema = {
    **thing(
        "expr",
        record=TEXT,
        alert=TEXT,
        expr={"type": ["string", "integer"]},
        **{"for": DURATION, "keep_firing_for": DURATION},
        labels=STRINGS,
        annotations=STRINGS,
    ),
    "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
}
PROMETHEUS_RULE = resource(
    "monitoring.coreos.com/v1",
    "PrometheusRule",
    thing(groups=things(thing("name", name=NAME, interval=DURATION, limit=whole(), rules=things(RULE)))),
)

SCALING_RULES = thing(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy=choice("Max", "Min", "Disabled"),
    policies=things(
        thing(
            "type",
            "value",
            "periodSeconds",
            type=choice("Pods", "Percent"),
            value=whole(1),
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        )
    ),
)
TRIGGERS: dict[str, Schema] = {
    "prometheus": {
        "required": ["serverAddress", "query", "threshold"],
        "propertyNames": choice(
            "serverAddress", "query", "threshold", "activationThreshold", "namespace", "ignoreNullValues", "authModes"
        ),
        "properties": {"ignoreNullValues": choice("true", "false")},
    },
    "rabbitmq": {
        "required": ["queueName", "mode", "value"],
        "propertyNames": choice(
            "queueName",
            "mode",
            "value",
            "activationValue",
            "protocol",
            "host",
            "vhostName",
            "useRegex",
            "excludeUnacknowledged",
        ),
        "properties": {
            "mode": choice("QueueLength", "MessageRate"),
            "protocol": choice("auto", "amqp", "http"),
            "useRegex": choice("true", "false"),
        },
    },
}
TRIGGER: Schema = {
    **thing(
        "type",
        "metadata",
        type=choice(*TRIGGERS),
        name=TEXT,
        metricType=choice("AverageValue", "Value", "Utilization"),
        useCachedMetrics=TRUTH,
        metadata=STRINGS,
        authenticationRef=thing(
            "name", name=NAME, kind=choice("TriggerAuthentication", "ClusterTriggerAuthentication")
        ),
    ),
    "allOf": [
        {"if": {"properties": {"type": {"const": kind}}}, "then": {"properties": {"metadata": metadata}}}
        for kind, metadata in TRIGGERS.items()
    ],
}
SCALED_OBJECT = resource(
    "keda.sh/v1alpha1",
    "ScaledObject",
    thing(
        "scaleTargetRef",
        "triggers",
        scaleTargetRef=thing("name", name=NAME, apiVersion=TEXT, kind=TEXT, envSourceContainerName=TEXT),
        pollingInterval=whole(),
        initialCooldownPeriod=whole(),
        cooldownPeriod=whole(),
        idleReplicaCount=whole(),
        minReplicaCount=whole(0),
        maxReplicaCount=whole(1),
        fallback=thing(
            "failureThreshold",
            "replicas",
            failureThreshold=whole(0),
            replicas=whole(0),
            behavior=choice("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"),
        ),
        advanced=thing(
            restoreToOriginalReplicaCount=TRUTH,
            horizontalPodAutoscalerConfig=thing(
                name=NAME, behavior=thing(scaleDown=SCALING_RULES, scaleUp=SCALING_RULES)
            ),
        ),
        triggers=things(TRIGGER, minItems=1),
    ),
)
TRIGGER_AUTHENTICATION = resource(
    "keda.sh/v1alpha1",
    "TriggerAuthentication",
    thing(
        secretTargetRef=things(thing("parameter", "name", "key", parameter=NAME, name=NAME, key=NAME), minItems=1),
    ),
)

CLUSTER = resource(
    "postgresql.cnpg.io/v1",
    "Cluster",
    thing(
        "instances",
        description=TEXT,
        imageName=TEXT,
        instances=whole(1),
        bootstrap=thing(
            initdb=thing(
                postInitSQL=things(TEXT),
                database=TEXT,
                owner=TEXT,
                secret=thing("name", name=NAME),
                dataChecksums=TRUTH,
                encoding=TEXT,
            )
        ),
        postgresql=thing(parameters=STRINGS, pg_hba=things(TEXT)),
        storage=thing(size=QUANTITY, storageClass=TEXT, resizeInUseVolumes=TRUTH),
        walStorage=thing(size=QUANTITY, storageClass=TEXT, resizeInUseVolumes=TRUTH),
        resources=RESOURCES,
        affinity=thing(
            enablePodAntiAffinity=TRUTH,
            topologyKey=TEXT,
            podAntiAffinityType=choice("preferred", "required"),
            nodeSelector=STRINGS,
        ),
        backup=thing(
            retentionPolicy=TEXT, target=choice("primary", "prefer-standby"), barmanObjectStore={"type": "object"}
        ),
        primaryUpdateStrategy=choice("unsupervised", "supervised"),
        priorityClassName=TEXT,
    ),
)
RABBITMQ_CLUSTER = resource(
    "rabbitmq.com/v1beta1",
    "RabbitmqCluster",
    thing(
        replicas=whole(0),
        image=TEXT,
        imagePullSecrets=things(thing(name=NAME)),
        persistence=thing(storageClassName=TEXT, storage=QUANTITY),
        resources=RESOURCES,
        service=thing(type=choice("ClusterIP", "LoadBalancer", "NodePort"), annotations=STRINGS),
        rabbitmq=thing(
            additionalPlugins=things({"type": "string", "pattern": r"^\w+$", "maxLength": 100}, maxItems=100),
            additionalConfig={"type": "string", "maxLength": 2000},
            advancedConfig=TEXT,
            envConfig=TEXT,
        ),
        tls=thing(secretName=TEXT, caSecretName=TEXT, disableNonTLSListeners=TRUTH),
        terminationGracePeriodSeconds=whole(0),
        delayStartSeconds=whole(0),
        skipPostDeploySteps=TRUTH,
    ),
)
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
HTTP_ROUTE = resource(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    thing(
        parentRefs=things(
            thing("name", group=TEXT, kind=TEXT, namespace=TEXT, name=NAME, sectionName=TEXT, port=PORT), maxItems=32
        ),
        hostnames=things({"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}, maxItems=16),
        rules=things(
            thing(
                matches=things(
                    thing(path=thing(type=choice("Exact", "PathPrefix", "RegularExpression"), value=TEXT)), maxItems=64
                ),
                backendRefs=things(
                    thing("name", group=TEXT, kind=TEXT, name=NAME, namespace=TEXT, port=PORT, weight=whole())
                ),
                timeouts=thing(request=TEXT, backendRequest=TEXT),
            ),
            maxItems=16,
        ),
    ),
)

SCHEMAS: dict[str, Schema] = {
    schema["properties"]["kind"]["const"]: schema
    for schema in (
        POD_MONITOR,
        PROMETHEUS_RULE,
        SCALED_OBJECT,
        TRIGGER_AUTHENTICATION,
        CLUSTER,
        RABBITMQ_CLUSTER,
        HTTP_ROUTE,
    )
}
