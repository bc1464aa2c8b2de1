{{- define "ai-service.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  labels:
    {{- include "ai-service.labels" (dict "root" .root "component" (default "config" .component)) | nindent 4 }}
{{- end -}}

{{/* Pods of the release of some kinds. Takes a dict of root and components. */}}
{{- define "ai-service.podsOf" -}}
matchLabels:
  {{- include "ai-service.selector" .root | nindent 2 }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: {{ toJson .components }}
{{- end -}}

{{- define "ai-service.ports" -}}
{{- range . }}
- port: {{ int . }}
  protocol: TCP
{{- end }}
{{- end -}}

{{/* The rule that lets them reach PostgreSQL. */}}
{{- define "ai-service.toPostgresql" -}}
{{- if eq .Values.postgresql.mode "cloudnativepg" -}}
- to:
    - podSelector:
        matchLabels:
          cnpg.io/cluster: {{ include "ai-service.postgresqlCluster" . }}
  ports:
    - {port: 5432, protocol: TCP}
{{- else -}}
- ports:
    {{- include "ai-service.ports" .Values.networkPolicy.postgresql.ports | nindent 4 }}
  {{- with .Values.networkPolicy.postgresql.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "ai-service.toDns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  {{- with .Values.networkPolicy.dns }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
