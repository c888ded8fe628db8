#!/usr/bin/env bash
# Tries the API by its OpenAPI document: makes requests that keep it and requests that break it, and holds every answer to it. Installs
# schemathesis in an environment of its own, and serves the model in the box on a free port.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
examples=${EXAMPLES:-200}
venv=target/api/venv
[ -x "$venv/bin/schemathesis" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --requirement tests/api/requirements.txt; }
log=target/api/service.log
binary=${CLIPSERVE:-target/release/clipserve}
"$binary" serve --model onnx/emoji-clip --listen 127.0.0.1:0 --set limits.max_queue_wait=30s >/dev/null 2>"$log" &
service=$!
trap 'kill "$service" 2>/dev/null || true; wait "$service" 2>/dev/null || true' EXIT
for _ in $(seq 300); do
    grep -q ' ready$' "$log" && break
    kill -0 "$service" || { cat "$log"; exit 1; }
    read -rt 0.1 <> <(:) || true
done
address=$(sed -n 's/.* listening address=//p' "$log")
grep -q ' ready$' "$log" || { echo "the service was not ready within 30 s"; cat "$log"; exit 1; }
# Where it leaves what it remembers.
root=$PWD
cd target/api
SCHEMATHESIS_HOOKS=$root/tests/api/hooks.py "$root/$venv/bin/schemathesis" --config-file "$root/tests/api/schemathesis.toml" run "http://$address/openapi.json" --seed 1 --max-examples "$examples" \
    --phases coverage,fuzzing --suppress-health-check all --continue-on-failure --request-timeout 60 \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection "$@"
