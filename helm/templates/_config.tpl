{{/*
The configuration file, the pools' profiles in it. Takes a dict of root and pool: the pool whose workers read it call
their own model server past its Service; everybody else, for whom pool is empty, by it.
*/}}
{{- define "ai-service.configuration" -}}
{{- $root := .root -}}
{{- $own := .pool -}}
{{- $config := deepCopy (default dict $root.Values.config) -}}
{{- $profiles := deepCopy (default dict $config.profiles) -}}
{{- $pools := list -}}
{{- range $root.Values.pools }}{{ if eq .name $own }}{{ $pools = append $pools . }}{{ end }}{{ end -}}
{{- range $root.Values.pools }}{{ if ne .name $own }}{{ $pools = append $pools . }}{{ end }}{{ end -}}
{{- range $pool := $pools -}}
  {{- range $name, $said := default dict $pool.profiles -}}
    {{- if not (hasKey $profiles $name) -}}
      {{- $profile := deepCopy $said -}}
      {{- if not (hasKey $profile "queue") -}}{{- $_ := set $profile "queue" (first $pool.queues) -}}{{- end -}}
      {{- if and $pool.modelServer (not (hasKey $profile "base_url")) -}}
        {{- $host := ternary "127.0.0.1" (printf "%s-%s-model" (include "ai-service.fullname" $root) $pool.name) (eq $pool.name $own) -}}
        {{- $path := ternary $pool.modelServer.basePath "/v1" (hasKey $pool.modelServer "basePath") -}}
        {{- $_ := set $profile "base_url" (printf "http://%s:%d%s" $host (int (default 8000 $pool.modelServer.port)) $path) -}}
      {{- end -}}
      {{- $_ := set $profiles $name $profile -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $profiles }}{{- $_ := set $config "profiles" $profiles -}}{{- end -}}
{{ toPrettyJson $config }}
{{- end -}}

{{/* Variables that every process has. */}}
{{- define "ai-service.variables" -}}
{{- $variables := dict "MIGRATE_ON_START" (ternary "true" "false" (eq (include "ai-service.migrations" .) "start")) -}}
{{- $_ := set $variables "AI_SERVICE_CONFIG" "/etc/ai-service/config/config.json" -}}
{{- if ne .Values.rabbitmq.mode "none" -}}
  {{- $_ := set $variables "RABBITMQ_QUEUE_TYPE" (include "ai-service.queueType" .) -}}
{{- end -}}
{{- if eq .Values.rabbitmq.mode "operator" -}}
  {{- $_ := set $variables "RABBITMQ_MANAGEMENT_URL" (printf "http://%s.%s.svc:15672" (include "ai-service.rabbitmqCluster" .) .Release.Namespace) -}}
{{- end -}}
{{ merge $variables (default dict .Values.settings) | toYaml }}
{{- end -}}

{{/* What the chart itself keeps secret, but the file of tokens. */}}
{{- define "ai-service.connections" -}}
{{- $kept := dict -}}
{{- if eq .Values.postgresql.mode "external" -}}
  {{- with .Values.postgresql.url }}{{- $_ := set $kept "DATABASE_URL" . -}}{{- end -}}
  {{- with .Values.postgresql.directUrl }}{{- $_ := set $kept "DATABASE_DIRECT_URL" . -}}{{- end -}}
{{- end -}}
{{- if eq .Values.rabbitmq.mode "external" -}}
  {{- with .Values.rabbitmq.url }}{{- $_ := set $kept "AMQP_URL" . -}}{{- end -}}
  {{- with .Values.rabbitmq.managementUrl }}{{- $_ := set $kept "RABBITMQ_MANAGEMENT_URL" . -}}{{- end -}}
{{- end -}}
{{- with .Values.auth.token }}{{- $_ := set $kept "AI_SERVICE_TOKEN" . -}}{{- end -}}
{{ toYaml $kept }}
{{- end -}}

{{/* Where each connection's variable comes from, whoever keeps it. */}}
{{- define "ai-service.fromSecret" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{- define "ai-service.databaseEnv" -}}
{{- $root := .root -}}
{{- $secret := .secret -}}
{{- with $root.Values.postgresql -}}
{{- if eq .mode "cloudnativepg" -}}
{{ include "ai-service.fromSecret" (dict "variable" "DATABASE_URL" "secret" (printf "%s-app" (include "ai-service.postgresqlCluster" $root)) "key" "uri") }}
{{- else if .existingSecret -}}
{{ include "ai-service.fromSecret" (dict "variable" "DATABASE_URL" "secret" .existingSecret "key" .key) }}
{{- if .directKey }}
{{ include "ai-service.fromSecret" (dict "variable" "DATABASE_DIRECT_URL" "secret" .existingSecret "key" .directKey) }}
{{- end }}
{{- else -}}
{{ include "ai-service.fromSecret" (dict "variable" "DATABASE_URL" "secret" $secret "key" "DATABASE_URL") }}
{{- if .directUrl }}
{{ include "ai-service.fromSecret" (dict "variable" "DATABASE_DIRECT_URL" "secret" $secret "key" "DATABASE_DIRECT_URL") }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.env" -}}
{{- $secret := printf "%s-connections" (include "ai-service.fullname" .) -}}
{{ include "ai-service.databaseEnv" (dict "root" . "secret" $secret) }}
{{- with .Values.rabbitmq }}
{{- if eq .mode "operator" }}
{{ include "ai-service.fromSecret" (dict "variable" "AMQP_URL" "secret" (printf "%s-default-user" (include "ai-service.rabbitmqCluster" $)) "key" "connection_string") }}
{{- else if and (eq .mode "external") .existingSecret }}
{{ include "ai-service.fromSecret" (dict "variable" "AMQP_URL" "secret" .existingSecret "key" .key) }}
{{- if .managementKey }}
{{ include "ai-service.fromSecret" (dict "variable" "RABBITMQ_MANAGEMENT_URL" "secret" .existingSecret "key" .managementKey) }}
{{- end }}
{{- else if eq .mode "external" }}
{{ include "ai-service.fromSecret" (dict "variable" "AMQP_URL" "secret" $secret "key" "AMQP_URL") }}
{{- if .managementUrl }}
{{ include "ai-service.fromSecret" (dict "variable" "RABBITMQ_MANAGEMENT_URL" "secret" $secret "key" "RABBITMQ_MANAGEMENT_URL") }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Tokens: the API alone needs them. */}}
{{- define "ai-service.tokenEnv" -}}
{{- with .Values.auth -}}
{{- if .existingSecret }}
{{ include "ai-service.fromSecret" (dict "variable" "AI_SERVICE_TOKEN" "secret" .existingSecret "key" .key) }}
{{- else if .token }}
{{ include "ai-service.fromSecret" (dict "variable" "AI_SERVICE_TOKEN" "secret" (printf "%s-connections" (include "ai-service.fullname" $)) "key" "AI_SERVICE_TOKEN") }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "ai-service.tokensSecret" -}}
{{- with .Values.auth -}}
{{- if .tokensExistingSecret -}}{{ .tokensExistingSecret }}
{{- else if .tokens -}}{{ include "ai-service.fullname" $ }}-tokens
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.envFrom" -}}
- configMapRef:
    name: {{ include "ai-service.fullname" . }}-env
{{- if .Values.secrets.values }}
- secretRef:
    name: {{ include "ai-service.fullname" . }}-keys
{{- end }}
{{- range .Values.secrets.existing }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end -}}
