#!/usr/bin/env bash
# Packs twice, then holds both packages to what they promise and runs them where nothing else is: run.sh [ARGUMENTS OF PYTEST]
#
# The places are two roots of Debian's SUITE (trixie) below target/test-dist, made once: debootstrap's `minbase`, and the same with
# Python and pip. The tests have a network of their own, with nothing in it but 127.0.0.1, and see the roots so that nobody can write to
# them. It wants:
#   root, and a system that lets it make namespaces (in a container: one that is privileged)
#   debootstrap (installed where there is apt-get) and Debian's packages, for the roots
#   Python 3.11 or later (PYTHON, by default python3) with venv, and PyPI, for what judges
#   1.5 GB of disk, and what `make build` has built
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
folder=$(realpath -m "$root/target/test-dist")
pinned=$here/requirements.txt
python=${PYTHON:-python3}
SUITE=${SUITE:-trixie}

die() {
    printf 'test-dist: %s\n' "$*" >&2
    exit 1
}

((EUID == 0)) || die "wants to be root, for a chroot in namespaces of its own: sudo env HOME=\"\$HOME\" PATH=\"\$PATH\" make test-dist"
namespaces=(unshare --net --mount --pid --fork --mount-proc --kill-child)
"${namespaces[@]}" true || die "this system does not let root make namespaces (see above); a container must be privileged"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than 3.11: make test-dist PYTHON=python3.12"
"$python" -c 'import ensurepip' 2>/dev/null || install_packages "virtual environments of Python" python3-venv
command -v debootstrap >/dev/null || install_packages "debootstrap" debootstrap

mkdir -p "$folder"
# It holds a copy of the list it was made from: a folder whose list is there is complete.
if ! cmp -s "$pinned" "$folder/venv/requirements.txt"; then
    rm -rf "$folder/venv"
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
    cp "$pinned" "$folder/venv/requirements.txt"
fi

# Each appears whole or not at all.
bare=$folder/$SUITE
if [[ ! -d $bare ]]; then
    printf 'test-dist: making a bare Debian in %s (some minutes)\n' "$bare" >&2
    rm -rf "$bare.new"
    debootstrap --variant=minbase "$SUITE" "$bare.new" >"$folder/debootstrap.log" || die "debootstrap failed: see $folder/debootstrap.log"
    mv "$bare.new" "$bare"
fi
if [[ ! -d $bare-python ]]; then
    printf 'test-dist: making one with Python in %s\n' "$bare-python" >&2
    rm -rf "$bare-python.new"
    cp -a "$bare" "$bare-python.new"
    cp /etc/resolv.conf "$bare-python.new/etc/resolv.conf"
    chroot "$bare-python.new" env DEBIAN_FRONTEND=noninteractive \
        sh -c 'apt-get update && apt-get install -y --no-install-recommends python3-venv' >"$folder/python.log" 2>&1 ||
        die "Python could not be installed there: see $folder/python.log"
    mv "$bare-python.new" "$bare-python"
fi

# What must be no part of the result: the folder that it is called in, the mask of new files, the time zone, the language.
"$root/scripts/dist.sh"
(cd / && umask 077 && TZ=Asia/Tokyo LC_ALL=C.UTF-8 "$root/scripts/dist.sh" "$folder/again" >/dev/null)

export BARE=$bare AGAIN=$folder/again PYTHONDONTWRITEBYTECODE=1
exec "${namespaces[@]}" "$folder/venv/bin/python" -m pytest -p no:cacheprovider "$here" "$@"
