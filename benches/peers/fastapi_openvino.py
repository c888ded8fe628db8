"""CLIP over HTTP around OpenVINO's own Python API: FastAPI, the processor of `transformers`, an inference a request.

A peer of the comparison (`make bench-peers`): what Intel's multimodal-embedding-serving is inside, by which it is made: each
tower converted from the PyTorch model, kept on the disk, compiled for the CPU with nothing said, so by OpenVINO's own defaults
(latency, the precision that it takes for this CPU), and a new inference request for each input. Two things are kinder here:
what computes runs in FastAPI's thread pool and not on its event loop, and a picture is run alone, which that service fills
up to a batch of 64. The checkpoint's directory is in CLIP_CHECKPOINT, the graphs' in CLIP_GRAPHS. As a program it converts.
Answers have the shape of clipserve's.

The graphs are those of `openvino.convert_model` and not the ONNX that clipserve exports: who takes this way has the first, and the
second has left work out (the last block for the class token alone), which is clipserve's.
"""

import io
import os
import pathlib

import numpy
import openvino
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import BaseModel
from transformers import CLIPProcessor

checkpoint = os.environ["CLIP_CHECKPOINT"]
graphs = pathlib.Path(os.environ["CLIP_GRAPHS"])


def convert() -> None:
    """Writes both towers, in f32, as a folder that appears whole."""
    import torch
    from transformers import CLIPModel

    class Tower(torch.nn.Module):
        def __init__(self, features):
            super().__init__()
            self.model, self.features = model, features

        def forward(self, inputs):
            return self.features(inputs)

    model = CLIPModel.from_pretrained(checkpoint).eval()
    side = model.config.vision_config.image_size
    # Of more than one text: what a trace sees once it may take for ever.
    ids = torch.tensor([[49406, 320, 1125, 49407], [49406, 320, 49407, 49407]])
    towers = {
        "vision": (model.get_image_features, torch.zeros(2, 3, side, side), [-1, 3, side, side]),
        "text": (model.get_text_features, ids, [-1, -1]),
    }
    partial = graphs.with_suffix(".converting")
    partial.mkdir(parents=True, exist_ok=True)
    for name, (features, example, shape) in towers.items():
        with torch.no_grad():
            converted = openvino.convert_model(Tower(features), example_input=example, input=shape)
        openvino.save_model(converted, partial / f"{name}.xml", compress_to_fp16=False)
    partial.rename(graphs)


if __name__ == "__main__":
    convert()
    raise SystemExit

core = openvino.Core()
vision = core.compile_model(graphs / "vision.xml", "CPU")
text_tower = core.compile_model(graphs / "text.xml", "CPU")
processor = CLIPProcessor.from_pretrained(checkpoint)
app = FastAPI()


class Texts(BaseModel):
    texts: list[str]


def embeddings(tower: openvino.CompiledModel, inputs: numpy.ndarray) -> list[list[float]]:
    features = tower.infer_new_request({0: inputs})[0]
    return (features / numpy.linalg.norm(features, axis=-1, keepdims=True)).tolist()


def embed_image(body: bytes) -> list[list[float]]:
    image = Image.open(io.BytesIO(body)).convert("RGB")
    return embeddings(vision, processor(images=image, return_tensors="np")["pixel_values"])


def embed_text(texts: list[str]) -> list[list[float]]:
    inputs = processor(text=texts, return_tensors="np", padding=True, truncation=True)
    return embeddings(text_tower, inputs["input_ids"])


@app.post("/embed/image")
async def image(request: Request):
    return {"embeddings": await run_in_threadpool(embed_image, await request.body())}


@app.post("/embed/text")
def text(body: Texts):
    return {"embeddings": embed_text(body.texts)}


@app.get("/info")
def info():
    """In what OpenVINO computes, by its own account."""
    precision = {name: tower.get_property("INFERENCE_PRECISION_HINT").to_string() for name, tower in [("vision", vision), ("text", text_tower)]}
    return {"openvino": openvino.get_version(), "precision": precision}
