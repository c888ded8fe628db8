"""AVIF: by Pillow's libavif, and by imagecodecs' for more than 8 bits."""

import io

import imagecodecs

from .exif import exif


def kinds():
    for mode in ("RGB", "RGBA", "L"):
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:0:0"):
            yield f"AVIF {mode} {sampling}", by_pillow(mode, subsampling=sampling)
    yield "AVIF RGB limited range", by_pillow("RGB", range="limited")
    yield "AVIF RGBA premultiplied", by_pillow("RGBA", alpha_premultiplied=True)
    yield "AVIF RGB tiles", by_pillow("RGB", tile_rows=1, tile_cols=1)
    yield "AVIF animated", animated
    for bits in (10, 12):
        for channels in (1, 3, 4):
            yield f"AVIF {channels} x {bits} bits", deep(channels, bits)
    # Of the types those that Pillow turns into AVIF's own properties.
    for kind in (3, 4, 6, 8, 9, 16):
        yield f"AVIF EXIF orientation of type {kind}", lambda make, kind=kind: by_pillow("RGB", exif=exif(make, kind))(make)


def by_pillow(mode, **options):
    def write(make):
        out = io.BytesIO()
        make.image(mode).save(out, "AVIF", quality=make.between(30, 100), speed=10, max_threads=1, **options)
        return out.getvalue()

    return write


def deep(channels, bits):
    def write(make):
        samples = make.samples(channels, bits)
        return imagecodecs.avif_encode(samples[..., 0] if channels == 1 else samples, level=make.between(50, 100), speed=10, bitspersample=bits)

    return write


def animated(make):
    size = (make.side(), make.side())
    frames = [make.image("RGB", size) for _ in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "AVIF", save_all=True, append_images=frames[1:], speed=10, max_threads=1)
    return out.getvalue()
