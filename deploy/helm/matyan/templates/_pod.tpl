{{/* The pod of a service: dict "root" "component" "values" "args" "s3" "fdb" "listens" "webhooks". */}}
{{- define "matyan.pod" -}}
{{- $v := .root.Values -}}
{{- $scheme := ternary "HTTPS" "HTTP" (and .listens (not (empty $v.tls.secret))) -}}
metadata:
  labels: {{- include "matyan.labels" . | nindent 4 }}
  {{- with .values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "matyan.serviceAccount" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $v.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "matyan.podSecurity" . | nindent 4 }}
  # What goes before SIGTERM, the drain, and what a drain that is late is waited for.
  terminationGracePeriodSeconds: {{ add 20 (ceil .values.shutdownFlushTimeout) }}
  {{- if $v.doctor.enabled }}
  initContainers:
    - name: wait
      image: {{ include "matyan.image" .root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: [doctor, --wait, --timeout, {{ $v.doctor.timeoutSeconds | toString | quote }}, --service, {{ .component }}{{ if .fdb }}, --store, "fdb:"{{ end }}]
      env: {{- include "matyan.env" . | nindent 8 }}
      volumeMounts: {{- include "matyan.mounts" . | nindent 8 }}
      securityContext: {{- include "matyan.containerSecurity" . | nindent 8 }}
      resources:
        requests: {cpu: 50m, memory: 96Mi}
        limits: {memory: 512Mi}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "matyan.image" .root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: {{ .args | toJson }}
      env:
        {{- include "matyan.env" . | nindent 8 }}
        {{- if eq .component "ingest-worker" }}
        # A pod that comes back under its name gets its partitions without a rebalance.
        - name: MATYAN_INSTANCE_ID
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- end }}
      ports:
        - {name: {{ ternary "http" "metrics" .listens }}, containerPort: {{ .values.port }}, protocol: TCP}
      # An engine that is away makes it not ready, never dead.
      startupProbe:
        httpGet: &live {path: /health/live/, port: {{ .values.port }}, scheme: {{ $scheme }}}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: *live
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /health/ready/, port: {{ .values.port }}, scheme: {{ $scheme }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if .listens }}
      lifecycle:
        # Until nobody is sent here any more.
        preStop: {exec: {command: [sleep, "5"]}}
      {{- end }}
      volumeMounts: {{- include "matyan.mounts" . | nindent 8 }}
      securityContext: {{- include "matyan.containerSecurity" . | nindent 8 }}
      resources: {{- toYaml .values.resources | nindent 8 }}
  volumes: {{- include "matyan.volumes" . | nindent 4 }}
  {{- with .values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .values.affinity }}
  affinity: {{- toYaml .values.affinity | nindent 4 }}
  {{- else }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "matyan.selector" . | nindent 10 }}
  {{- end }}
{{- end -}}

{{/* What each service is, as the templates hand it on. */}}
{{- define "matyan.services" -}}
frontier: {key: frontier, args: [frontier], s3: true, fdb: false, listens: true}
ingest-worker: {key: ingestWorker, args: [ingest-worker, --store, "fdb:"], s3: false, fdb: true, listens: false, webhooks: true}
control-worker: {key: controlWorker, args: [control-worker, --store, "fdb:"], s3: true, fdb: true, listens: false, webhooks: true}
api: {key: api, args: [api, --store, "fdb:"], s3: true, fdb: true, listens: true}
{{- end -}}
