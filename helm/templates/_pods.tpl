{{/*
Parts of pods that all processes share. Each takes a dict of root, component, said (the values of its kind) and, of a
worker, pool.
*/}}

{{/* Variables are read at the start only, so a change of them replaces the pods. The configuration file is read again. */}}
{{- define "ai-service.podMetadata" -}}
annotations:
  checksum/variables: {{ include "ai-service.variables" .root | sha256sum }}
  checksum/secrets: {{ list (include "ai-service.connections" .root) (toYaml .root.Values.secrets.values) | join "\n" | sha256sum }}
  {{- with .said.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- /* Not the chart's version: a new chart alone is no reason to load models anew. */}}
labels:
  {{- include "ai-service.componentSelector" . | nindent 2 }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .said.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "ai-service.podSpec" -}}
serviceAccountName: {{ include "ai-service.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .said.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .said.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .said.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .said.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .said.topologySpread }}
topologySpreadConstraints:
  {{- range .said.topologySpread }}
  - topologyKey: {{ .topologyKey }}
    maxSkew: {{ int (default 1 .maxSkew) }}
    whenUnsatisfiable: {{ default "ScheduleAnyway" .whenUnsatisfiable }}
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "ai-service.componentSelector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The container's part that is the same: image, variables, mounts. Takes port and config, the ConfigMap, as well. */}}
{{- define "ai-service.container" -}}
image: {{ include "ai-service.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
ports:
  - name: http
    containerPort: {{ .port }}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  # Migrations that others run are waited for.
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
resources:
  {{- toYaml .said.resources | nindent 2 }}
{{- end -}}

{{- define "ai-service.mounts" -}}
- name: config
  mountPath: /etc/ai-service/config
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- include "ai-service.certificatesMount" . }}
{{- end -}}

{{- define "ai-service.certificatesMount" -}}
{{- if or .Values.certificates.existingSecret .Values.certificates.existingConfigMap }}
- name: certificates
  mountPath: /etc/ai-service/certificates
  readOnly: true
{{- end }}
{{- end -}}

{{- define "ai-service.certificatesVolume" -}}
{{- with .Values.certificates }}
{{- if .existingSecret }}
- name: certificates
  secret:
    secretName: {{ .existingSecret }}
{{- else if .existingConfigMap }}
- name: certificates
  configMap:
    name: {{ .existingConfigMap }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "ai-service.volumes" -}}
- name: config
  configMap:
    name: {{ .config }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .said.tmpSize }}
{{- include "ai-service.certificatesVolume" .root }}
{{- end -}}

{{- define "ai-service.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "ai-service.labels" . | nindent 4 }}
spec:
  # Not minAvailable: that of a single pod would keep its node from ever being drained.
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "ai-service.componentSelector" . | nindent 6 }}
{{- end -}}
