#!/usr/bin/env bash
# Tests of the charts, by helm itself: charts/test.sh [HELM]. BLESS=1 rewrites what is compared.
# A case is a folder of charts/CHART/tests: values.yaml in, out.yaml out; `show`, if it is there, lists the templates
# that the case is about. What must be refused is in tests/refused: the first line says with which words.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
helm=${1:-helm}
passed=0 failed=0

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); printf 'FAILED %s\n' "$*" >&2; }

render() {
  local chart=$1
  shift
  # The version of Kubernetes is said, since helm assumes the one that it was built for.
  "$helm" template outrigger "$chart" --namespace outrigger-system --kube-version 1.34.0 "$@"
}

golden() {
  local chart=$1 at=$2 out args=(--values "$2/values.yaml")
  # Definitions are compared with where they come from, by a test of crds/.
  args+=(--set crds.install=false)
  if [ -f "$at/show" ]; then
    while read -r template; do args+=(--show-only "templates/$template"); done <"$at/show"
  fi
  if ! out=$(render "$chart" "${args[@]}" 2>&1); then
    fail "$at: $out"
  elif [ -n "${BLESS:-}" ]; then
    printf '%s\n' "$out" >"$at/out.yaml"
    pass
  elif diff -u "$at/out.yaml" <(printf '%s\n' "$out") >&2; then
    pass
  else
    fail "$at: differs; BLESS=1 charts/test.sh takes it"
  fi
}

refused() {
  local chart=$1 file=$2 out wanted
  wanted=$(sed -n '1s/^# refused: //p' "$file")
  if out=$(render "$chart" --values "$file" 2>&1); then
    fail "$file: not refused"
  elif [ -n "$wanted" ] && grep -qF -- "$wanted" <<<"$out"; then
    pass
  else
    fail "$file: refused, but not with \"$wanted\": $out"
  fi
}

for chart in */Chart.yaml; do
  chart=$(dirname "$chart")
  for values in "" "$chart"/values-*.yaml; do
    if out=$("$helm" lint --strict --quiet --namespace outrigger-system --kube-version 1.34.0 "$chart" ${values:+--values "$values"} 2>&1); then
      pass
    else
      fail "lint ${values:-$chart}: $out"
    fi
  done
  for at in "$chart"/tests/*/values.yaml; do golden "$chart" "$(dirname "$at")"; done
  for file in "$chart"/tests/refused/*.yaml; do refused "$chart" "$file"; done
  out=$("$helm" template outrigger "$chart" --namespace elsewhere --kube-version 1.34.0 2>&1) && fail "$chart: installs anywhere"
  if grep -qF 'install with --namespace outrigger-system' <<<"$out"; then pass; else fail "$chart elsewhere: $out"; fi
done
printf 'chart result: %d passed, %d failed, 0 skipped\n' "$passed" "$failed"
((failed == 0))
