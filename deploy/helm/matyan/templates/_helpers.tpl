{{- define "matyan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "matyan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "matyan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "matyan.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What picks the pods of a component: dict "root" "component". */}}
{{- define "matyan.selector" -}}
app.kubernetes.io/name: {{ include "matyan.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "matyan.labels" -}}
{{ include "matyan.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "matyan.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "matyan.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "matyan.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* Says at once what a pod would say after its start. */}}
{{- define "matyan.require" -}}
{{- if not .Values.kafka.bootstrapServers }}{{ fail "kafka.bootstrapServers: expected Kafka's brokers, HOST:PORT with commas." }}{{ end }}
{{- if not .Values.s3.endpoint }}{{ fail "s3.endpoint: expected the S3 server's URL." }}{{ end }}
{{- if eq (empty .Values.foundationdb.clusterFileConfigMap) (empty .Values.foundationdb.clusterFileSecret) }}
{{- fail "foundationdb.clusterFileConfigMap or foundationdb.clusterFileSecret: expected one of them to name what holds the cluster's file." }}{{ end }}
{{- if and (eq .Values.environment "production") (not .Values.tokens.secret) }}
{{- fail "tokens.secret: expected a Secret with the tokens file, since environment=production refuses listeners without tokens (matyan tokens add NAME --scope write --tokens-file tokens; kubectl create secret generic matyan-tokens --from-file=tokens), or environment: development." }}{{ end }}
{{- if and .Values.ingestWorker.keda.enabled .Values.ingestWorker.autoscaling.enabled }}
{{- fail "ingestWorker.keda.enabled and ingestWorker.autoscaling.enabled: expected one of them, since two would fight about the replicas." }}{{ end }}
{{- if and (hasPrefix "SASL_" .Values.kafka.securityProtocol) (ne .Values.kafka.saslMechanism "OAUTHBEARER") (not .Values.kafka.saslSecret) }}
{{- fail "kafka.saslSecret: expected a Secret with the keys username and password, since kafka.securityProtocol asks who comes in." }}{{ end }}
{{- if and .Values.kafka.clientCertificate (not .Values.kafka.tlsSecret) }}
{{- fail "kafka.tlsSecret: expected a Secret with tls.crt and tls.key, since kafka.clientCertificate is true." }}{{ end }}
{{- end -}}

{{- define "matyan.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "matyan.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The settings of a component: dict "root" "component" "values" (its own) "s3" "fdb" "webhooks" (whether it uses them). */}}
{{- define "matyan.env" -}}
{{- $v := .root.Values -}}
{{- $env := dict "MATYAN_ENVIRONMENT" $v.environment "LOG_LEVEL" $v.logLevel "HOST" "0.0.0.0" -}}
{{- $k := $v.kafka -}}
{{- $_ := set $env "KAFKA_BOOTSTRAP_SERVERS" $k.bootstrapServers -}}
{{- $_ := set $env "KAFKA_DATA_INGESTION_TOPIC" $k.dataIngestionTopic -}}
{{- $_ := set $env "KAFKA_CONTROL_EVENTS_TOPIC" $k.controlEventsTopic -}}
{{- $_ := set $env "MATYAN_INGESTION_GROUP" $k.ingestionGroup -}}
{{- $_ := set $env "MATYAN_CONTROL_GROUP" $k.controlGroup -}}
{{- $_ := set $env "MATYAN_KAFKA_COMPRESSION" $k.compression -}}
{{- with $k.securityProtocol }}{{ $_ := set $env "KAFKA_SECURITY_PROTOCOL" . }}{{ end -}}
{{- with $k.saslMechanism }}{{ $_ := set $env "KAFKA_SASL_MECHANISM" . }}{{ end -}}
{{- if $k.saslSecret -}}
{{- $_ := set $env "KAFKA_SASL_USERNAME_FILE" "/run/matyan/kafka-sasl/username" -}}
{{- $_ := set $env "KAFKA_SASL_PASSWORD_FILE" "/run/matyan/kafka-sasl/password" -}}
{{- end -}}
{{- if $k.tlsSecret -}}
{{- $_ := set $env "KAFKA_SSL_CAFILE" "/run/matyan/kafka-tls/ca.crt" -}}
{{- if $k.clientCertificate -}}
{{- $_ := set $env "KAFKA_SSL_CERTFILE" "/run/matyan/kafka-tls/tls.crt" -}}
{{- $_ := set $env "KAFKA_SSL_KEYFILE" "/run/matyan/kafka-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- if $k.propertiesSecret }}{{ $_ := set $env "MATYAN_KAFKA_CONFIG" "/run/matyan/kafka-properties/kafka.properties" }}{{ end -}}
{{- if .fdb -}}
{{- $_ := set $env "FDB_CLUSTER_FILE" (printf "/run/matyan/fdb/%s" $v.foundationdb.key) -}}
{{- with $v.foundationdb.sequenceLayout }}{{ $_ := set $env "MATYAN_SEQUENCE_LAYOUT" . }}{{ end -}}
{{- end -}}
{{- if .s3 -}}
{{- $_ := set $env "S3_ENDPOINT" $v.s3.endpoint -}}
{{- with $v.s3.publicEndpoint }}{{ $_ := set $env "S3_PUBLIC_ENDPOINT" . }}{{ end -}}
{{- $_ := set $env "S3_BUCKET" $v.s3.bucket -}}
{{- $_ := set $env "S3_REGION" $v.s3.region -}}
{{- $_ := set $env "MATYAN_S3_ADDRESSING" $v.s3.addressing -}}
{{- with $v.s3.sse }}{{ $_ := set $env "MATYAN_S3_SSE" . }}{{ end -}}
{{- if $v.s3.caSecret }}{{ $_ := set $env "S3_CA_FILE" "/run/matyan/s3-ca/ca.crt" }}{{ end -}}
{{- if $v.s3.secret -}}
{{- $_ := set $env "S3_ACCESS_KEY_FILE" "/run/matyan/s3/access-key" -}}
{{- $_ := set $env "S3_SECRET_KEY_FILE" "/run/matyan/s3/secret-key" -}}
{{- else -}}
{{- $_ := set $env "S3_ACCESS_KEY" "" -}}
{{- $_ := set $env "S3_SECRET_KEY" "" -}}
{{- end -}}
{{- end -}}
{{- if $v.tokens.secret }}{{ $_ := set $env "MATYAN_TOKENS_FILE" "/run/matyan/tokens/tokens" }}{{ end -}}
{{- if and .webhooks $v.webhooks.secret }}{{ $_ := set $env "MATYAN_WEBHOOKS_FILE" "/run/matyan/webhooks/webhooks.toml" }}{{ end -}}
{{- with .values -}}
{{- with .shutdownFlushTimeout }}{{ $_ := set $env "SHUTDOWN_FLUSH_TIMEOUT" . }}{{ end -}}
{{- with .queueBytes }}{{ $_ := set $env "MATYAN_QUEUE_BYTES" (int64 .) }}{{ end -}}
{{- with .publicUrl }}{{ $_ := set $env "MATYAN_PUBLIC_URL" . }}{{ end -}}
{{- with .corsOrigins }}{{ $_ := set $env "CORS_ORIGINS" (join "," .) }}{{ end -}}
{{- with .basePath }}{{ $_ := set $env "MATYAN_UI_BASE_PATH" . }}{{ end -}}
{{- end -}}
{{- if .listens -}}
{{- $_ := set $env "PORT" .values.port -}}
{{- if $v.tls.secret -}}
{{- $_ := set $env "MATYAN_TLS_CERT_FILE" "/run/matyan/tls/tls.crt" -}}
{{- $_ := set $env "MATYAN_TLS_KEY_FILE" "/run/matyan/tls/tls.key" -}}
{{- end -}}
{{- else if .values -}}
{{- $_ := set $env "METRICS_PORT" .values.port -}}
{{- end -}}
{{- $env = merge (dict) ((.values).extraEnv | default dict) $v.extraEnv $env -}}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{/* The Secrets of a component, as files: the same dict. */}}
{{- define "matyan.mounts" -}}
{{- range $name := splitList " " (include "matyan.volumeNames" . | trim) }}
- {name: {{ $name }}, mountPath: /run/matyan/{{ $name }}, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "matyan.volumeNames" -}}
{{- $v := .root.Values -}}
{{- if $v.kafka.saslSecret }}kafka-sasl {{ end -}}
{{- if $v.kafka.tlsSecret }}kafka-tls {{ end -}}
{{- if $v.kafka.propertiesSecret }}kafka-properties {{ end -}}
{{- if .fdb }}fdb {{ end -}}
{{- if and .s3 $v.s3.secret }}s3 {{ end -}}
{{- if and .s3 $v.s3.caSecret }}s3-ca {{ end -}}
{{- if $v.tokens.secret }}tokens {{ end -}}
{{- if and .webhooks $v.webhooks.secret }}webhooks {{ end -}}
{{- if and .listens $v.tls.secret }}tls {{ end -}}
{{- end -}}

{{- define "matyan.volumes" -}}
{{- $v := .root.Values -}}
{{- $secrets := dict "kafka-sasl" $v.kafka.saslSecret "kafka-tls" $v.kafka.tlsSecret "kafka-properties" $v.kafka.propertiesSecret "fdb" $v.foundationdb.clusterFileSecret "s3" $v.s3.secret "s3-ca" $v.s3.caSecret "tokens" $v.tokens.secret "webhooks" $v.webhooks.secret "tls" $v.tls.secret -}}
{{- range $name := splitList " " (include "matyan.volumeNames" . | trim) }}
{{- if and (eq $name "fdb") $v.foundationdb.clusterFileConfigMap }}
- name: fdb
  configMap: {name: {{ $v.foundationdb.clusterFileConfigMap }}, defaultMode: 0440}
{{- else if $name }}
- name: {{ $name }}
  secret: {secretName: {{ get $secrets $name }}, defaultMode: 0440}
{{- end }}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end -}}
