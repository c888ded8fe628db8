#!/usr/bin/env bash
# Fuzzes the readers of checkpoints, each for so many seconds (60), from the fixtures: fuzz/run.sh [SECONDS] [safetensors|pickle|hdf5|msgpack ...]
# With the stable compiler: what cargo-fuzz asks of a nightly one is a sanitizer, and there is next to no unsafe code to sanitize.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:-60}
shift || true
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(safetensors pickle hdf5 msgpack)

# The parent's versions; this folder's own lock is not kept.
cp ../Cargo.lock Cargo.lock
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
# With a target named, the flags are not those of build scripts.
RUSTFLAGS="$coverage --cfg fuzzing -Cdebug-assertions" cargo build --target "$host" --target-dir target

fixtures=../tests/fixtures/export
declare -A seeds=(
    [safetensors]='-name *.safetensors' [pickle]='-name *.bin -o -name *.pt' [hdf5]='-name *.h5' [msgpack]='-name *.msgpack'
)
for target in "${targets[@]}"; do
    corpus=target/corpus/$target
    mkdir -p "$corpus"
    set -f
    # shellcheck disable=SC2086 # several words, none of them for the shell
    find "$fixtures" -type f \( ${seeds[$target]} \) | while read -r file; do
        cp "$file" "$corpus/$(sha256sum <"$file" | cut -c1-16)"
    done
    set +f
    # 500 MB: a fuzzer's own tables are part of it.
    "target/$host/debug/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=500 -max_len=200000 \
        -artifact_prefix="target/$target-" "$corpus"
done
