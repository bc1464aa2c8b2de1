{{/* Short enough that every name made of it has 54 characters at most: KEDA puts nine before it, into a label. */}}
{{- define "ai-service.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) .Values.fullnameOverride -}}
{{- if gt (len $full) 28 -}}
{{- printf "%s-%s" ($full | trunc 19 | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- else -}}
{{- $full -}}
{{- end -}}
{{- end -}}

{{- define "ai-service.postgresqlCluster" -}}{{ include "ai-service.fullname" . }}-postgresql{{- end -}}
{{- define "ai-service.rabbitmqCluster" -}}{{ include "ai-service.fullname" . }}-rabbitmq{{- end -}}

{{- define "ai-service.serviceAccount" -}}
{{- default (include "ai-service.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "ai-service.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of every pod of the release: what its policies select. */}}
{{- define "ai-service.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of one kind of pods. Takes a dict of root, component and, of a worker, pool. */}}
{{- define "ai-service.componentSelector" -}}
{{ include "ai-service.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
ai-service/pool: {{ . }}
{{- end }}
{{- end -}}

{{- define "ai-service.labels" -}}
{{ include "ai-service.componentSelector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: ai-service
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* hook, job or start. */}}
{{- define "ai-service.migrations" -}}
{{- $mode := .Values.migrations.mode -}}
{{- if ne $mode "auto" -}}{{ $mode }}
{{- else if eq .Values.postgresql.mode "cloudnativepg" -}}job
{{- else -}}hook
{{- end -}}
{{- end -}}

{{- define "ai-service.queueType" -}}
{{- with .Values.rabbitmq -}}
{{- if .queueType -}}{{ .queueType }}
{{- else if and (eq .mode "operator") (gt (int .cluster.replicas) 1) -}}quorum
{{- else -}}classic
{{- end -}}
{{- end -}}
{{- end -}}
