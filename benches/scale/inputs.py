"""What is measured with: pictures of 640x480 in Parquet, and a checkpoint of ViT-B/32's sizes with random weights.

Both are made once, from a seed, and kept. Of random weights the arithmetic is that of trained ones.
"""

from __future__ import annotations

import io
import json
import pathlib
import shutil
import struct

import numpy
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures"
# CLIP's own tokenizer and preprocessing, from the model of the tests.
COPIED = ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def pictures(path: pathlib.Path, count: int, rows: int) -> None:
    """`count` JPEGs of quality 85: a photograph, each time moved and in other light; in row groups of `rows`."""
    if path.exists():
        return
    photo = numpy.asarray(Image.open(FIXTURES / "images" / "photo_640x480.jpg").convert("RGB"))
    rng = numpy.random.default_rng(1)
    draft = path.with_suffix(".partial")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.string()), ("image", kind)])
    with pyarrow.parquet.ParquetWriter(draft, schema, compression="none") as writer:
        for first in range(0, count, rows):
            names = [f"{number:06}" for number in range(first, min(count, first + rows))]
            cells = [{"bytes": _jpeg(photo, rng), "path": f"{name}.jpg"} for name in names]
            writer.write_table(pa.table({"id": names, "image": pa.array(cells, kind)}, schema))
    draft.rename(path)


def _jpeg(photo: numpy.ndarray, rng: numpy.random.Generator) -> bytes:
    moved = numpy.roll(photo, rng.integers(0, 480, 2), axis=(0, 1))
    lit = numpy.clip(moved * rng.uniform(0.7, 1.2), 0, 255).astype(numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(lit).save(file, "JPEG", quality=85)
    return file.getvalue()


def checkpoint(folder: pathlib.Path) -> None:
    """A checkpoint in the layout of `transformers` (605 MB)."""
    if folder.exists():
        return
    draft = folder.with_suffix(".partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in COPIED:
        shutil.copy(FIXTURES / "tiny-clip" / name, draft)
    config = json.loads((FIXTURES / "tiny-clip" / "config.json").read_text())
    config |= {"projection_dim": 512, "dtype": "float32"}
    sizes = {"num_hidden_layers": 12, "projection_dim": 512}
    config["vision_config"] |= sizes | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    config["text_config"] |= sizes | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    (draft / "config.json").write_text(json.dumps(config))
    shapes = _shapes(config["vision_config"], config["text_config"])
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    rng = numpy.random.default_rng(0)
    with open(draft / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, shape in shapes.items():
            is_norm = "norm" in name and name.endswith("weight")
            values = rng.normal(1.0 if is_norm else 0.0, 0.02, shape)
            file.write((numpy.full(shape, 4.6052) if name == "logit_scale" else values).astype("<f4").tobytes())
    draft.rename(folder)


def _shapes(vision: dict, text: dict) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {"logit_scale": []}

    def affine(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = list(weight), [weight[0]]

    for tower, config in (("vision_model", vision), ("text_model", text)):
        width, inner = config["hidden_size"], config["intermediate_size"]
        for layer in (f"{tower}.encoder.layers.{number}" for number in range(config["num_hidden_layers"])):
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                affine(f"{layer}.self_attn.{projection}", width, width)
            affine(f"{layer}.layer_norm1", width)
            affine(f"{layer}.layer_norm2", width)
            affine(f"{layer}.mlp.fc1", inner, width)
            affine(f"{layer}.mlp.fc2", width, inner)
    width, patches = vision["hidden_size"], (vision["image_size"] // vision["patch_size"]) ** 2
    # The name is misspelt in `transformers`.
    for name in ("vision_model.pre_layrnorm", "vision_model.post_layernorm"):
        affine(name, width)
    affine("text_model.final_layer_norm", text["hidden_size"])
    shapes |= {
        "vision_model.embeddings.class_embedding": [width],
        "vision_model.embeddings.patch_embedding.weight": [width, 3, vision["patch_size"], vision["patch_size"]],
        "vision_model.embeddings.position_embedding.weight": [patches + 1, width],
        "text_model.embeddings.token_embedding.weight": [text["vocab_size"], text["hidden_size"]],
        "text_model.embeddings.position_embedding.weight": [text["max_position_embeddings"], text["hidden_size"]],
        "visual_projection.weight": [512, width],
        "text_projection.weight": [512, text["hidden_size"]],
    }
    return shapes
