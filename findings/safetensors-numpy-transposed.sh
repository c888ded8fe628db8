#!/usr/bin/env bash
# safetensors 0.8.0 writes a transposed numpy array's memory, not its values (seen 2026-11-28; PyPI safetensors 0.8.0, 0.7.0, numpy 2.4.6).
#
# Expected: the values of `a.T` in row order, as safetensors 0.7.0 wrote them, or an error, as safetensors.torch has for the same thing.
# Behaviour: safetensors.numpy.save and save_file put the right shape (3, 2) beside the bytes of `a` as they lie in memory. There is no
# warning, and the file is valid. Arrays in Fortran order are hit in the same way. 0.7.0 asked numpy for the values (`tobytes`).
# It matters for converters: a Keras or Flax kernel becomes a PyTorch weight by `.T`, and for a square weight nothing else can notice it.
# What helps: numpy.ascontiguousarray before saving.
#
# Output seen:
#   0.7.0 save      [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#   0.7.0 save_file [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#   0.8.0 save      [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   0.8.0 save_file [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/check.py" <<'PY'
import importlib.metadata
import sys

import numpy
from safetensors.numpy import load, load_file, save, save_file

version = importlib.metadata.version("safetensors")
a = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
values = a.T.tolist()
memory = a.reshape(3, 2).tolist()

path = sys.argv[1]
save_file({"weight": a.T}, path)
got = {
    "save": load(save({"weight": a.T}))["weight"].tolist(),
    "save_file": load_file(path)["weight"].tolist(),
}
for name, rows in got.items():
    print(f"{version} {name:9} {rows}")

fortran = load(save({"weight": numpy.asfortranarray(a)}))["weight"].tolist()
copied = load(save({"weight": numpy.ascontiguousarray(a.T)}))["weight"].tolist()

broken = version == "0.8.0"
for name, rows in got.items():
    assert rows == (memory if broken else values), f"{version}: {name} has changed"
assert (fortran != a.tolist()) == broken, f"{version}: Fortran order has changed"
assert copied == values, f"{version}: a copy is not written right either"
PY

for version in 0.7.0 0.8.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet "safetensors==$version" numpy==2.4.6
    "$work/$version/bin/python" "$work/check.py" "$work/$version.safetensors"
done
