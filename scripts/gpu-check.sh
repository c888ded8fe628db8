#!/usr/bin/env bash
# Checks the service on a machine with an NVIDIA GPU, in six minutes, and writes what it finds as one page of Markdown: whether
# CUDA (and TensorRT, where its libraries are) computes what transformers does, and how fast it is.
#
#   gpu-check.sh [OPTION ...] [PART ...]     everything, or the parts whose names begin so: {goldens,base,large}-{f32,f16}
#   gpu-check.sh --list                      what has to be copied to such a machine beside the checkout
#   gpu-check.sh --pack FOLDER [--part MB]   the same in files of MB megabytes (60), and how to put them together there
#
#   --dry-run           on the CPU provider, with one block of each tower and short loads: a rehearsal without a GPU
#   --page FILE         the page [target/gpu-check.md]
#   --binary FILE       clipserve [target/release/clipserve]
#   --load FILE         the benchmarks' program, whose load generator asks [the newest target/release/deps/serve-*]
#   --runtime FOLDER    ONNX Runtime with its CUDA provider [.onnxruntime/cuda; of a dry run .onnxruntime]
#   --libraries FOLDER  where CUDA's libraries are, beside where systems and Python's packages have them; may be repeated
#
# What that machine has by itself: bash and coreutils, Python 3.8 without packages, NVIDIA's driver with nvidia-smi, CUDA's libraries
# somewhere, and 6 GB for checkpoints and graphs in TMPDIR. Nothing is built there and nothing fetched. What it lacks is named on the
# page and the rest goes on; each part has a limit. Exits 1 when a golden does not hold or could not be asked for, 64 on a wrong
# command line.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

BUDGET=350 # seconds, of six minutes

usage() {
    printf 'gpu-check: %s\n' "$*" >&2
    exit 64
}

newest() { # newest FILE...: the one that was made last
    local file newest=$1
    for file in "$@"; do
        if [[ $file -nt $newest ]]; then newest=$file; fi
    done
    printf '%s' "$newest"
}

# ---------------------------------------------------------------------------------------------------------------- to copy

commit() {
    git -C "$root" describe --always --dirty 2>/dev/null || cat "$root/target/release/commit" 2>/dev/null || echo unknown
}

# stage FOLDER: lays out there, under the names that they have in a checkout, what has to be copied. A build's programs are mostly
# what a debugger reads.
stage() {
    local program library
    for program in "$binary" "$load"; do
        [[ -x $program ]] || usage "$program is not there: make build, and cargo bench --bench serve --no-run"
    done
    mkdir -p "$1/target/release/deps" "$1/.onnxruntime/cuda"
    strip -o "$1/target/release/clipserve" "$binary"
    strip -o "$1/target/release/deps/${load##*/}" "$load"
    # A copy of a checkout may come without its history.
    commit >"$1/target/release/commit"
    for library in "$runtime"/libonnxruntime.so.* "$runtime"/libonnxruntime_providers_{shared,cuda,tensorrt}.so; do
        [[ -e $library ]] || usage "$library is not there: scripts/fetch-onnxruntime.sh --cuda-provider"
        ln -s "$(realpath "$library")" "$1/.onnxruntime/cuda/"
    done
}

# What of the checkout is needed, where not all of it is there.
USED=(scripts/gpu-check.sh scripts/gpu_check.py config/cuda.toml benches/crop_224x224.jpg onnx/emoji-clip onnx/examples
    tests/fixtures/golden tests/fixtures/images tests/fixtures/tiny-clip)

list() {
    stage "$work"
    {
        (cd "$work" && find -L . -type f -printf '%s %P\n')
        (cd "$root" && du -sb "${USED[@]}" | awk '{ print $1, $2, "(of the checkout)" }')
    } | awk '{ size = $1; sub(/^[0-9]+[ ]/, ""); printf "%8.1f MB  %s\n", size / 1e6, $0 }'
    printf 'The programs want glibc %s.\n' "$(grep -haoE 'GLIBC_[0-9.]+' "$work"/target/release/clipserve "$work"/target/release/deps/* |
        sort -uV | sed -n '$s/GLIBC_//p')"
}

