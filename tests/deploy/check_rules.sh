#!/usr/bin/env bash
# Checks the shipped Prometheus configuration and alerts with promtool. Exit code 77, which ctest
# counts as skipped: promtool is not there (scripts/setup --only testtools fetches it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${LATHE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lathe}
promtool=$(command -v promtool || echo "$cache/tools/prometheus/usr/bin/promtool")
if [ ! -x "$promtool" ]; then
  echo "skipped: no promtool on PATH and none in $promtool"
  exit 77
fi
"$promtool" check config deploy/prometheus/prometheus.yml
"$promtool" test rules tests/deploy/rules_test.yml
