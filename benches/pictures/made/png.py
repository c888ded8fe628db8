"""PNG of every colour type, depth and filter, interlaced or not, with the chunks that say more: all by hand, as no library writes all."""

import struct
import zlib

import numpy

from .content import packed
from .exif import TYPES, exif

DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
NAMES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column and row, and steps, of Adam7.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def kinds():
    for colour, depths in DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                more = " interlaced" if interlaced else ""
                yield f"PNG {NAMES[colour]} {depth} bits{more}", writer(colour, depth, interlaced)
            if colour in (0, 2, 3):
                yield f"PNG {NAMES[colour]} {depth} bits, tRNS", writer(colour, depth, False, transparent=True)
    yield "PNG with gAMA, sRGB, bKGD, tEXt", writer(2, 8, False, extra=True)
    yield "PNG palette with too few colours", writer(3, 8, False, short=True)
    for kind in TYPES:
        yield f"PNG EXIF orientation of type {kind}", lambda make, kind=kind: writer(2, 8, False, orientation=exif(make, kind))(make)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def writer(colour, depth, interlaced, transparent=False, extra=False, short=False, orientation=None):
    def write(make):
        samples = make.samples(CHANNELS[colour], depth)
        height, width, _ = samples.shape
        parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
        if extra:
            parts += [chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"sRGB", b"\0"), chunk(b"tEXt", b"Title\0picture")]
        if colour == 3:
            colours = make.between(1, 1 << depth) if short else 1 << depth
            parts.append(chunk(b"PLTE", make.palette(colours)))
        if extra:
            parts.append(chunk(b"bKGD", struct.pack(">HHH", 1, 2, 3)))
        if transparent:
            value = [int(each) for each in samples[make.between(0, height - 1), make.between(0, width - 1)]]
            parts.append(chunk(b"tRNS", make.random.bytes(make.between(1, 1 << depth)) if colour == 3 else struct.pack(f">{len(value)}H", *value)))
        if orientation and make.chance():
            parts.append(chunk(b"eXIf", orientation))
            orientation_after = b""
        else:
            orientation_after = chunk(b"eXIf", orientation) if orientation else b""
        passes = [samples[y::down, x::right] for x, y, right, down in PASSES] if interlaced else [samples]
        data = zlib.compress(b"".join(filtered(make, each, depth) for each in passes if each.size), make.between(0, 9))
        step = make.choose((len(data), 100, 1))
        step = max(step, len(data) // 50 + 1)
        parts += [chunk(b"IDAT", data[start : start + step]) for start in range(0, len(data), step)]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + orientation_after + chunk(b"IEND", b"")

    return write


def filtered(make, samples, depth):
    """The rows of one pass, each with a filter at random."""
    height = samples.shape[0]
    if depth == 16:
        rows = samples.astype(">u2").view(numpy.uint8).reshape(height, -1)
    elif depth == 8:
        rows = samples.reshape(height, -1)
    else:
        rows = packed(samples.reshape(height, -1), depth)
    step = max(1, samples.shape[2] * depth // 8)
    out, above = [], numpy.zeros(rows.shape[1], numpy.int16)
    for row in rows.astype(numpy.int16):
        left = numpy.concatenate([numpy.zeros(step, numpy.int16), row])[: len(row)]
        corner = numpy.concatenate([numpy.zeros(step, numpy.int16), above])[: len(row)]
        kind = make.between(0, 4)
        guess = (0, left, above, (left + above) // 2, paeth(left, above, corner))[kind]
        out.append(bytes([kind]) + ((row - guess) & 255).astype(numpy.uint8).tobytes())
        above = row
    return b"".join(out)


def paeth(left, above, corner):
    guess = left + above - corner
    to_left, to_above, to_corner = abs(guess - left), abs(guess - above), abs(guess - corner)
    return numpy.where((to_left <= to_above) & (to_left <= to_corner), left, numpy.where(to_above <= to_corner, above, corner))
