#!/usr/bin/env bash
# Tests the page in a real browser: Debian's chromium, driven by its chromedriver, against the binary that was built last (or the one
# that CLIPSERVE names). What is missing is installed: the two by apt-get, selenium and pytest into target/browser. Arguments go to pytest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
target=${CARGO_TARGET_DIR:-$root/target}
folder=$target/browser
pinned=$here/requirements.txt

missing=()
for command in chromium chromedriver; do
    command -v "$command" >/dev/null 2>&1 || missing+=("$command")
done
if ((${#missing[@]})); then install_packages "${missing[*]}" chromium chromium-driver; fi
if ! python3 -c 'import ensurepip' 2>/dev/null; then install_packages "virtual environments of Python" python3-venv; fi

# It holds a copy of the list it was made from: a folder whose list is there is complete.
if ! cmp -s "$pinned" "$folder/requirements.txt"; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pinned"
    cp "$pinned" "$folder/requirements.txt"
fi

if [[ -z ${CLIPSERVE:-} ]]; then
    # shellcheck disable=SC2012 # the names are ours
    CLIPSERVE=$(ls -t "$target"/release/clipserve "$target"/debug/clipserve 2>/dev/null | head -n 1) || true
    [[ -n $CLIPSERVE ]] || { printf 'tests/browser: no binary in %s; run `make build` or `cargo build` first\n' "$target" >&2; exit 1; }
fi
export CLIPSERVE PYTHONDONTWRITEBYTECODE=1
exec "$folder/bin/pytest" -p no:cacheprovider "$here" "$@"
