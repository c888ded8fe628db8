#!/usr/bin/env bash
# Fetches the pinned ONNX Runtime library into a folder: fetch-onnxruntime.sh [--cuda | --cuda-provider | --openvino] [FOLDER]
#
# FOLDER is by default .onnxruntime at the root of the checkout, where clipserve and its tests look for it. With --cuda it
# is the CUDA build and the CUDA libraries that it loads (several gigabytes; meant for the container image).
#
# With --cuda-provider it is the CUDA build alone (320 MB), for a machine that has CUDA's libraries; FOLDER is then by default
# .onnxruntime/cuda.
#
# With --openvino it is OpenVINO, which computes in bf16 on CPUs, in its two forms: plugin/ goes with the library in the folder
# above and takes Intel's CPUs, runtime/ has an ONNX Runtime of its own and takes any. FOLDER is then by default
# .onnxruntime/openvino.
#
# The versions and sha256 sums are in onnxruntime-{cpu,cuda,openvino}.txt beside this file; pip downloads the wheels and refuses one
# with another sum. Only the shared libraries and the licence texts are unpacked. The folder appears whole or not at all,
# and holds a copy of the list it was made from: as long as that equals the pinned one, nothing is done and nothing fetched.
set -euo pipefail
# shellcheck source=scripts/packages.sh
source "${BASH_SOURCE[0]%/*}/packages.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
variant=cpu
default=$here/../.onnxruntime
case ${1-} in
--cuda)
    variant=cuda
    shift
    ;;
--cuda-provider)
    variant=cuda-provider
    default=$default/cuda
    shift
    ;;
--openvino)
    variant=openvino
    default=$default/openvino
    shift
    ;;
esac
folder=${1-$default}
pinned=$here/onnxruntime-${variant%-provider}.txt

die() {
    printf 'fetch-onnxruntime: %s\n' "$*" >&2
    exit 1
}

stamp=$folder/pinned-$variant-${HOSTTYPE:=$(uname -m)}.txt
if cmp -s "$pinned" "$stamp"; then exit 0; fi

[[ $(uname -s) == Linux ]] || die "the pinned ONNX Runtime is for Linux; elsewhere install it yourself and set ORT_DYLIB_PATH"
case $variant-$HOSTTYPE in
*-x86_64 | cpu-aarch64) ;;
*) die "there is no $variant build of the pinned ONNX Runtime for $HOSTTYPE; install it yourself and set ORT_DYLIB_PATH" ;;
esac
if ! python3 -m pip --version >/dev/null 2>&1; then
    install_packages "pip for Python 3" python3-pip
    python3 -m pip --version >/dev/null 2>&1 || die "$(command -v python3) has no pip, and python3-pip did not bring it: install it (python3 -m ensurepip), then run this again"
fi

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/wheels" "$work/new"

# The provider is the runtime's own wheel, one requirement of the list.
if [[ $variant == *-provider ]]; then
    sed -n '/^onnxruntime/,/[^\\]$/p' "$pinned" >"$work/wanted.txt"
else
    cp "$pinned" "$work/wanted.txt"
fi

printf 'fetch-onnxruntime: fetching %s for %s\n' "$(grep -oE '^onnxruntime[^ ]*' "$pinned")" "$HOSTTYPE" >&2
# One Python version and the oldest glibc the wheels support, whatever runs here: always the same files.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --implementation cp --python-version 3.11 \
    --platform "manylinux_2_28_$HOSTTYPE" --platform "manylinux_2_27_$HOSTTYPE" --platform "manylinux2014_$HOSTTYPE" \
    --dest "$work/wheels" --requirement "$work/wanted.txt" || die "pip could not download the pinned files (see above)"

python3 - "$work/wheels" "$work/new" <<'PY' || die "a wheel does not hold what was expected"
import pathlib, re, shutil, sys, zipfile

wheels, folder = map(pathlib.Path, sys.argv[1:])
# The runtime's own libraries and NVIDIA's, side by side so that one search path finds all; not the Python bindings.
library = re.compile(r"(onnxruntime/capi/libonnxruntime|nvidia/[\w/]+/lib/lib)[^/]*\.so[.\d]*")
# Of OpenVINO what its CPU device needs, each file once (they are there under up to three names). The two forms have files of
# the same name, so each has a folder of its own.
forms = {"onnxruntime_ep_openvino": "plugin", "onnxruntime_openvino": "runtime"}
openvino = re.compile(
    r"onnxruntime(_ep_openvino|/capi)/lib(onnxruntime\.so[.\d]+|onnxruntime_providers_(openvino|openvino_plugin|shared)\.so"
    r"|openvino(_onnx_frontend|_ir_frontend)?\.so\.\d{4}|openvino_intel_cpu_plugin\.so|(tbb\w*|hwloc)\.so\.\d+)"
)
licence = re.compile(
    r"onnxruntime\w*/(LICENSE|ThirdPartyNotices\.txt|third-party-programs\.txt)|[^/]+\.dist-info/(licenses/)?L[Ii][Cc][^/]*"
)
for wheel in sorted(wheels.glob("*.whl")):
    package, found = wheel.name.split("-")[0], 0
    target_folder = folder / forms.get(package, "")
    target_folder.mkdir(exist_ok=True)
    wanted = openvino if package in forms else library
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = pathlib.PurePosixPath(member.filename).name
            if wanted.fullmatch(member.filename):
                found += 1
            elif licence.fullmatch(member.filename):
                name = f"{package}-{name}"
            else:
                continue
            with archive.open(member) as source, open(target_folder / name, "xb") as target:
                shutil.copyfileobj(source, target)
            (target_folder / name).chmod(0o644)
    if not found:
        sys.exit(f"{wheel.name}: no shared library inside")
PY

cp "$pinned" "$work/new/$(basename "$stamp")"
chmod 755 "$work/new"
rm -rf "$folder"
mv -T "$work/new" "$folder"
