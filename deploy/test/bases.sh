#!/usr/bin/env bash
# Makes the base images that the Dockerfile and the Compose files name, where no registry of images is reached: bases.sh
#
# They are Debian's packages and this machine's own Rust, under the names and with the users, commands and places of the images that
# they stand in for. One that is there already is left alone. Needs root, docker, debootstrap (installed where it is missing) and the
# Rust toolchain of the version in the Dockerfile's first image.
#
# Mirrors are the caller's and stay in these images, which are for this machine alone: of Debian's archive DEBIAN_MIRROR or what apt's
# sources name, of crates cargo's configuration, of PyPI pip's configuration and PIP_INDEX_URL, with the certificates that this
# machine trusts.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

die() {
    printf 'bases: %s\n' "$*" >&2
    exit 1
}

# named PATTERN: the image whose name begins so, as the Dockerfile or a Compose file has it.
named() {
    sed -nE "s%^(FROM|[ ]+image:) ($1[^ ]*).*%\2%p" "$root/Dockerfile" "$root"/deploy/compose*.yaml | sed -n 1p
}

missing() { # missing IMAGE: whether it has to be made; says so
    if docker image inspect "$1" >/dev/null 2>&1; then return 1; fi
    printf 'bases: making %s\n' "$1" >&2
}

debian=$(named debian:)
suite=${debian#debian:}
suite=${suite%-slim}
# What an apt-get in a Dockerfile takes from this archive, in one layer.
install='apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends'
clean='rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin'

if missing "$debian"; then
    command -v debootstrap >/dev/null || install_packages debootstrap debootstrap
    mirror=${DEBIAN_MIRROR:-$(find /etc/apt/sources.list* -type f -exec cat {} + \
        | sed -nE 's%^(URIs: *|deb +(\[[^]]*\] +)?)(https?://[^ ]+/debian/?)( .*)?$%\3%p' | sed -n 1p)}
    debootstrap --variant=minbase "$suite" "$work/debian" ${mirror:+"$mirror"} >"$work/log" \
        || { tail "$work/log" >&2; die "debootstrap could not make $suite (DEBIAN_MIRROR names another mirror of Debian's archive)"; }
    # What the slim image leaves out as well.
    rm -rf "$work"/debian/{usr/share/{doc,man,locale,info},var/lib/apt/lists,var/log,var/cache}/*
    tar -C "$work/debian" -c . | docker import --change 'CMD ["bash"]' - "$debian" >/dev/null
fi

rust=$(named rust:)
if missing "$rust"; then
    version=${rust#rust:}
    sysroot=$(rustc "+${version%%-*}" --print sysroot 2>/dev/null || rustc --print sysroot)
    [[ $("$sysroot/bin/rustc" --version) == "rustc ${version%%-*} "* ]] \
        || die "this machine has no Rust ${version%%-*}: rustup toolchain install ${version%%-*}"
    cp /etc/ssl/certs/ca-certificates.crt "$work/certificates"
    cat "${CARGO_HOME:-$HOME/.cargo}/config.toml" >"$work/config.toml" 2>/dev/null || :
    cat "${PIP_CONFIG_FILE:-/etc/pip.conf}" "$HOME/.config/pip/pip.conf" >"$work/pip.conf" 2>/dev/null || :
    if [[ -n ${PIP_INDEX_URL:-} ]]; then printf '[global]\nindex-url = %s\n' "$PIP_INDEX_URL" >"$work/pip.conf"; fi
    cat >"$work/Dockerfile" <<DOCKERFILE
FROM $debian
RUN $install ca-certificates gcc libc6-dev && $clean
COPY certificates /etc/ssl/certs/ca-certificates.crt
COPY config.toml /usr/local/cargo/
COPY pip.conf /etc/
COPY bin /usr/local/bin
COPY lib /usr/local/lib
ENV CARGO_HOME=/usr/local/cargo
DOCKERFILE
    tar -c -C "$work" Dockerfile certificates config.toml pip.conf -C "$sysroot" --exclude lib/rustlib/src bin lib \
        | docker build --quiet --tag "$rust" - >/dev/null
fi

# packaged IMAGE PACKAGE: the package of Debian's next release, whose versions are those of the Compose files, as that image; the rest of
# its Dockerfile comes by standard input. That release is signed for a week at a time, and a mirror may be older than that.
packaged() {
    if ! missing "$1"; then return; fi
    local old='echo "Acquire::Check-Valid-Until false;" >/etc/apt/apt.conf.d/old' next="sed -i s/$suite/forky/ /etc/apt/sources.list"
    { printf 'FROM %s\nRUN %s && %s && %s %s && %s\n' "$debian" "$old" "$next" "$install" "$2" "$clean" && cat; } \
        | docker build --quiet --tag "$1" - >/dev/null
}

packaged "$(named haproxy:)" haproxy <<'DOCKERFILE'
STOPSIGNAL SIGUSR1
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
DOCKERFILE

packaged "$(named nginx:)" nginx <<'DOCKERFILE'
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
DOCKERFILE

packaged "$(named prom/prometheus:)" prometheus <<'DOCKERFILE'
RUN install -d -o nobody -g nogroup /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
DOCKERFILE
