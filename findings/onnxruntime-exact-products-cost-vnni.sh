#!/usr/bin/env bash
# ONNX Runtime 1.32.0: the option against saturating 8-bit products also slows CPUs down on which none saturates (seen 2026-11-30;
# onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; x86-64 Linux).
#
# Expected: session.x64quantprecision=1 is for CPUs with AVX2 or AVX-512 and no VNNI, where products of unsigned and signed bytes are summed in
# pairs in 16 bits. With VNNI they are exact as they are, so that there the option changes nothing, and can always be on.
# Behaviour: with VNNI, too, constant weights of signed bytes are rewritten as unsigned ones when the session is opened, and products of unsigned
# with unsigned bytes run on kernels that use neither VNNI nor AMX. The results are the same to the bit, several times later.
# What helps: ask the CPU, and set the option only where there is no VNNI.
#
# Output seen (an Intel Xeon with AVX-512 VNNI and AMX, one thread, 64 rows by 768 x 3072):
#   option 0: weights INT8
#   option 1: weights UINT8
#   results equal: True; with the option 7.7 times as long (5.1 while other work ran)
set -euo pipefail

if ! grep -q -E '^flags.* (avx512_vnni|avx_vnni)( |$)' /proc/cpuinfo; then
    echo "this CPU has no VNNI, and of others the finding says nothing" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$work"

venv/bin/python - <<'PY'
import statistics
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROWS, INNER, COLUMNS = 64, 768, 3072

chance = numpy.random.default_rng(1)
constants = {
    "weights": chance.integers(-127, 128, (INNER, COLUMNS), dtype=numpy.int8),
    "rows_zero": numpy.uint8(128),
    "weights_zero": numpy.int8(0),
}
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["rows", "weights", "rows_zero", "weights_zero"], ["products"])],
    "one product",
    [helper.make_tensor_value_info("rows", TensorProto.UINT8, [ROWS, INNER])],
    [helper.make_tensor_value_info("products", TensorProto.INT32, [ROWS, COLUMNS])],
    [numpy_helper.from_array(value, name) for name, value in constants.items()],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "graph.onnx")
feed = {"rows": chance.integers(0, 256, (ROWS, INNER), dtype=numpy.uint8)}


def opened(option):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # that an optimised graph is for this machine alone is known
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", option)
    options.optimized_model_filepath = f"optimised-{option}.onnx"
    session = onnxruntime.InferenceSession("graph.onnx", options, providers=["CPUExecutionProvider"])
    stored = onnx.load(options.optimized_model_filepath).graph.initializer
    kind = next(TensorProto.DataType.Name(tensor.data_type) for tensor in stored if list(tensor.dims) == [INNER, COLUMNS])
    print(f"option {option}: weights {kind}")
    return session, kind


def seconds(session):
    begun = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - begun


(plain, plain_kind), (exact, exact_kind) = opened("0"), opened("1")
equal = numpy.array_equal(plain.run(None, feed)[0], exact.run(None, feed)[0])
# In turn, so that whatever else the machine does meets both.
times = [(seconds(plain), seconds(exact)) for _ in range(60)]
slower = statistics.median(exact / plain for plain, exact in times)
print(f"results equal: {equal}; with the option {slower:.1f} times as long")
assert (plain_kind, exact_kind) == ("INT8", "UINT8"), "the weights are no longer rewritten"
assert equal, "the results differ"
assert slower > 1.3, "the option no longer costs time"
PY
