{{/*
What the schema cannot see: values that do not go together, and secrets, which it would repeat. Each line names the value.
*/}}
{{- define "ai-service.check" -}}
{{- include "ai-service.checkNames" . -}}
{{- include "ai-service.checkSecrets" . -}}
{{- include "ai-service.checkConnections" . -}}
{{- include "ai-service.checkAccess" . -}}
{{- include "ai-service.checkVariables" (dict "root" . "settings" .Values.settings "at" "settings") -}}
{{- include "ai-service.checkVariables" (dict "root" . "settings" .Values.workers.settings "at" "workers.settings") -}}
{{- $_ := include "ai-service.configuration" (dict "root" . "pool" "") -}}
{{- $names := list -}}
{{- range $index, $pool := .Values.pools -}}
  {{- $at := printf "pools[%d] (%s)" $index $pool.name -}}
  {{- if has $pool.name $names }}{{ fail (printf "%s: another pool has that name" $at) }}{{ end -}}
  {{- $names = append $names $pool.name -}}
  {{- include "ai-service.checkPool" (dict "root" $ "pool" $pool "at" $at) -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.checkNames" -}}
{{- $full := include "ai-service.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) }}{{ fail (printf "fullnameOverride: the name of a Service begins with a letter and has no dot; %s, made of the release's, does not do" $full) }}{{ end -}}
{{- include "ai-service.checkLabels" (dict "labels" .Values.commonLabels "at" "commonLabels") -}}
{{- include "ai-service.checkLabels" (dict "labels" .Values.api.podLabels "at" "api.podLabels") -}}
{{- include "ai-service.checkLabels" (dict "labels" .Values.scheduler.podLabels "at" "scheduler.podLabels") -}}
{{- include "ai-service.checkLabels" (dict "labels" .Values.workers.podLabels "at" "workers.podLabels") -}}
{{- range $index, $pool := .Values.pools -}}
  {{- include "ai-service.checkLabels" (dict "labels" $pool.podLabels "at" (printf "pools[%d] (%s).podLabels" $index $pool.name)) -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.checkLabels" -}}
{{- $at := .at -}}
{{- range $label, $_ := default dict .labels -}}
  {{- if or (hasPrefix "ai-service/" $label) (has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component")) -}}
    {{- fail (printf "%s.%s: pods are found by it; the chart sets it" $at $label) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.checkSecrets" -}}
{{- range list
  (list "postgresql.url" .Values.postgresql.url "^postgres(ql)?://[^\\s#]+$" "a URL such as postgresql://user:password@host:5432/database")
  (list "postgresql.directUrl" .Values.postgresql.directUrl "^postgres(ql)?://[^\\s#]+$" "a URL such as postgresql://user:password@host:5432/database")
  (list "rabbitmq.url" .Values.rabbitmq.url "^amqps?://[^\\s#]+$" "a URL such as amqp://user:password@host:5672/vhost")
  (list "rabbitmq.managementUrl" .Values.rabbitmq.managementUrl "^https?://[^\\s#]+$" "a URL such as http://user:password@host:15672/")
  (list "auth.token" .Values.auth.token "^[!-~]{8,}$" "at least 8 characters of ASCII, without spaces")
-}}
{{- if and (index . 1) (not (regexMatch (index . 2) (index . 1))) }}{{ fail (printf "%s: what was given cannot be used; expected %s" (index . 0) (index . 3)) }}{{ end -}}
{{- end -}}
{{- range $token, $means := .Values.auth.tokens -}}
  {{- if not (regexMatch "^[!-~]{8,}$" $token) }}{{ fail "auth.tokens: one of them cannot be used; expected at least 8 characters of ASCII, without spaces" }}{{ end -}}
  {{- if not (or (kindIs "string" $means) (kindIs "map" $means)) }}{{ fail "auth.tokens: expected an owner for each token, or a table" }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.checkConnections" -}}
{{- with .Values.postgresql -}}
{{- if eq .mode "external" -}}
  {{- if not (or .url .existingSecret) }}{{ fail "postgresql.url: give the URL of an external PostgreSQL, or postgresql.existingSecret, or set postgresql.mode to cloudnativepg" }}{{ end -}}
  {{- if and .url .existingSecret }}{{ fail "postgresql.url: postgresql.existingSecret is given as well; which of them holds?" }}{{ end -}}
  {{- if and .directUrl .existingSecret }}{{ fail "postgresql.directUrl: the URL comes from postgresql.existingSecret; name its key in postgresql.directKey" }}{{ end -}}
{{- else -}}
  {{- if or .url .existingSecret }}{{ fail "postgresql.mode: cloudnativepg makes its own URL; leave postgresql.url and postgresql.existingSecret empty" }}{{ end -}}
  {{- if eq $.Values.migrations.mode "hook" }}{{ fail "migrations.mode: hook runs before the Cluster of CloudNativePG is there; use job" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .Values.rabbitmq -}}
{{- if eq .mode "external" -}}
  {{- if not (or .url .existingSecret) }}{{ fail "rabbitmq.url: give the URL of an external RabbitMQ, or rabbitmq.existingSecret, or set rabbitmq.mode to operator or none" }}{{ end -}}
  {{- if and .url .existingSecret }}{{ fail "rabbitmq.url: rabbitmq.existingSecret is given as well; which of them holds?" }}{{ end -}}
  {{- if and .managementUrl .existingSecret }}{{ fail "rabbitmq.managementUrl: the URLs come from rabbitmq.existingSecret; name its key in rabbitmq.managementKey" }}{{ end -}}
{{- else if or .url .existingSecret -}}
  {{- fail (printf "rabbitmq.mode: %s needs no URL; leave rabbitmq.url and rabbitmq.existingSecret empty" .mode) -}}
{{- end -}}
{{- end -}}
{{- range $variable, $_ := .Values.secrets.values -}}
  {{- if has $variable (list "DATABASE_URL" "DATABASE_DIRECT_URL" "AMQP_URL" "RABBITMQ_MANAGEMENT_URL" "AI_SERVICE_TOKEN" "AI_SERVICE_TOKENS" "AI_SERVICE_CONFIG") -}}
    {{- fail (printf "secrets.values.%s: has a place of its own in postgresql, rabbitmq, auth or config" $variable) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.checkAccess" -}}
{{- if and .Values.certificates.existingSecret .Values.certificates.existingConfigMap }}{{ fail "certificates.existingConfigMap: certificates.existingSecret is given as well; which of them holds?" }}{{ end -}}
{{- with .Values.auth -}}
{{- $guarded := or .token .existingSecret .tokens .tokensExistingSecret -}}
{{- if not (or $guarded .open) }}{{ fail "auth: give a token (auth.token, auth.existingSecret, auth.tokens or auth.tokensExistingSecret), or let everybody do everything with auth.open: true" }}{{ end -}}
{{- if and $guarded .open }}{{ fail "auth.open: tokens are given as well; leave it false" }}{{ end -}}
{{- if and .token .existingSecret }}{{ fail "auth.token: auth.existingSecret is given as well; which of them holds?" }}{{ end -}}
{{- if and .tokens .tokensExistingSecret }}{{ fail "auth.tokens: auth.tokensExistingSecret is given as well; which of them holds?" }}{{ end -}}
{{- if and .tokens (hasSuffix ".toml" .tokensKey) }}{{ fail "auth.tokensKey: auth.tokens is written as JSON; let the key end in .json" }}{{ end -}}
{{- end -}}
{{- with .Values.api -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
  {{- fail (printf "api.autoscaling.minReplicas: %d is more than maxReplicas, %d" (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .autoscaling.enabled (not (dig "requests" "cpu" "" .resources)) }}{{ fail "api.resources.requests.cpu: api.autoscaling goes by it" }}{{ end -}}
{{- if and .ingress.enabled (not .ingress.hosts) }}{{ fail "api.ingress.hosts: name at least one" }}{{ end -}}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}{{ fail "api.httpRoute.parentRefs: name at least one gateway" }}{{ end -}}
{{- end -}}
{{- with .Values.networkPolicy -}}
{{- if and .enabled .clients (not .prometheus) $.Values.monitoring.podMonitor.enabled }}{{ fail "networkPolicy.prometheus: the API's port is closed to all but networkPolicy.clients; name who scrapes it" }}{{ end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}{{ fail "serviceAccount.name: none is created, so name one that is there" }}{{ end -}}
{{- end -}}

{{- define "ai-service.checkVariables" -}}
{{- $known := .root.Files.Lines "files/variables.txt" -}}
{{- $at := .at -}}
{{- range $variable, $_ := default dict .settings -}}
  {{- if not (or (has $variable $known) (hasPrefix "OTEL_" $variable)) }}{{ fail (printf "%s.%s: the service reads no such variable, or the chart sets it by a value of its own" $at $variable) }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.checkPool" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $at := .at -}}
{{- include "ai-service.checkVariables" (dict "root" $root "settings" $pool.settings "at" (printf "%s.settings" $at)) -}}
{{- $server := $pool.modelServer -}}
{{- range $name, $profile := default dict $pool.profiles -}}
  {{- $here := printf "%s.profiles.%s" $at $name -}}
  {{- if hasKey (default dict (default dict $root.Values.config).profiles) $name }}{{ fail (printf "%s: config.profiles has it too; say it once" $here) }}{{ end -}}
  {{- if and $profile.queue (not (has $profile.queue $pool.queues)) }}{{ fail (printf "%s.queue: the pool's workers do not serve %s; its queues are %s" $here $profile.queue (join ", " $pool.queues)) }}{{ end -}}
  {{- $needsOne := has (default "openai" $profile.provider) (list "openai" "vllm" "llama-server" "speaches" "faster-whisper" "whisper-asr") -}}
  {{- if and $needsOne (not $profile.base_url) (not $server) }}{{ fail (printf "%s.base_url: say where its server is, or give the pool a modelServer" $here) }}{{ end -}}
{{- end -}}
{{- if and $server (not $pool.profiles) }}{{ fail (printf "%s.profiles: nobody would call its modelServer; name the models that it serves" $at) }}{{ end -}}
{{- $most := int (ternary $pool.replicas $root.Values.workers.replicas (hasKey $pool "replicas")) -}}
{{- with $pool.autoscaling -}}
  {{- $most = int .maxReplicas -}}
  {{- if hasKey $pool "replicas" }}{{ fail (printf "%s.replicas: autoscaling decides how many there are; leave one of them out" $at) }}{{ end -}}
  {{- if gt (int .minReplicas) (int .maxReplicas) }}{{ fail (printf "%s.autoscaling.minReplicas: %d is more than maxReplicas, %d" $at (int .minReplicas) (int .maxReplicas)) }}{{ end -}}
  {{- if gt (int (default dict .fallback).replicas) (int .maxReplicas) }}{{ fail (printf "%s.autoscaling.fallback.replicas: %d is more than maxReplicas, %d" $at (int .fallback.replicas) (int .maxReplicas)) }}{{ end -}}
  {{- if not $root.Values.keda.prometheusUrl }}{{ fail (printf "keda.prometheusUrl: %s.autoscaling goes by the backlog that Prometheus tells; say where it is" $at) }}{{ end -}}
  {{- if (default dict .rabbitmq).enabled -}}
    {{- $rabbitmq := $root.Values.rabbitmq -}}
    {{- $http := eq $root.Values.keda.rabbitmqProtocol "http" -}}
    {{- if eq $rabbitmq.mode "none" }}{{ fail (printf "%s.autoscaling.rabbitmq.enabled: rabbitmq.mode is none" $at) }}{{ end -}}
    {{- if and $http (eq $rabbitmq.mode "external") (not (or $rabbitmq.managementUrl $rabbitmq.managementKey)) }}{{ fail (printf "keda.rabbitmqProtocol: http needs rabbitmq.managementUrl or rabbitmq.managementKey, for %s.autoscaling.rabbitmq" $at) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- with $server -}}
  {{- $cache := default dict .cache -}}
  {{- if gt (len (keys $cache)) 1 }}{{ fail (printf "%s.modelServer.cache: choose one of %s" $at (keys $cache | sortAlpha | join ", ")) }}{{ end -}}
  {{- with $cache.claim -}}
    {{- if and (gt $most 1) (not (has "ReadWriteMany" (default list .accessModes))) }}{{ fail (printf "%s.modelServer.cache.claim.accessModes: %d pods share it, and nodes only share ReadWriteMany" $at $most) }}{{ end -}}
  {{- end -}}
  {{- if eq (int (default 8000 .port)) 8081 }}{{ fail (printf "%s.modelServer.port: 8081 is the worker's own" $at) }}{{ end -}}
  {{- $name := default "nvidia.com/gpu" .gpuResource -}}
  {{- range $part := list "requests" "limits" -}}
    {{- if hasKey (default dict (get (default dict $server.resources) $part)) $name }}{{ fail (printf "%s.modelServer.resources.%s: say how many GPUs in gpus" $at $part) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
