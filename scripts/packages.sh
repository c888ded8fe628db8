# Sourced by the scripts beside it, not run.

# install_packages WHAT PACKAGE...: says that WHAT is missing and installs the Debian packages that bring it, or says who
# must install what and exits 1.
install_packages() {
    local what=$1 as_root=()
    shift
    if ! command -v apt-get >/dev/null 2>&1; then
        printf 'clipserve needs %s. This is neither Debian nor Ubuntu: install it with your package manager, then run this again.\n' "$what" >&2
        exit 1
    fi
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null 2>&1; then
            printf 'clipserve needs %s. You are not root and there is no sudo; as root: apt-get update && apt-get install %s\n' "$what" "$*" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    printf 'clipserve needs %s: installing %s\n' "$what" "$*" >&2
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
