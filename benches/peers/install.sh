#!/usr/bin/env bash
# Installs the peers of the comparison into target/bench/peers: a virtual environment with the pinned requirements.txt
# (several gigabytes, most of them torch's). It holds a copy of the list it was made from: as long as that equals the pinned
# one, nothing is done. The Python is PYTHON, by default python3. Of the pinned versions scipy and networkx want 3.11 or later,
# and numpy has no wheel for 3.13.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/packages.sh
source "$here/../../scripts/packages.sh"
folder=$here/../../target/bench/peers
pinned=$here/requirements.txt
stamp=$folder/requirements.txt
python=${PYTHON:-python3}

if cmp -s "$pinned" "$stamp"; then exit 0; fi

die() {
    printf 'peers: %s\n' "$*" >&2
    exit 1
}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die "$python does not run"
case $version in
3.11 | 3.12) ;;
*) die "$python is Python $version, and the pinned packages are for 3.11 and 3.12: name one of those, make bench-peers PYTHON=python3.12" ;;
esac
# Debian has it in a package of its own, without which `venv` fails.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    install_packages "virtual environments of Python $version" "python$version-venv"
    "$python" -c 'import ensurepip' 2>/dev/null || die "$python has no ensurepip, and python$version-venv did not bring it"
fi

printf 'peers: installing infinity, torch, transformers and OpenVINO into %s\n' "$(realpath -m "$folder")" >&2
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
# Last: a folder whose list is there is complete.
cp "$pinned" "$stamp"
