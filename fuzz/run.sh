#!/usr/bin/env bash
# Fuzzes our parsers, each for so many seconds (60), guided by coverage: fuzz/run.sh [SECONDS] [TARGET ...]; fuzz/Cargo.toml lists the targets.
# With the stable compiler: what cargo-fuzz asks of a nightly one is a sanitizer, and there is next to no unsafe code to sanitize.
# What is found lies in fuzz/target/TARGET-crash-*, -timeout-* and -oom-*; the tests replay fuzz/corpus without a fuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:-60}
shift || true
mapfile -t all < <(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' Cargo.toml)
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=("${all[@]}")

# The parent's versions; this folder's own lock is not kept.
cp ../Cargo.lock Cargo.lock
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
# With a target named, the flags are not those of build scripts.
RUSTFLAGS="$coverage --cfg fuzzing -Cdebug-assertions" cargo build --target "$host" --target-dir target

# Larger inputs, of the tests.
fixtures=../tests/fixtures
declare -A seeds=(
    [safetensors]='-name *.safetensors' [pickle]='-name *.bin -o -name *.pt' [hdf5]='-name *.h5' [msgpack]='-name *.msgpack'
    [gif]='-name *.gif' [webp]='-name *_lossless.webp' [tiff]='-path */pictures/*.tif' [avif]='-path */pictures/*.avif'
)
for target in "${targets[@]}"; do
    # What was found grows here, and is begun with the next time.
    corpus=target/corpus/$target
    mkdir -p "$corpus"
    if [[ -v seeds[$target] ]]; then
        set -f
        # shellcheck disable=SC2086 # several words, none of them for the shell
        find "$fixtures" -type f -size -200k \( ${seeds[$target]} \) | while read -r file; do
            cp "$file" "$corpus/$(sha256sum <"$file" | cut -c1-16)"
        done
        set +f
    fi
    # 1000 MB: a fuzzer's own tables, and encoders and decoders on threads of their own, are part of it.
    "target/$host/debug/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1000 -max_len=200000 \
        -artifact_prefix="target/$target-" "$corpus" "corpus/$target"
done
