{{/* Names of objects are fixed: proxies, the controller and the command line find each other by them. */}}

{{- define "outrigger.checks" -}}
{{- if ne .Release.Namespace "outrigger-system" -}}
{{- fail (printf "Outrigger's own parts run in the namespace outrigger-system, not in %q: install with --namespace outrigger-system --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- end -}}

{{- define "outrigger.selectorLabels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Selects the shared proxies of all pools. */}}
{{- define "outrigger.sharedProxyLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: shared-proxy
{{- end -}}

{{/* Labels of every object: (dict "root" . "name" NAME "component" COMPONENT). */}}
{{- define "outrigger.labels" -}}
{{ include "outrigger.selectorLabels" . }}
app.kubernetes.io/part-of: outrigger
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods: nothing that changes without the pod changing. */}}
{{- define "outrigger.podLabels" -}}
{{ include "outrigger.selectorLabels" . }}
app.kubernetes.io/part-of: outrigger
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .of.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "outrigger.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Every pod of ours meets the level "restricted" of the Pod Security Standards. */}}
{{- define "outrigger.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1337
runAsGroup: 1337
fsGroup: 1337
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "outrigger.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The token by which our parts prove to each other who they are. The API server refuses it: wrong audience. */}}
{{- define "outrigger.tokenVolume" -}}
name: token
projected:
  sources:
  - serviceAccountToken:
      path: token
      audience: outrigger.dev
      expirationSeconds: 3600
{{- end -}}

{{/* Where pods may run: (dict "root" . "of" VALUES "name" NAME "component" COMPONENT). */}}
{{- define "outrigger.placement" -}}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.topologySpread }}
topologySpreadConstraints:
{{- range . }}
- topologyKey: {{ .topologyKey }}
  maxSkew: {{ .maxSkew }}
  whenUnsatisfiable: {{ .whenUnsatisfiable }}
  labelSelector:
    matchLabels:
      {{- include "outrigger.selectorLabels" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end -}}

{{/* Namespaces whose pods are never injected: what injection itself needs to come up. */}}
{{- define "outrigger.notSystemNamespaces" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: [kube-system, kube-node-lease, kube-public, outrigger-system]
{{- end -}}

{{/* Where proxies find the controller. */}}
{{- define "outrigger.controllerAddress" -}}
outrigger-controller.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:15010
{{- end -}}
