"""TIFF by hand, so that every layout meets every compression: strips and tiles, planes, byte orders, BigTIFF, predictors, bit orders. What
takes a codec for bilevel pictures, or libtiff's own JPEG, Pillow writes."""

import io
import struct
import zlib

import imagecodecs
import numpy
from PIL import Image

from .content import packed
from .exif import TYPES, value

# Photometric: white is 0, black is 0, RGB, palette, mask, CMYK, YCbCr, CIELab.
WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
# Name to photometric, channels, extra samples, bits.
PIXELS = {
    "white is 0, {} bits": (WHITE, 1, (), (1, 2, 4, 8, 16)),
    "grey {} bits": (BLACK, 1, (), (1, 2, 4, 8, 16)),
    "grey with alpha {} bits": (BLACK, 2, (2,), (8, 16)),
    "RGB {} bits": (RGB, 3, (), (8, 16)),
    "RGBA {} bits": (RGB, 4, (2,), (8, 16)),
    "RGBA associated {} bits": (RGB, 4, (1,), (8, 16)),
    "RGB and one more {} bits": (RGB, 4, (0,), (8, 16)),
    "RGBA and one more {} bits": (RGB, 5, (2, 0), (8,)),
    "palette {} bits": (PALETTE, 1, (), (1, 2, 4, 8)),
    "palette with alpha {} bits": (PALETTE, 2, (2,), (8,)),
    "CMYK {} bits": (CMYK, 4, (), (8, 16)),
    "CMYK and one more {} bits": (CMYK, 5, (0,), (8,)),
    "YCbCr {} bits": (YCBCR, 3, (), (8,)),
    "Lab {} bits": (LAB, 3, (), (8,)),
}
CODECS = {
    "raw": (1, bytes),
    "LZW": (5, lambda data: imagecodecs.lzw_encode(data)),
    "deflate": (8, zlib.compress),
    "old deflate": (32946, zlib.compress),
    "PackBits": (32773, None),
    "zstd": (50000, lambda data: imagecodecs.zstd_encode(data)),
    "LZMA": (34925, lambda data: imagecodecs.lzma_encode(data)),
}
SHORT, LONG, LONG8 = 3, 4, 16


def kinds():
    for pattern, (photometric, channels, extra, depths) in PIXELS.items():
        for bits in depths:
            name = f"TIFF {pattern.format(bits)}"
            layout = dict(photometric=photometric, channels=channels, extra=extra, bits=bits)
            for codec in CODECS:
                yield f"{name}, {codec}", writer(codec=codec, **layout)
            yield f"{name}, tiled", writer(tiled=True, **layout)
            if channels > 1:
                yield f"{name}, planar", writer(planar=True, **layout)
                yield f"{name}, planar, LZW", writer(planar=True, codec="LZW", **layout)
                yield f"{name}, planar, tiled", writer(planar=True, tiled=True, codec="deflate", **layout)
            if bits >= 8:
                for codec in ("LZW", "deflate", "zstd"):
                    yield f"{name}, predictor, {codec}", writer(predictor=2, codec=codec, **layout)
                yield f"{name}, predictor, tiled", writer(predictor=2, codec="LZW", tiled=True, **layout)
                if channels > 1:
                    yield f"{name}, predictor, planar", writer(predictor=2, codec="LZW", planar=True, **layout)
            yield f"{name}, FillOrder 2", writer(reversed_bits=True, **layout)
            yield f"{name}, BigTIFF", writer(big=True, **layout)
    grey, rgb = dict(photometric=BLACK, channels=1, bits=8), dict(photometric=RGB, channels=3, bits=8)
    for number in range(1, 9):
        yield f"TIFF orientation {number}", writer(orientation=(SHORT, number), **rgb)
    for kind in TYPES:
        yield f"TIFF orientation of type {kind}", lambda make, kind=kind: writer(orientation=(kind, make.between(1, 8)), **rgb)(make)
    for across, down in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4)):
        yield f"TIFF YCbCr {across} x {down}", writer(photometric=YCBCR, channels=3, bits=8, subsampling=(across, down))
        yield f"TIFF YCbCr {across} x {down}, LZW, tiled", writer(photometric=YCBCR, channels=3, bits=8, subsampling=(across, down), codec="LZW", tiled=True)
    yield "TIFF without StripByteCounts", writer(without=(279,), **grey)
    yield "TIFF without RowsPerStrip", writer(without=(278,), one_strip=True, **grey)
    yield "TIFF without BitsPerSample", writer(without=(258,), photometric=BLACK, channels=1, bits=1)
    yield "TIFF without SamplesPerPixel", writer(without=(277,), **rgb)
    yield "TIFF without Compression", writer(without=(259,), **rgb)
    yield "TIFF without Photometric", writer(without=(262,), **rgb)
    yield "TIFF two pages", writer(pages=2, **rgb)
    yield "TIFF signed grey 8 bits", writer(sample_format=2, **grey)
    for kind, (sample_format, bits) in {"float 32": (3, 32), "float 16": (3, 16), "unsigned 32": (1, 32), "signed 16": (2, 16), "signed 32": (2, 32), "unsigned 12": (1, 12)}.items():
        yield f"TIFF grey {kind}", writer(photometric=BLACK, channels=1, bits=bits, sample_format=sample_format)
    yield "TIFF grey float 32, predictor 3", writer(photometric=BLACK, channels=1, bits=32, sample_format=3, predictor=3, codec="deflate")
    for compression in ("tiff_ccitt", "group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"):
        for order in (1, 2):
            yield f"TIFF by libtiff, bilevel {compression}, FillOrder {order}", by_pillow("1", compression, {266: order})
    for options in (0, 1, 4, 5):
        yield f"TIFF by libtiff, group3, options {options}", by_pillow("1", "group3", {292: options})
    for mode in ("L", "RGB", "YCbCr", "CMYK"):
        yield f"TIFF by libtiff, {mode} JPEG", by_pillow(mode, "jpeg", {})
        yield f"TIFF by libtiff, {mode} JPEG, short strips", by_pillow(mode, "jpeg", {278: 16})
    for mode in ("L", "LA", "P", "RGB", "RGBA", "YCbCr", "CMYK", "LAB", "I;16", "I", "F"):
        for compression in ("raw", "tiff_lzw"):
            yield f"TIFF by Pillow, {mode} {compression}", by_pillow(mode, compression, {})
    for photometric, channels in ((BLACK, 1), (RGB, 3), (YCBCR, 3), (CMYK, 4)):
        for tiled in (False, True):
            yield f"TIFF whole JPEGs, photometric {photometric}{', tiled' if tiled else ''}", writer(codec="JPEG", photometric=photometric, channels=channels, bits=8, tiled=tiled)
    for channels in (3, 4):
        yield f"TIFF WebP, {channels} channels", writer(codec="WebP", photometric=RGB, channels=channels, extra=(2,) * (channels - 3), bits=8)


