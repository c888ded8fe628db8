"""GIF by hand: palettes of the screen and of the frame, frames that cover the screen, a part of it, or lie beyond it, interlaced or not."""

import struct

import numpy


def kinds():
    for where in ("screen", "frame", "both", "neither"):
        for interlaced in (False, True):
            yield f"GIF palette of {where}{', interlaced' if interlaced else ''}", writer(where, interlaced=interlaced)
        yield f"GIF palette of {where}, transparent", writer(where, transparent=True)
        yield f"GIF palette of {where}, frame inside", writer(where, placed="inside", transparent=None)
        yield f"GIF palette of {where}, frame beyond", writer(where, placed="beyond", transparent=None)
    yield "GIF two frames", writer("both", frames=2, placed="inside", transparent=None)
    yield "GIF two graphic controls", writer("both", controls=2, transparent=True)
    yield "GIF comment, application and text blocks", writer("screen", blocks=True)
    yield "GIF NULs between blocks", writer("screen", nuls=3)
    yield "GIF 87a", writer("screen", version=b"GIF87a")
    yield "GIF indices beyond the palette", writer("screen", beyond=True)
    yield "GIF without a trailer", writer("screen", trailer=b"")


def writer(where, interlaced=False, transparent=False, placed="whole", frames=1, controls=1, blocks=False, nuls=0, version=b"GIF89a", beyond=False, trailer=b";"):
    def write(make):
        bits = make.between(1, 8)
        width, height = make.side(), make.side()
        flags = (0x80 | (bits - 1)) if where in ("screen", "both") else make.between(0, 7)
        out = version + struct.pack("<HHBBB", width, height, flags | 0x70, make.between(0, (1 << bits) - 1), 0)
        if where in ("screen", "both"):
            out += make.palette(1 << bits)
        if blocks:
            out += b"!\xfe\x05hello\0" + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
        for _ in range(frames):
            out += bytes(nuls) + frame(make, where, (width, height), bits, interlaced, transparent, placed, controls, beyond)
        return out + bytes(nuls) + trailer

    return write


def frame(make, where, screen, bits, interlaced, transparent, placed, controls, beyond):
    width, height = screen
    left = top = 0
    if placed != "whole":
        left, top = make.between(0, width - 1), make.between(0, height - 1)
        width, height = make.between(1, width - left), make.between(1, height - top)
        if placed == "beyond":
            width, height = width + make.between(0, 20), height + make.between(0, 20)
    is_transparent = make.chance() if transparent is None else transparent
    out = b""
    for _ in range(controls):
        disposal = make.between(0, 3)
        out += b"!\xf9\x04" + struct.pack("<BHB", disposal << 2 | is_transparent, 10, make.between(0, (1 << bits) - 1)) + b"\0"
    own = where in ("frame", "both")
    frame_bits = make.between(1, 8) if own else bits
    flags = (0x80 | (frame_bits - 1) if own else 0) | 0x40 * interlaced
    out += b"," + struct.pack("<HHHHB", left, top, width, height, flags)
    if own:
        out += make.palette(1 << frame_bits)
    index_bits = 8 if beyond else frame_bits
    rows = make.samples(1, index_bits, (width, height))[..., 0]
    if interlaced:
        rows = numpy.concatenate([rows[0::8], rows[4::8], rows[2::4], rows[1::2]])
    code_bits = max(2, index_bits)
    data = lzw(rows.tobytes(), code_bits)
    out += bytes([code_bits])
    for start in range(0, len(data), 255):
        piece = data[start : start + 255]
        out += bytes([len(piece)]) + piece
    return out + b"\0"


def lzw(data, code_bits):
    clear, end = 1 << code_bits, (1 << code_bits) + 1
    value = filled = 0
    out = bytearray()
    table, width = {bytes([byte]): byte for byte in range(clear)}, code_bits + 1
    following = end + 1

    def put(code):
        nonlocal value, filled
        value |= code << filled
        filled += width
        while filled >= 8:
            out.append(value & 255)
            value >>= 8
            filled -= 8

    put(clear)
    string = b""
    for byte in data:
        longer = string + bytes([byte])
        if longer in table:
            string = longer
            continue
        put(table[string])
        if following < 4096:
            table[longer] = following
            following += 1
            if following - 1 == 1 << width and width < 12:
                width += 1
        else:
            put(clear)
            table, width = {bytes([byte]): byte for byte in range(clear)}, code_bits + 1
            following = end + 1
        string = bytes([byte])
    if string:
        put(table[string])
        # The reader has one entry more by now.
        if following == 1 << width and width < 12:
            width += 1
    put(end)
    if filled:
        out.append(value & 255)
    return bytes(out)
