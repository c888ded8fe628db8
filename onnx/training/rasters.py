"""Rasterises every picture once into one memory-mapped array of uint8 RGBA squares.

Colours are premultiplied by alpha, so that resampling and compositing on a random
background later is one multiplication and one addition.
"""
import hashlib
import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 112  # the stored side; training crops 96 out of it, moved and turned at random


def square(image: Image.Image, side: int) -> Image.Image:
    """The picture, centred on a transparent square, at this side."""
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    longest = max(image.size)
    if image.size != (longest, longest):
        canvas = Image.new("RGBA", (longest, longest), (0, 0, 0, 0))
        canvas.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        image = canvas
    if longest != side:
        image = image.resize((side, side), Image.LANCZOS, reducing_gap=3)
    return image


def render(kind: str, ref, side: int) -> Image.Image:
    import resvg_py  # a static wheel: no system library, and masks and filters as browsers draw them
    if kind == "svg":
        png = bytes(resvg_py.svg_to_bytes(svg_string=ref, height=side, skip_system_fonts=True))
        return square(Image.open(io.BytesIO(png)), side)
    if kind == "glyph":
        path, text = ref
        font = ImageFont.truetype(path, int(side * 1.6))
        box = font.getbbox(text)
        w, h = box[2] - box[0], box[3] - box[1]
        if w < 2 or h < 2:
            raise ValueError("empty glyph")
        longest = int(max(w, h) * 1.06) + 2
        image = Image.new("RGBA", (longest, longest), (0, 0, 0, 0))
        at = ((longest - w) // 2 - box[0], (longest - h) // 2 - box[1])
        ImageDraw.Draw(image).text(at, text, font=font, fill=(0, 0, 0, 255))
        return square(image, side)
    if ref.endswith(".svg"):
        png = bytes(resvg_py.svg_to_bytes(svg_path=ref, width=2 * side, skip_system_fonts=True))
        return square(Image.open(io.BytesIO(png)), side)
    with Image.open(ref) as image:
        if image.width * image.height > 40_000_000:
            raise ValueError("too large")
        image = image.convert("RGBA")
    box = image.getchannel("A").getbbox()  # clip art often lies small on a large empty page
    return square(image.crop(box) if box else image, side)


def premultiplied(image: Image.Image) -> np.ndarray:
    a = np.asarray(image, dtype=np.uint16)
    out = np.empty(a.shape, np.uint8)
    out[..., 3] = a[..., 3]
    out[..., :3] = (a[..., :3] * a[..., 3:] + 127) // 255
    return out


def _one(job):
    kind, ref = job
    try:
        out = premultiplied(render(kind, ref, SIZE))
        return out if out[..., 3].max() > 20 else None  # nothing visible
    except Exception:  # a broken file is left out, and counted
        return None


def rasterise(folder: Path, pictures, progress, processes=2):
    """(array, ok): array[i] is picture i, ok[i] says whether it could be drawn."""
    digest = hashlib.sha256()
    for p in pictures:
        ref = Path(p.ref).name if p.kind == "file" else p.ref[1] if p.kind == "glyph" else p.ref
        digest.update(f"{p.style}|{p.kind}|{ref}".encode())
    key = {"pictures": len(pictures), "size": SIZE, "sha256": digest.hexdigest()}
    array_file, state_file = folder / "pictures.npy", folder / "pictures.json"
    shape = (len(pictures), SIZE, SIZE, 4)
    if state_file.exists():
        state = json.loads(state_file.read_text())
        if state["key"] == key:
            ok = np.array([c == "1" for c in state["ok"]])
            return np.load(array_file, mmap_mode="r"), ok
    state_file.unlink(missing_ok=True)  # until the array is whole again
    array = np.lib.format.open_memmap(array_file, "w+", np.uint8, shape)
    ok = np.zeros(len(pictures), bool)
    jobs = [(p.kind, p.ref) for p in pictures]
    with multiprocessing.get_context("fork").Pool(min(processes, os.cpu_count() or 1)) as pool:
        for i, out in enumerate(progress(pool.imap(_one, jobs, chunksize=32), total=len(jobs), desc="rasterise")):
            if out is not None:
                array[i], ok[i] = out, True
    array.flush()
    state_file.write_text(json.dumps({"key": key, "ok": "".join("1" if x else "0" for x in ok)}))
    return np.load(array_file, mmap_mode="r"), ok
