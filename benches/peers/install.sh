#!/usr/bin/env bash
# Installs the peers of the comparison into target/bench/peers: a virtual environment with the pinned requirements.txt
# (several gigabytes, most of them torch's). It holds a copy of the list it was made from: as long as that equals the pinned
# one, nothing is done. The Python is PYTHON, by default python3; the versions are pinned for 3.11, others from 3.10 to 3.13 may do.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$here/../../target/bench/peers
pinned=$here/requirements.txt
stamp=$folder/requirements.txt

if cmp -s "$pinned" "$stamp"; then exit 0; fi

printf 'peers: installing infinity, torch and transformers into %s\n' "$(realpath -m "$folder")" >&2
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
# Last: a folder whose list is there is complete.
cp "$pinned" "$stamp"
