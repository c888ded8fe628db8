"""Pillow and transformers, as a program that answers like `main.rs`: a path a line in; a line of JSON out, and then its bytes of RGB.

    reference.py crop|picture MAX_PIXELS

A picture is opened, turned by `exif_transpose` and made RGB, and for `crop` goes through CLIPImageProcessor.
Strict: what Pillow calls truncated is refused, and so is what it warns of as too large. The answer says format, mode and size as well, as
soon as the file could be opened.
"""

import json
import os
import resource
import sys
import time
import warnings

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import numpy
from PIL import Image, ImageOps

# A hostile file may ask for any amount.
MEMORY = 6 << 30

# What is said of a picture whose height CLIPImageProcessor would take for a number of channels.
FLAT = "rows like channels"


def main():
    what, max_pixels = sys.argv[1:]
    Image.MAX_IMAGE_PIXELS = int(max_pixels)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Its libraries write to stderr what they also raise.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    cut = cutter() if what == "crop" else numpy.asarray
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    for path in sys.stdin:
        answer(path.rstrip("\n"), cut)


def cutter():
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(do_rescale=False, do_normalize=False)
    # As for any array that could be taken for another: see FLAT.
    told = {"input_data_format": "channels_last", "return_tensors": "np"}
    return lambda image: processor(images=image, **told)["pixel_values"][0].transpose(1, 2, 0).astype(numpy.uint8)


def answer(path, cut):
    line, rgb = {"outcome": "refused"}, b""
    started = time.perf_counter()
    try:
        with Image.open(path) as image:
            # A JPEG with more pictures behind it is still one.
            line |= {"kind": kind(image), "format": "JPEG" if image.format == "MPO" else image.format, "mode": image.mode, "size": image.size}
            image.load()
            # A palette may come with the pixels.
            line |= {"mode": image.mode, "kind": kind(image)}
            upright = ImageOps.exif_transpose(image).convert("RGB")
            line |= {"size": upright.size}
            if cut is not numpy.asarray and upright.height in (1, 3):
                line["kind"] = ", ".join(filter(None, (line["kind"], FLAT)))
            pixels = numpy.ascontiguousarray(cut(upright))
        height, width, _ = pixels.shape
        line |= {"outcome": "read", "width": width, "height": height}
        rgb = pixels.tobytes()
    except Exception as error:
        # Not the path, nor an object's address.
        text = str(error).replace(f" {path!r}", "").split(" <_io.")[0]
        line |= {"reason": f"{type(error).__name__}: {text}"}
    line |= {"seconds": time.perf_counter() - started}
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n" + rgb)
    sys.stdout.buffer.flush()


def kind(image):
    """What tells one TIFF from another."""
    if image.format != "TIFF":
        return ""
    tags = image.tag_v2
    bits = tags.get(258, (1,))
    planar = ", planar" if tags.get(284) == 2 else ""
    return f"{image.info.get('compression', '?')}, photometric {tags.get(262, '?')}, {len(bits)} x {bits[0]} bits{planar}"


if __name__ == "__main__":
    main()
