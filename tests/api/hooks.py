"""What random values never are, so that the routes behind them do not stay untried: valid pictures, the served model's name, known tokens,
tensors that are as long as they say. Invariant: what breaks the schema stays as it is."""

import base64
import json
import pathlib
from types import NoneType

import schemathesis

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "emoji-clip"
PICTURES = [path.read_bytes() for path in sorted((ROOT / "onnx/examples").glob("*.png"))]
# Members that are pictures where they stand: of lists, of objects that say what they are.
PICTURE_MEMBERS = {"images", "image", "url", "bytes", "image_base64", "image_url"}
TENSORS = {"images": "BYTES", "texts": "BYTES", "pixel_values": "FP32", "input_ids": "INT64", "attention_mask": "INT64"}

# Of a tensor and of an inference.
REFUSED = ("shared_memory_region", "classification", "sequence_id")


def picture(seed):
    return PICTURES[len(str(seed)) % len(PICTURES)]


def is_count(value):
    return type(value) is int and value >= 0


def name(value):
    """The model's own name, but for some, since others are to be refused."""
    return value if len(value) % 8 == 7 else MODEL


def fill(value, key=None):
    if isinstance(value, dict):
        return {member: fill(inner, member) for member, inner in value.items()}
    if isinstance(value, list):
        return [fill(member, key) for member in value]
    if isinstance(value, str) and value and key in PICTURE_MEMBERS:
        start = "data:image/png;base64," if len(value) % 2 else ""
        return start + base64.b64encode(picture(value)).decode()
    if isinstance(value, str) and key == "model":
        return name(value)
    if key in ("dimensions", "output_dimension") and type(value) is int and value > 0:
        return (value - 1) % 192 + 1
    if key == "ids" and is_count(value):
        return value % 256
    return value


def form(body):
    """A multipart body: its files are bytes, and Immich's has one task that goes with them."""
    files, text, entries = (body.get(part) for part in ("image", "text", "entries"))
    if isinstance(files, list):
        return {**body, "image": [picture(file) if isinstance(file, (bytes, str)) and file else file for file in files]}
    if not isinstance(entries, str) or not isinstance(text, (str, NoneType)) or not isinstance(files, (bytes, str, NoneType)):
        return body
    entry = {"modelName": name(entries)}
    if "image" in body and files is not None:
        return {"entries": json.dumps({"clip": {"visual": entry}}), "image": picture(files)}
    if "text" in body and text is not None and "image" not in body:
        return {"entries": json.dumps({"clip": {"textual": entry}}), "text": text}
    return body


def keeps(options, kinds):
    """Whether options are as the schema has them, so that they may be left out."""
    if options is None:
        return True
    known = isinstance(options, dict) and all(options.get(option) is None for option in REFUSED)
    return known and all(options.get(option) is None or type(options[option]) is kind and options[option] >= 0 for option, kind in kinds.items())


def tensor(value):
    """A tensor with as many values as its shape says, if it is one at all."""
    if not isinstance(value, dict) or value.get("name") not in list(TENSORS):
        return value
    shape, data, datatype = (value.get(member) for member in ("shape", "data", "datatype"))
    axes = isinstance(shape, list) and 0 < len(shape) <= 8 and all(map(is_count, shape))
    options = keeps(value.get("parameters"), {"binary_data_size": int, "binary_data": bool})
    if not axes or not options or not isinstance(data, (list, NoneType)) or datatype not in TENSORS.values():
        return value
    n = len(shape) % 3 + 1
    data = {
        "images": [base64.b64encode(picture(shape)).decode()] * n,
        "input_ids": [[0, 5, 1]] * n,
    }.get(value["name"], [str(element) for element in range(n)])
    # The two that go with others become one that goes alone.
    known = value["name"] if value["name"] in ("images", "input_ids") else "texts"
    return {"name": known, "datatype": TENSORS[known], "shape": [n, 3] if known == "input_ids" else [n], "data": data}


def inference(body):
    inputs, outputs = body.get("inputs"), body.get("outputs")
    if isinstance(inputs, list):
        body["inputs"] = [tensor(value) for value in inputs]
        sides = {"image" if value["name"] == "images" else "text" for value in body["inputs"] if isinstance(value, dict) and "name" in value}
        named = isinstance(outputs, list) and all(isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs)
        if named and all(keeps(output.get("parameters"), {"binary_data": bool}) for output in outputs):
            outputs[:] = [{"name": f"{side}_embeds"} for _, side in zip(outputs, sorted(sides))]
    if keeps(body.get("parameters"), {"binary_data_output": bool, "timeout": int}):
        body.pop("parameters", None)
    return body


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, bytes) and body:
        return picture(body)
    if isinstance(body, dict) and ("image" in body or "entries" in body):
        return form(body)
    if isinstance(body, dict) and context.operation.path.endswith("/infer"):
        return inference(body)
    return fill(body)


@schemathesis.hook
def map_path_parameters(context, parameters):
    if parameters and isinstance(parameters.get("model"), str):
        parameters["model"] = name(parameters["model"])
    if parameters and "version" in parameters:
        parameters["version"] = "1"
    return parameters


@schemathesis.hook
def map_headers(context, headers):
    """With JSON alone the number of its bytes is left out, which nobody knows before it is written."""
    length = "inference-header-content-length"
    if headers and str(headers.get(length, "")).isdigit():
        headers.pop(length)
    return headers
