{{/*
How many pods a pool has. A queue's backlog is in seconds of a slot's time, so the pods that do it within the wanted
time are the backlog over (slots of a pod x that time).
*/}}
{{- define "ai-service.scaledObject" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $keda := $root.Values.keda -}}
{{- $scaling := $pool.autoscaling -}}
{{- $depth := default dict $scaling.rabbitmq -}}
{{- $operator := eq $root.Values.rabbitmq.mode "operator" -}}
{{- $http := eq $keda.rabbitmqProtocol "http" -}}
{{- $matchers := default (printf "namespace=%q" $root.Release.Namespace) $keda.matchers -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ .name }}
  labels:
    {{- include "ai-service.labels" .about | nindent 4 }}
spec:
  scaleTargetRef:
    name: {{ .name }}
  minReplicaCount: {{ int $scaling.minReplicas }}
  maxReplicaCount: {{ int $scaling.maxReplicas }}
  pollingInterval: {{ int (default 15 $scaling.pollingSeconds) }}
  cooldownPeriod: {{ int (ternary $scaling.cooldownSeconds 600 (hasKey $scaling "cooldownSeconds")) }}
  {{- with $scaling.fallback }}
  fallback:
    failureThreshold: {{ int (default 3 .afterFailures) }}
    replicas: {{ int .replicas }}
  {{- end }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: {{ int (ternary $scaling.scaleDownSeconds 300 (hasKey $scaling "scaleDownSeconds")) }}
          policies:
            - {type: Pods, value: {{ int (default 1 $scaling.scaleDownPods) }}, periodSeconds: 60}
  triggers:
    {{- range $queue := $pool.queues }}
    - type: prometheus
      name: {{ printf "backlog-%s" $queue | quote }}
      metricType: AverageValue
      metadata:
        serverAddress: {{ $keda.prometheusUrl }}
        query: {{ printf "max(aijobs_backlog_seconds{job=\"ai-service\",%s,queue=%q})" $matchers $queue | quote }}
        threshold: {{ mul (int $pool.concurrency) (int (default 60 $scaling.targetWaitSeconds)) | quote }}
        activationThreshold: "0"
        # No figure is no backlog of zero: nobody leads, or Prometheus sees nobody.
        ignoreNullValues: "false"
        {{- with $keda.authModes }}
        authModes: {{ . }}
        {{- end }}
      {{- with $keda.authentication }}
      authenticationRef:
        name: {{ . }}
      {{- end }}
    {{- end }}
    {{- if $depth.enabled }}
    {{- range $queue := $pool.queues }}
    - type: rabbitmq
      name: {{ printf "tickets-%s" $queue | quote }}
      metricType: AverageValue
      metadata:
        mode: QueueLength
        value: {{ int (default 50 $depth.ticketsPerPod) | quote }}
        activationValue: "0"
        {{- if $http }}
        protocol: http
        # By an expression: a queue that is not there yet is empty, and no error.
        queueName: {{ printf "^%s$" (regexQuoteMeta $queue) | quote }}
        useRegex: "true"
        excludeUnacknowledged: "true"
        vhostName: {{ $keda.rabbitmqVhost | quote }}
        {{- else }}
        protocol: amqp
        queueName: {{ $queue | quote }}
        {{- end }}
        {{- if and $http $operator }}
        host: http://{{ include "ai-service.rabbitmqCluster" $root }}.{{ $root.Release.Namespace }}.svc:15672/
        {{- end }}
      authenticationRef:
        name: {{ include "ai-service.fullname" $root }}-rabbitmq
    {{- end }}
    {{- end }}
{{- end -}}
