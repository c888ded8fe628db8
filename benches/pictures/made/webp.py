"""WebP, by Pillow's libwebp."""

import io

from .exif import TYPES, exif


def kinds():
    for mode in ("RGB", "RGBA", "L", "P"):
        yield f"WebP {mode} lossless", by_pillow(mode, lossless=True)
        yield f"WebP {mode} lossy", by_pillow(mode)
    yield "WebP RGBA lossless, exact", by_pillow("RGBA", lossless=True, exact=True)
    yield "WebP RGBA animated", animated
    for kind in TYPES:
        yield f"WebP EXIF orientation of type {kind}", lambda make, kind=kind: by_pillow("RGB", lossless=True, exif=exif(make, kind))(make)


def by_pillow(mode, **options):
    def write(make):
        out = io.BytesIO()
        make.image(mode).save(out, "WEBP", quality=make.between(0, 100), method=make.between(0, 6), **options)
        return out.getvalue()

    return write


def animated(make):
    size = (make.side(), make.side())
    frames = [make.image(make.choose(("RGB", "RGBA")), size) for _ in range(make.between(2, 4))]
    out = io.BytesIO()
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], lossless=make.chance(), minimize_size=make.chance(), background=(9, 99, 199, 120)
    )
    return out.getvalue()