pack() {
    stage "$work"
    mkdir -p "$folder"
    tar -C "$work" -chf - target .onnxruntime | gzip | split -b "${megabytes}MB" -d - "$folder/gpu-check.tar.gz."
    ls -l "$folder"
    printf 'There, in the checkout:\n    cat %s/gpu-check.tar.gz.* | tar -xz && scripts/gpu-check.sh\n' "$folder"
}

# -------------------------------------------------------------------------------------------------------------- the page

# lack WHAT WHY: what the head of the page is to say that it has not.
lack() {
    printf '* %s: %s\n' "$1" "$2" >>"$work/lacking"
    printf 'gpu-check: %s: %s\n' "$1" "$2" >&2
}

# part SECONDS TITLE ARGUMENT...: a section of the page, from gpu_check.py with these arguments; what was printed when its time is up stays.
part() {
    local limit=$(($1 < BUDGET - SECONDS ? $1 : BUDGET - SECONDS)) title=$2 began=$SECONDS status=0 why=''
    shift 2
    printf 'gpu-check: %3d s: %s\n' "$SECONDS" "$title" >&2
    printf '\n## %s\n\n' "$title" >>"$work/sections"
    if ((limit < 5)); then
        lack "$title" "no time was left"
        return 1
    fi
    # In the background, so that a signal is heeded at once.
    timeout --kill-after 5 "$limit" python3 -Bu "$root/scripts/gpu_check.py" --binary "$binary" --load "$load" --runtime "$runtime" \
        --work "$work" --seconds "$seconds" "$@" >>"$work/sections" 2>"$work/errors" &
    wait "$!" || status=$?
    case $status in
    0) ;;
    10) printf '* %s\n' "$title" >>"$work/wrong" ;;
    124 | 137) why="not finished within $limit s" ;;
    *) why=$(tail -n 1 "$work/errors" | grep . || echo "exit code $status") ;;
    esac
    printf '\nTook %d s.%s\n' $((SECONDS - began)) "${why:+ Not had: $why}" >>"$work/sections"
    [[ ! $why ]] || lack "$title" "$why"
    return "$status"
}

