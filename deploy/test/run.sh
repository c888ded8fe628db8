#!/usr/bin/env bash
# Builds the images and tests them as they run: alone, by Compose behind HAProxy and behind nginx, watched by Prometheus; and renders and
# checks the manifests of Kubernetes. Arguments go to pytest (-k compose for some).
#
# Needs: docker with its daemon and Compose (either command), a registry of images or, in its place, root with the packages of Debian
# (bases.sh), and Python 3 and kubectl here. The first build takes as long as a release build and 5 GB; CUDA's image 12 GB more and is built
# with ARGS="-m cuda" alone. CLIPSERVE_IMAGE names an image to test in place of the one that is built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
folder=${CARGO_TARGET_DIR:-$root/target}/containers
pinned=$here/requirements.txt

need() { # need WHAT WAY_OUT: says that WHAT is missing, and ends
    printf 'deploy/test: there is no %s: %s\n' "$@" >&2
    exit 1
}

docker info >/dev/null 2>&1 || need "docker that answers" "install it, start its daemon, and be allowed to use it"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || need Compose "install its plugin, or docker-compose"
command -v kustomize >/dev/null || command -v kubectl >/dev/null || need kustomize "install kubectl, which has it, or kustomize itself"
if ! python3 -c 'import ensurepip' 2>/dev/null; then install_packages "virtual environments of Python" python3-venv; fi

# Base images come from the registry that the daemon is set up for; where it has none, from Debian's packages.
sed -nE 's/^(FROM|[ ]+image:) ([a-z/]+:[^ ]+).*/\2/p' "$root/Dockerfile" "$root"/deploy/compose*.yaml | sort -u | while read -r image; do
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" </dev/null || { "$here/bases.sh" </dev/null; break; }
done

# It holds a copy of the list it was made from: a folder whose list is there is complete.
if ! cmp -s "$pinned" "$folder/requirements.txt"; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
    cp "$pinned" "$folder/requirements.txt"
fi

export PYTHONDONTWRITEBYTECODE=1
exec "$folder/bin/pytest" -c "$here/pytest.ini" -p no:cacheprovider "$here" "$@"
