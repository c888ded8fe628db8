#!/usr/bin/env bash
# Installs what the comparison of pictures needs into target/bench/pictures: a virtual environment with the pinned requirements.txt. It
# holds a copy of the list it was made from: as long as that equals the pinned one, nothing is done. The Python is PYTHON, by
# default python3, 3.11 or later.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/packages.sh
source "$here/../../scripts/packages.sh"
folder=$here/../../target/bench/pictures
pinned=$here/requirements.txt
stamp=$folder/requirements.txt
python=${PYTHON:-python3}

if cmp -s "$pinned" "$stamp"; then exit 0; fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Debian has it in a package of its own, without which `venv` fails.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    install_packages "virtual environments of Python $version" "python$version-venv"
fi

printf 'pictures: installing Pillow and transformers into %s\n' "$(realpath -m "$folder")" >&2
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
# Last: a folder whose list is there is complete.
cp "$pinned" "$stamp"
