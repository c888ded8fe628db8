#!/usr/bin/env bash
# Runs the code of docs/vector-databases.md, and readers of what `clipserve embed` writes: run.sh [ARGUMENTS OF PYTEST]
#
# The databases live in a virtual environment in target/databases (1 GB), autofaiss in one of its own in target/autofaiss, since it wants an
# older numpy. The binary is CLIPSERVE, by default that of `make build`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
scripts/environment.sh tests/databases target/databases "databases and readers"
scripts/environment.sh tests/databases/autofaiss target/autofaiss "autofaiss"
# Its module that makes an index is all that is asked of it; with what it depends on it is some gigabytes, torch among them.
target/autofaiss/bin/pip --disable-pip-version-check show --quiet clip-retrieval 2>/dev/null ||
    target/autofaiss/bin/pip --disable-pip-version-check install --quiet --no-deps clip-retrieval==2.45.0
CLIPSERVE=$(realpath "${CLIPSERVE:-target/release/clipserve}")
export CLIPSERVE AUTOFAISS=$PWD/target/autofaiss PYTHONDONTWRITEBYTECODE=1
# Nothing here is fetched from a hub, and nothing is reported to anybody.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
venv=$PWD/target/databases
cd "$here"
exec "$venv/bin/python" -m pytest "$@"
