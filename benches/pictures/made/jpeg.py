"""JPEG: by Pillow's libjpeg-turbo, and by imagecodecs' for the samplings that Pillow does not write."""

import io

import imagecodecs
from PIL import ImageFile

from .exif import TYPES, exif

# What is progressive or optimised has to fit in one piece; Pillow's own guess of its size is too small for noise.
ImageFile.MAXBLOCK = 1 << 22


def kinds():
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            for sampling in ("4:4:4", "4:2:2", "4:2:0") if mode != "L" else ("4:4:4",):
                yield f"JPEG {mode} {sampling}{' progressive' if progressive else ''}", by_pillow(mode, sampling, progressive)
    yield "JPEG RGB stored as RGB", by_pillow("RGB", "4:4:4", False, keep_rgb=True)
    yield "JPEG RGB restart intervals", by_pillow("RGB", "4:2:0", False, restart_marker_blocks=3)
    yield "JPEG RGB restart rows, progressive", by_pillow("RGB", "4:2:2", True, restart_marker_rows=1)
    for sampling in ("444", "422", "420", "440", "411"):
        yield f"JPEG RGB {sampling} by imagecodecs", by_imagecodecs(3, subsampling=sampling)
    yield "JPEG YCCK", by_imagecodecs(4, colorspace="CMYK", outcolorspace="YCCK")
    for kind in TYPES:
        yield f"JPEG EXIF orientation of type {kind}", with_exif(kind)


def by_pillow(mode, sampling, progressive, **options):
    def write(make):
        out = io.BytesIO()
        options_ = {"subsampling": sampling} if mode != "L" else {}
        make.image(mode).save(
            out, "JPEG", quality=make.between(1, 100), progressive=progressive, optimize=make.chance(), **options_, **options
        )
        return out.getvalue()

    return write


def by_imagecodecs(channels, **options):
    return lambda make: imagecodecs.jpeg8_encode(make.samples(channels), level=make.between(20, 100), **options)


def with_exif(kind):
    def write(make):
        out = io.BytesIO()
        make.image("RGB").save(out, "JPEG", exif=b"Exif\0\0" + exif(make, kind))
        return out.getvalue()

    return write
