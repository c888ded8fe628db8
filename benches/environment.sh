#!/usr/bin/env bash
# environment.sh NAME WHAT: installs what benches/NAME needs into target/bench/NAME: a virtual environment with its pinned
# requirements.txt; WHAT is said of it meanwhile. It holds a copy of the list it was made from: as long as that equals the pinned one,
# nothing is done. The Python is PYTHON, by default python3, 3.11 or later.
set -euo pipefail
name=$1
what=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/packages.sh
source "$here/../scripts/packages.sh"
folder=$here/../target/bench/$name
pinned=$here/$name/requirements.txt
stamp=$folder/requirements.txt
python=${PYTHON:-python3}

if cmp -s "$pinned" "$stamp"; then exit 0; fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Debian has it in a package of its own, without which `venv` fails.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    install_packages "virtual environments of Python $version" "python$version-venv"
fi

printf '%s: installing %s into %s\n' "$name" "$what" "$(realpath -m "$folder")" >&2
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
# Last: a folder whose list is there is complete.
cp "$pinned" "$stamp"
