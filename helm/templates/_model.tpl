{{/* The container of a model server. */}}
{{- define "ai-service.modelServer" -}}
{{- $cache := default "/cache" .cachePath -}}
{{- $resource := default "nvidia.com/gpu" .gpuResource -}}
{{- $gpus := ternary .gpus 1 (hasKey . "gpus") -}}
{{- $resources := deepCopy (default dict .resources) -}}
{{- if int $gpus -}}
  {{- /* Kubernetes wants a GPU as a limit, and takes the request from it; said twice it is shown as it is. */ -}}
  {{- $gpu := dict $resource (int $gpus) -}}
  {{- $resources = mergeOverwrite $resources (dict "requests" $gpu "limits" $gpu) -}}
{{- end -}}
image: {{ .image }}
imagePullPolicy: {{ default "IfNotPresent" .imagePullPolicy }}
{{- with .command }}
command:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .args }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: model
    containerPort: {{ int (default 8000 .port) }}
{{- with .existingSecrets }}
envFrom:
  {{- range . }}
  - secretRef:
      name: {{ . }}
  {{- end }}
{{- end }}
env:
  {{- range $variable, $value := mergeOverwrite (dict "HOME" $cache "USER" "model" "HF_HOME" (printf "%s/huggingface" $cache)) (default dict .env) }}
  - {name: {{ $variable }}, value: {{ $value | quote }}}
  {{- end }}
securityContext:
  {{- mergeOverwrite (dict "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL"))) (deepCopy (default dict .securityContext)) | toYaml | nindent 2 }}
startupProbe:
  httpGet: {path: {{ default "/health" .healthPath }}, port: model}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int (default 1800 .startupSeconds)) 9) 10 }}
livenessProbe:
  httpGet: {path: {{ default "/health" .healthPath }}, port: model}
  periodSeconds: 15
  # A server that works on many long prompts may be slow to say so.
  timeoutSeconds: 15
  failureThreshold: 8
readinessProbe:
  httpGet: {path: {{ default "/health" .healthPath }}, port: model}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
resources:
  {{- toYaml $resources | nindent 2 }}
volumeMounts:
  - name: models
    mountPath: {{ $cache }}
  - name: shm
    mountPath: /dev/shm
  - name: model-tmp
    mountPath: /tmp
{{- end -}}

{{- define "ai-service.modelVolumes" -}}
{{- $cache := default dict .server.cache -}}
- name: models
  {{- if $cache.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ $cache.existingClaim }}
  {{- else if $cache.claim }}
  persistentVolumeClaim:
    claimName: {{ .claim }}
  {{- else if $cache.hostPath }}
  hostPath:
    path: {{ $cache.hostPath }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir:
    sizeLimit: {{ default "100Gi" (default dict $cache.emptyDir).sizeLimit }}
  {{- end }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ default "2Gi" .server.sharedMemory }}
- name: model-tmp
  emptyDir:
    sizeLimit: 10Gi
{{- end -}}
