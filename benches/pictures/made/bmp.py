"""BMP by hand: every header and depth, run lengths, masks, from the top or the bottom, and files that say little about themselves."""

import struct

import numpy

from .content import packed

HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
MASKS = {
    "555": (16, 0x7C00, 0x3E0, 0x1F, 0),
    "565": (16, 0xF800, 0x7E0, 0x1F, 0),
    "444": (16, 0xF00, 0xF0, 0xF, 0),
    "8888": (32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "888": (32, 0xFF0000, 0xFF00, 0xFF, 0),
    "8888 reversed": (32, 0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    "888 above": (32, 0xFF000000, 0xFF0000, 0xFF00, 0),
    "8888 above": (32, 0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    "24": (24, 0xFF0000, 0xFF00, 0xFF, 0),
    "1010102": (32, 0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
}


def kinds():
    for header in HEADERS:
        for bits in (1, 2, 4, 8, 16, 24, 32):
            if header in (12, 16) and bits in (16, 32):
                continue
            yield f"BMP header {header}, {bits} bits", writer(header, bits)
    for name, masks in MASKS.items():
        for header in (40, 52, 56, 108, 124):
            yield f"BMP header {header}, masks {name}", writer(header, masks[0], masks=masks[1:])
    for bits in (4, 8):
        yield f"BMP RLE{bits}", writer(40, bits, compression=2 if bits == 4 else 1)
        yield f"BMP RLE{bits}, cut short by its end mark", writer(40, bits, compression=2 if bits == 4 else 1, short=True)
    for bits in (1, 8, 24):
        yield f"BMP {bits} bits from the top", writer(40, bits, upwards=False)
        yield f"BMP {bits} bits, offset 0", writer(40, bits, offset=0)
        yield f"BMP {bits} bits, offset in the header", writer(40, bits, offset=30)
        yield f"BMP {bits} bits, last row without padding", writer(40, bits, padded=False)
        yield f"BMP {bits} bits, a gap before the pixels", writer(40, bits, gap=17)
    for bits in (1, 4, 8):
        yield f"BMP {bits} bits, few colours", writer(40, bits, few=True)
        yield f"BMP {bits} bits, grey palette", writer(40, bits, grey=True)


def writer(header, bits, masks=None, compression=0, upwards=True, offset=None, padded=True, gap=0, few=False, grey=False, short=False):
    def write(make):
        samples = make.samples(1 if bits <= 8 else bits // 8, min(bits, 8))
        height, width, _ = samples.shape
        colours = 0 if bits > 8 else make.between(1, 1 << bits) if few else 1 << bits
        entry = 3 if header == 12 else 4
        palette = bytes(colours * entry)
        if colours:
            levels = numpy.frombuffer(make.random.bytes(colours * entry), numpy.uint8).reshape(colours, entry).copy()
            if grey:
                levels[:, :3] = numpy.linspace(0, 255, colours).astype(numpy.uint8)[:, None]
            palette = levels.tobytes()
        if compression:
            data = run_lengths(make, samples[::-1, :, 0], bits, short)
        else:
            data = plain(samples[::-1] if upwards else samples, bits, padded)
        kind = compression or (3 if masks else 0)
        if header == 12:
            info = struct.pack("<IHHHH", 12, width, height, 1, bits)
        else:
            info = struct.pack(
                "<IiiHHIIiiII", header, width, height if upwards else -height, 1, bits, kind, len(data), 2835, 2835, colours if few else 0, 0
            )[:header]
            if masks and header > 40:
                info += struct.pack("<IIII", *masks)
            info = info[:header].ljust(header, b"\0")
        # Behind the shortest header masks stand on their own.
        between = struct.pack("<III", *masks[:3]) if masks and header == 40 else b""
        start = 14 + len(info) + len(between) + len(palette) + gap
        file = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start if offset is None else offset)
        return file + info + between + palette + bytes(gap) + data

    return write


def plain(samples, bits, padded):
    height = samples.shape[0]
    rows = packed(samples.reshape(height, -1), bits) if bits < 8 else samples.reshape(height, -1)
    stride = -(-rows.shape[1] // 4) * 4
    data = b"".join(row.tobytes().ljust(stride, b"\0") for row in rows)
    return data if padded else data[: len(data) - (stride - rows.shape[1])]


def run_lengths(make, rows, bits, short):
    """Runs, literals, and jumps over what stays the background."""
    out = bytearray()
    for row in rows:
        x, width = 0, len(row)
        while x < width:
            left = width - x
            choice = make.random.random()
            if choice < 0.5:
                length = min(left, make.between(1, 12))
                value = int(row[x]) if bits == 8 else int(row[x]) << 4 | int(row[min(x + 1, width - 1)])
                out += bytes([length, value])
            elif choice < 0.95 and left >= 3:
                length = min(left, make.between(3, 40))
                values = row[x : x + length].reshape(1, -1)
                literal = (packed(values, 4) if bits == 4 else values).tobytes()
                out += bytes([0, length]) + literal + bytes(len(literal) % 2)
            else:
                length = min(left, make.between(1, 9))
                out += bytes([0, 2, length, 0])
            x += length
        if short and make.chance(0.1):
            break
        out += b"\0\0"
    return bytes(out + b"\0\x01")
