#!/usr/bin/env bash
# Sees to it that what the build and the tests call is installed: a C compiler, make, cmake and nasm (libjpeg-turbo is built from
# source), Python 3 (fetches the ONNX Runtime wheel), curl (asks as the pages say) and Rust. On Debian and Ubuntu it installs what is missing; elsewhere,
# or without root and sudo, it names what is missing and stops. Rust is never installed from here: the distributions' is
# too old, and a toolchain is the developer's choice.
#
# It runs before every build, so it starts no process when nothing is missing.
set -euo pipefail
# shellcheck source=scripts/packages.sh
source "${BASH_SOURCE[0]%/*}/packages.sh"

missing=()  # what people call it
packages=() # what apt-get calls it

need() { # need COMMAND PACKAGE...
    command -v "$1" >/dev/null 2>&1 && return
    missing+=("$1")
    packages+=("${@:2}")
}

need cc gcc libc6-dev
need make make
need cmake cmake
need nasm nasm
need python3 python3 python3-pip
need curl curl

if ((${#missing[@]})); then
    install_packages "${missing[*]}" "${packages[@]}"
fi

if ! command -v cargo >/dev/null 2>&1; then
    printf 'clipserve needs cargo: install Rust 1.92 or later with https://rustup.rs, then run this again.\n' >&2
    exit 1
fi
