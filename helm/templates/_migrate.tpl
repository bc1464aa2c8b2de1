{{/* Where the Job's URL lies, if the chart keeps it: a hook comes before everything else. */}}
{{- define "ai-service.migrateSecret" -}}
{{ include "ai-service.fullname" . }}-{{ ternary "migrate" "connections" (eq (include "ai-service.migrations" .) "hook") }}
{{- end -}}

{{- define "ai-service.migratePod" -}}
metadata:
  labels:
    {{- include "ai-service.componentSelector" (dict "root" . "component" "migrate") | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: migrate
      image: {{ include "ai-service.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [ai-service]
      args: [migrate]
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      env:
        {{- include "ai-service.databaseEnv" (dict "root" . "secret" (include "ai-service.migrateSecret" .)) | nindent 8 }}
      resources:
        {{- toYaml .Values.migrations.resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- include "ai-service.certificatesMount" . | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- include "ai-service.certificatesVolume" . | nindent 4 }}
{{- end -}}