wanted() { # wanted NAME: whether the command line names that part, or none
    local prefix
    for prefix in "${parts[@]}"; do
        if [[ $1 == "$prefix"* ]]; then return; fi
    done
    ((${#parts[@]} == 0))
}

attempt() { # attempt NAME SECONDS TITLE PROVIDER PRECISION COMMAND...: the part NAME-PRECISION, where it is wanted
    if wanted "$1-$5"; then part "$2" "$3 in $5 on $4" --provider "$4" --precision "$5" "${@:6}"; fi
}

machine() {
    printf '| | |\n|---|---|\n'
    printf '| GPU | %s |\n' "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo none that nvidia-smi names)"
    printf '| CPU | %s, %s cores, %s GB |\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
        "$(awk '/MemTotal/ { printf "%.0f", $2 / 1e6 }' /proc/meminfo)"
    printf '| service | %s, commit %s |\n' "$("$binary" --version 2>&1 | tail -n 1)" "$(commit)"
    printf '| ONNX Runtime | %s |\n' "$(basename "$runtime"/libonnxruntime.so.*)"
}

write_page() {
    local status=$?
    kill "$(jobs -p)" 2>/dev/null || true
    {
        printf '# The service on a GPU\n\nWritten by scripts/gpu-check.sh on %s, in %d s.\n\n' "$(date -u +%F)" "$SECONDS"
        if [[ $dry ]]; then printf '**A dry run on the CPU provider, with one block of each tower: of GPUs it says nothing.**\n\n'; fi
        machine
        printf '\n'
        if [[ -s $work/wrong ]]; then
            printf '**Values do not hold** (the sections say which):\n\n'
            cat "$work/wrong"
        elif ((status == 0)); then
            printf 'All values that were asked for hold.\n'
        fi
        if [[ -s $work/lacking ]]; then
            printf '\nCould not be had:\n\n'
            cat "$work/lacking"
        fi
        cat "$work/sections"
    } >"$page"
    printf 'gpu-check: %s is written\n' "$page" >&2
}

check() {
    local provider=cuda precision status=0
    [[ -x $binary ]] || usage "$binary is not there"
    compgen -G "$runtime/libonnxruntime.so.*" >/dev/null || usage "no ONNX Runtime is in $runtime: scripts/fetch-onnxruntime.sh --cuda-provider"
    if [[ ! -x $load ]]; then
        for precision in f32 f16; do
            if wanted "base-$precision" || wanted "large-$precision"; then usage "$load is not there: cargo bench --bench serve --no-run"; fi
        done
    fi
    mkdir -p "$(dirname "$page")"
    touch "$work"/{lacking,wrong,sections}
    trap 'write_page; rm -rf "$work"' EXIT
    trap 'lack "The rest" "stopped by a signal"; exit 1' INT TERM
    blocks=() seconds=3
    if [[ $dry ]]; then provider=cpu blocks=(--blocks 1) seconds=1; fi
    # config/cuda.toml wants open files for its connections.
    ulimit -n "$(ulimit -Hn)"

    command -v nvidia-smi >/dev/null || lack "Utilisation and memory of the GPU" "there is no nvidia-smi"
    part 40 "CUDA's libraries" libraries "${named[@]}" || true
    for precision in f32 f16; do
        attempt goldens 60 Values "$provider" "$precision" goldens || status=1
    done
    # f16 first, which is what a GPU is for: should the time not do, f32 is what is missing.
    for precision in f16 f32; do
        attempt base 80 "ViT-B/32's sizes" "$provider" "$precision" speed ViT-B/32 "${blocks[@]}" || status=1
        attempt large 100 "ViT-L/14's sizes" "$provider" "$precision" speed ViT-L/14 "${blocks[@]}" || status=1
    done
    # Last, since TensorRT builds its engines for minutes; and most machines do not have it.
    attempt goldens 60 Values tensorrt f16 goldens || true
    attempt base 120 "ViT-B/32's sizes" tensorrt f16 speed ViT-B/32 "${blocks[@]}" || true
    [[ ! -s $work/wrong ]] || status=1
    return "$status"
}

# ------------------------------------------------------------------------------------------------------- the command line

task=check dry='' page=$root/target/gpu-check.md binary=$root/target/release/clipserve load='' runtime='' megabytes=60 named=() parts=()
while (($#)); do
    case $1 in
    --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
        ;;
    --dry-run) dry=yes ;;
    --list) task=list ;;
    --pack | --part | --page | --binary | --load | --runtime | --libraries)
        (($# > 1)) || usage "$1 wants a value"
        case $1 in
        --pack) task=pack folder=$2 ;;
        --part) megabytes=$2 ;;
        --page) page=$2 ;;
        --binary) binary=$2 ;;
        --load) load=$2 ;;
        --runtime) runtime=$2 ;;
        --libraries) named+=("$2") ;;
        esac
        shift
        ;;
    goldens* | base* | large*) parts+=("$1") ;;
    *) usage "$1: neither an option nor a part" ;;
    esac
    shift
done
# The other programs there have the same name and another end: cargo's hash has 16 digits.
[[ $load ]] || load=$(newest "$root"/target/release/deps/serve-????????????????)
if [[ ! $runtime && $dry ]]; then runtime=$root/.onnxruntime; fi
[[ $runtime ]] || runtime=$root/.onnxruntime/cuda

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$task"
