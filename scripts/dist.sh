#!/usr/bin/env bash
# Packs what `make build` built into something to install: dist.sh [--openvino] [FOLDER]
#
# FOLDER (target/dist) then holds, for the system it runs on (Linux on x86_64 or aarch64, with glibc):
#   clipserve-VERSION-ARCH-linux.tar.gz         the program, ONNX Runtime, the model in the box, a unit, licences, a bill of materials
#   clipserve-VERSION-py3-none-manylinux_*.whl  the same for pip
#   clipserve-VERSION-ARCH-linux-debug.tar.gz   the lines of the program's source, for debuggers, which find them by its build id
#   clipserve-VERSION-ARCH-linux.cdx.json       the bill of materials, CycloneDX 1.6
#   SHA256SUMS                                  the sums of all
# With --openvino there is OpenVINO in the first two as well (x86_64; `make fetch-openvino`), and they are called so.
#
# The same build makes the same bytes: names are sorted, owners are nobody's, and times are SOURCE_DATE_EPOCH, by default the last commit's.
# The model is exported here, by the program itself, so that it can be served from a place that nobody may write to.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What is sorted, and what programs say, is the same everywhere.
export LC_ALL=C TZ=UTC
umask 022

die() {
    printf 'dist: %s\n' "$*" >&2
    exit 1
}

openvino=''
if [[ ${1-} == --openvino ]]; then
    openvino=-openvino
    shift
fi
folder=$(realpath -m -- "${1-$root/target/dist}")
binary=$root/target/release/clipserve
runtime=$root/.onnxruntime

[[ ${1-} != -* && $# -le 1 ]] || die "wants [--openvino] [FOLDER]"
# It is replaced: not one that holds anything else.
[[ ! -e $folder || -e $folder/SHA256SUMS ]] || die "$folder is there and nothing that was packed: name a new folder"
[[ $(uname -s) == Linux ]] || die "packs for Linux alone"
for tool in cargo gzip objcopy python3 readelf strip; do
    command -v "$tool" >/dev/null || die "$tool is not there (objcopy, readelf and strip are of Debian's binutils): install it"
done
[[ -x $binary ]] || die "$binary is not there: make build"
compgen -G "$runtime/libonnxruntime.so.*" >/dev/null || die "no ONNX Runtime is in $runtime: make build"
if [[ $openvino && ! -d $runtime/openvino ]]; then die "no OpenVINO is in $runtime/openvino: make fetch-openvino"; fi
if [[ ! ${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct 2>/dev/null || true)} ]]; then
    die "there is no commit to take the time from: set SOURCE_DATE_EPOCH to the second that the archives are to carry"
fi

# What a wheel can say, whose times begin with 1980 and end before 2108.
if [[ ! $SOURCE_DATE_EPOCH =~ ^[0-9]{9,10}$ ]] || ((SOURCE_DATE_EPOCH < 315532800 || SOURCE_DATE_EPOCH > 4354819199)); then
    die "SOURCE_DATE_EPOCH is $SOURCE_DATE_EPOCH, and no second from 315532800 (1980) to 4354819199: leave it out, or take one of these"
fi

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
cargo metadata --manifest-path "$root/Cargo.toml" --locked --format-version 1 \
    --filter-platform "$(uname -m)-unknown-linux-gnu" >"$work/metadata.json"
version=$("$binary" --version)
version=${version#clipserve }
name=clipserve-$version-$(uname -m)-linux
mkdir -p "$work/new" "$work/$name$openvino/licenses"

# pack FOLDER FILE: an archive of a folder of $work.
pack() {
    tar -C "$work" --create --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mode=a=rX,u+w \
        --mtime="@$SOURCE_DATE_EPOCH" "$1" | gzip -n >"$2"
}

# The program, and what of it only debuggers read. The two have the same build id.
build_id=$(readelf --notes "$binary" | sed -n 's/^ *Build ID: //p')
[[ $build_id ]] || die "$binary has no build id, by which debuggers find its lines: let the linker write one (--build-id)"
mkdir -p "$work/.build-id/${build_id::2}"
objcopy --only-keep-debug "$binary" "$work/.build-id/${build_id::2}/${build_id:2}.debug"
pack .build-id "$work/new/$name-debug.tar.gz"

cd "$work/$name$openvino"
strip -o clipserve "$binary"
install -m 644 "$runtime"/libonnxruntime*.so* .
install -m 644 "$runtime"/onnxruntime-* licenses/
if [[ $openvino ]]; then
    for form in plugin runtime; do
        mkdir -p "openvino/$form"
        install -m 644 "$runtime/openvino/$form"/lib* "openvino/$form/"
        install -m 644 "$runtime/openvino/$form"/onnxruntime_* licenses/
    done
fi
./clipserve export "$root/onnx/emoji-clip" onnx/emoji-clip >/dev/null
cp -r "$root/onnx/examples" "$root/onnx/README.md" onnx/
install -m 644 -D "$root/config/default.toml" config/default.toml
install -m 644 "$root"/LICENSE-* "$root/README.md" "$root/deploy/clipserve.service" .
install -m 644 -D -t docs "$root"/docs/*.md
python3 -B "$root/scripts/dist" describe . "$SOURCE_DATE_EPOCH" <"$work/metadata.json"
pack "$name$openvino" "$work/new/$name$openvino.tar.gz"
cp clipserve.cdx.json "$work/new/$name$openvino.cdx.json"

# The oldest glibc that has all that the program and its libraries ask for.
mapfile -t elves < <(find . -name clipserve -type f -o -name 'lib*.so*' | sort)
glibc=$(readelf --version-info --wide "${elves[@]}" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | sed -n '$s/GLIBC_//p')
python3 -B "$root/scripts/dist" wheel . "$work/new" "manylinux_${glibc/./_}_$(uname -m)" "$SOURCE_DATE_EPOCH" <"$work/metadata.json"

cd "$work/new"
sha256sum -- * >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" .
chmod 755 .
rm -rf "$folder"
mv -T "$work/new" "$folder"
ls -l "$folder"
printf 'dist: it wants glibc %s or later\n' "$glibc"
