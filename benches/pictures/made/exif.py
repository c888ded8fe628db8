"""EXIF with an orientation in any type of number, as phones, cameras and editors write it."""

import struct

# Type to its format; 13 and 16 to 18 are of later versions of TIFF.
NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q", 11: "f", 12: "d"}
TYPES = (*NUMBERS, 2, 5, 7, 10)
ORIENTATION = 0x0112


def value(order, kind, number, count):
    """`count` values, the first of which is `number`."""
    numbers = [number] + [1] * (count - 1)
    if kind in NUMBERS:
        return struct.pack(f"{order}{count}{NUMBERS[kind]}", *numbers)
    if kind in (5, 10):
        return struct.pack(f"{order}{2 * count}{'I' if kind == 5 else 'i'}", *[part for each in numbers for part in (each, 1)])
    return bytes(numbers) if kind == 7 else (str(number) + "\0").encode()


def exif(make, kind=3, plain=False):
    """A block that starts with the header of TIFF: the orientation is alone, or among others."""
    order = make.choose("<>")
    number = make.between(1, 8) if plain or make.chance(0.9) else make.choose((0, 9, 100))
    count = 1 if plain or make.chance(0.8) else 2
    data = value(order, kind, number, count)
    entries = [(ORIENTATION, kind, len(data) if kind in (2, 7) else count, data)]
    if make.chance():
        entries.append((0x010F, 2, 6, b"maker\0"))
    if make.chance():
        entries.append((0x0131, 2, 4, b"abc\0"))
    entries.sort()
    offset = 8 + 2 + len(entries) * 12 + 4
    table, more = b"", b""
    for tag, kind, count, data in entries:
        if len(data) > 4:
            field, more = struct.pack(order + "I", offset + len(more)), more + data
        else:
            field = data.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, count) + field
    mark = {"<": b"II", ">": b"MM"}[order]
    return mark + struct.pack(order + "HIH", 42, 8, len(entries)) + table + bytes(4) + more
