#!/usr/bin/env bash
# environment.sh FOLDER PLACE WHAT: installs what FOLDER/requirements.txt pins into a virtual environment at PLACE; WHAT is said of it
# meanwhile. It holds a copy of the list it was made from: as long as that equals the pinned one, nothing is done. The Python is PYTHON,
# by default python3, 3.11 or later.
set -euo pipefail
pinned=$1/requirements.txt
folder=$2
what=$3
# shellcheck source=scripts/packages.sh
source "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
stamp=$folder/requirements.txt
python=${PYTHON:-python3}

if cmp -s "$pinned" "$stamp"; then exit 0; fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Debian has it in a package of its own, without which `venv` fails.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    install_packages "virtual environments of Python $version" "python$version-venv"
fi

printf 'installing %s into %s\n' "$what" "$(realpath -m "$folder")" >&2
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
# Last: a folder whose list is there is complete.
cp "$pinned" "$stamp"
