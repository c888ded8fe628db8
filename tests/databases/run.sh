#!/usr/bin/env bash
# Runs the code of docs/vector-databases.md and docs/embeddings.md, and readers of what `clipserve embed` writes:
# run.sh [ARGUMENTS OF PYTEST]
#
# The databases live in a virtual environment in target/databases (1.3 GB), autofaiss in one of its own in target/autofaiss (0.4 GB), since
# it wants an older numpy, and clip-retrieval in target/clip_retrieval (0.4 GB), since it wants an older pyarrow as well. The binary is
# CLIPSERVE, by default that of `make build`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
scripts/environment.sh tests/databases target/databases "databases and readers"
scripts/environment.sh tests/databases/autofaiss target/autofaiss "autofaiss"
scripts/environment.sh tests/databases/clip_retrieval target/clip_retrieval "clip-retrieval"
# Its modules that make an index and serve it are all that is asked of it; with what it depends on it is some gigabytes, torch among them.
for folder in target/autofaiss target/clip_retrieval; do
    "$folder/bin/pip" --disable-pip-version-check show --quiet clip-retrieval 2>/dev/null ||
        "$folder/bin/pip" --disable-pip-version-check install --quiet --no-deps clip-retrieval==2.45.0
done
CLIPSERVE=$(realpath "${CLIPSERVE:-target/release/clipserve}")
export CLIPSERVE AUTOFAISS=$PWD/target/autofaiss CLIP_RETRIEVAL=$PWD/target/clip_retrieval PYTHONDONTWRITEBYTECODE=1
# Nothing here is fetched from a hub, and nothing is reported to anybody.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
venv=$PWD/target/databases
cd "$here"
exec "$venv/bin/python" -m pytest "$@"