def writer(
    photometric, channels, bits, extra=(), codec="raw", tiled=False, planar=False, predictor=1, reversed_bits=False, big=False, orientation=None,
    subsampling=(1, 1), without=(), one_strip=False, pages=1, sample_format=1,
):
    def write(make):
        order = make.choose("<>")
        file = bytearray(b"II" if order == "<" else b"MM")
        file += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
        head = len(file)
        link = head - (8 if big else 4)
        for _ in range(pages):
            page(make, file, order, link)
            link = len(file) - (8 if big else 4)
        return bytes(file)

    def page(make, file, order, link):
        samples = make.samples(channels, bits)
        height, width, _ = samples.shape
        tile = (make.between(1, 5) * 16, make.between(1, 5) * 16)
        rows = height if one_strip else make.choose((height, make.between(1, height), 8))
        rows = -(-rows // subsampling[1]) * subsampling[1]
        if codec == "JPEG":
            rows = -(-rows // 8) * 8
        planes = [samples[..., plane : plane + 1] for plane in range(channels)] if planar else [samples]
        pieces = [piece for plane in planes for piece in (tiles(plane, *tile) if tiled else strips(plane, rows))]
        encoded = [encode(piece, order) for piece in pieces]
        offsets = []
        for data in encoded:
            if len(file) % 2:
                file.append(0)
            offsets.append(len(file))
            file += data
        tags = {
            256: (make.choose((SHORT, LONG)), [width]),
            257: (make.choose((SHORT, LONG)), [height]),
            258: (SHORT, [bits] * channels),
            259: (SHORT, [{"JPEG": 7, "WebP": 50001}.get(codec) or CODECS[codec][0]]),
            262: (SHORT, [photometric]),
            277: (SHORT, [channels]),
            284: (SHORT, [2 if planar else 1]),
        }
        counts = [len(data) for data in encoded]
        if tiled:
            tags |= {322: (SHORT, [tile[0]]), 323: (SHORT, [tile[1]]), 324: (LONG, offsets), 325: (LONG, counts)}
        else:
            tags |= {273: (LONG, offsets), 278: (LONG, [rows]), 279: (LONG, counts)}
        if predictor != 1:
            tags[317] = (SHORT, [predictor])
        if extra:
            tags[338] = (SHORT, list(extra))
        if reversed_bits:
            tags[266] = (SHORT, [2])
        if sample_format != 1:
            tags[339] = (SHORT, [sample_format] * channels)
        if photometric == PALETTE:
            tags[320] = (SHORT, [int(each) for each in make.random.integers(0, 65536, 3 << bits)])
        if photometric == YCBCR and (subsampling != (1, 1) or codec != "JPEG" or make.chance()):
            tags[530] = (SHORT, list(subsampling))
        for tag in without:
            del tags[tag]
        raw = {274: (orientation[0], value(order, orientation[0], orientation[1], 1))} if orientation else {}
        directory(file, order, big, link, tags, raw)

    def encode(piece, order):
        if codec == "JPEG":
            out = io.BytesIO()
            mode = {BLACK: "L", RGB: "RGB", YCBCR: "YCbCr", CMYK: "CMYK"}[photometric]
            image = Image.frombytes(mode, piece.shape[1::-1], piece.tobytes())
            image.save(out, "JPEG", quality=90, subsampling=0, **({"keep_rgb": True} if mode == "RGB" else {}))
            return out.getvalue()
        if codec == "WebP":
            return imagecodecs.webp_encode(piece, lossless=True)
        if subsampling != (1, 1):
            data = [numpy.ascontiguousarray(subsampled(piece, *subsampling))]
        else:
            data = stored(piece, order)
        encoder = CODECS[codec][1]
        # PackBits starts anew with each row.
        out = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in data) if encoder is None else encoder(b"".join(row.tobytes() for row in data))
        return bytes(numpy.packbits(numpy.unpackbits(numpy.frombuffer(out, numpy.uint8)).reshape(-1, 8)[:, ::-1])) if reversed_bits else out

    def stored(piece, order):
        """The rows as they are before compression."""
        height = piece.shape[0]
        if bits < 8:
            return packed(piece.reshape(height, -1), bits)
        if bits == 12:
            wide = piece.reshape(height, -1)
            each = (wide[..., None] >> numpy.arange(12)[::-1]) & 1
            return numpy.packbits(each.reshape(height, -1).astype(numpy.uint8), axis=1)
        values = piece
        if predictor == 2:
            values = values.copy()
            values[:, 1:] -= piece[:, :-1]
        flat = values.reshape(height, -1)
        if sample_format == 3:
            flat = (flat / (1 << bits - 1)).astype({16: "f2", 32: "f4"}[bits])
            if predictor == 3:
                return predicted_floats(flat)
        return flat.astype(flat.dtype.newbyteorder(order)) if bits > 8 else flat

    return write


def predicted_floats(rows):
    """Bytes of the values apart, the highest first, and then the differences."""
    planes = rows.astype(">f4").view(numpy.uint8).reshape(len(rows), -1, 4).transpose(0, 2, 1).reshape(len(rows), -1)
    out = planes.copy()
    out[:, 1:] -= planes[:, :-1]
    return out


def strips(plane, rows):
    return [plane[start : start + rows] for start in range(0, plane.shape[0], rows)]


def tiles(plane, across, down):
    height, width, _ = plane.shape
    padded = numpy.pad(plane, ((0, -height % down), (0, -width % across), (0, 0)))
    starts = [(y, x) for y in range(0, height, down) for x in range(0, width, across)]
    return [padded[y : y + down, x : x + across] for y, x in starts]


def subsampled(piece, across, down):
    """Units of `across x down` luminances and one of each chrominance."""
    height, width, _ = piece.shape
    padded = numpy.pad(piece, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    units = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across, 3).transpose(0, 2, 1, 3, 4)
    light = units[..., 0].reshape(*units.shape[:2], -1)
    return numpy.concatenate([light, units[:, :, 0, 0, 1:]], axis=2)


def directory(file, order, big, link, tags, raw):
    """Appends it, with what its fields point at before it, and lets `link` point at it."""
    entries = []
    for tag, (kind, values) in tags.items():
        entries.append((tag, kind, len(values), struct.pack(f"{order}{len(values)}{ {SHORT: 'H', LONG: 'I', LONG8: 'Q'}[kind]}", *values)))
    for tag, (kind, data) in raw.items():
        entries.append((tag, kind, len(data) if kind == 2 else 1, data))
    room, count, offset = (8, "Q", "Q") if big else (4, "H", "I")
    fields = []
    for tag, kind, number, data in sorted(entries):
        if len(data) > room:
            file += bytes(len(file) % 2)
            field = struct.pack(order + offset, len(file))
            file += data
        else:
            field = data.ljust(room, b"\0")
        fields.append(struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, number) + field)
    file += bytes(len(file) % 2)
    file[link : link + room] = struct.pack(order + offset, len(file))
    file += struct.pack(order + count, len(fields)) + b"".join(fields) + bytes(room)


def by_pillow(mode, compression, tags):
    def write(make):
        if mode in ("I;16", "I", "F"):
            samples = make.samples(1, 16)[..., 0]
            image = Image.fromarray(samples if mode == "I;16" else samples.astype(numpy.int32 if mode == "I" else numpy.float32))
        else:
            image = make.image(mode)
        out = io.BytesIO()
        image.save(out, "TIFF", compression=None if compression == "raw" else compression, tiffinfo=tags)
        return out.getvalue()

    return write
