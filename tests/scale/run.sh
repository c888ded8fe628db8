#!/usr/bin/env bash
# Runs deploy/ray/embed.py on a Ray cluster of two nodes on this machine, one of which is killed: run.sh [ARGUMENTS OF PYTEST]
#
# Ray lives in a virtual environment in target/scale (1 GB). The binary is CLIPSERVE, by default that of `make build`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
scripts/environment.sh tests/scale target/scale "Ray"
CLIPSERVE=$(realpath "${CLIPSERVE:-target/release/clipserve}")
# Ray reports to its makers unless it is told not to.
export CLIPSERVE RAY_USAGE_STATS_ENABLED=0 PYTHONDONTWRITEBYTECODE=1
venv=$PWD/target/scale
cd "$here"
exec "$venv/bin/python" -m pytest "$@"
