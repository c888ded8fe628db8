"""CLIP over HTTP as one would write it in an afternoon: FastAPI around `transformers`, one input a request.

A peer of the comparison (`make bench-peers`). Nothing is tuned: torch's default threads, one worker, FastAPI's own thread
pool for the endpoints. The checkpoint's directory is in CLIP_CHECKPOINT. Answers have the shape of clipserve's.
"""

import io
import os

import torch
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import BaseModel
from transformers import CLIPModel, CLIPProcessor

checkpoint = os.environ["CLIP_CHECKPOINT"]
model = CLIPModel.from_pretrained(checkpoint).eval()
processor = CLIPProcessor.from_pretrained(checkpoint)
app = FastAPI()


class Texts(BaseModel):
    texts: list[str]


@torch.inference_mode()
def embed_image(body: bytes) -> list[list[float]]:
    image = Image.open(io.BytesIO(body)).convert("RGB")
    embeddings = model.get_image_features(**processor(images=image, return_tensors="pt"))
    return torch.nn.functional.normalize(embeddings, dim=-1).tolist()


@torch.inference_mode()
def embed_text(texts: list[str]) -> list[list[float]]:
    inputs = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
    return torch.nn.functional.normalize(model.get_text_features(**inputs), dim=-1).tolist()


@app.post("/embed/image")
async def image(request: Request):
    return {"embeddings": await run_in_threadpool(embed_image, await request.body())}


@app.post("/embed/text")
def text(body: Texts):
    return {"embeddings": embed_text(body.texts)}
