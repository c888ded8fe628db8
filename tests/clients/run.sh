#!/usr/bin/env bash
# Runs other services' own clients against the service: run.sh [ARGUMENTS OF PYTEST]
#
# The clients live in a virtual environment in target/clients, which holds a copy of the list it was made from: as long as that
# equals requirements.txt nothing is installed. The Python is PYTHON, by default python3. The binary is the one that the tests in
# Rust build, so that behind `make test` there is nothing left to be built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
folder=$(realpath -m "$root/target/clients")
pinned=$here/requirements.txt
stamp=$folder/venv/requirements.txt
python=${PYTHON:-python3}

die() {
    printf 'clients: %s\n' "$*" >&2
    exit 1
}

if ! cmp -s "$pinned" "$stamp"; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die "$python does not run"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is Python $version, and numpy's pinned version wants 3.11 or later: make test-clients PYTHON=python3.12"
    # Debian has it in a package of its own, without which `venv` fails.
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        install_packages "virtual environments of Python $version" "python$version-venv"
        "$python" -c 'import ensurepip' 2>/dev/null || die "$python has no ensurepip, and python$version-venv did not bring it"
    fi
    printf 'clients: installing them into %s\n' "$folder/venv" >&2
    rm -rf "$folder/venv"
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
    # Last: a folder whose list is there is complete.
    cp "$pinned" "$stamp"
fi

cd "$root"
cargo test --locked --no-run --test it
export CLIPSERVE=${CARGO_TARGET_DIR:-$PWD/target}/debug/clipserve
cd "$here"
exec "$folder/venv/bin/python" -B -m pytest "$@"
