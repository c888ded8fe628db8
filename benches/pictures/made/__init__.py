"""Pictures of every kind that the writers below know, from a seed: what a decoder must read as Pillow does. Nothing here says what Pillow
reads: what it refuses is to be refused as well."""

import zlib

import numpy

from . import avif, bmp, gif, jpeg, png, tiff, webp
from .content import Maker
from .damage import damage

# Name to writer; a writer takes a Maker and answers the bytes of a file.
KINDS = {name: write for module in (jpeg, png, gif, bmp, tiff, webp, avif) for name, write in module.kinds()}


def pictures(count, seed, wanted, damaged):
    """Kind, file name and bytes of `count` pictures of each kind whose name has `wanted` in it."""
    for kind, write in KINDS.items():
        if wanted.lower() not in kind.lower():
            continue
        for number in range(count):
            generator = numpy.random.default_rng([seed, zlib.crc32(kind.encode()), number])
            # Damage shows where there is little else.
            data = damage(generator, write(Maker(generator, largest=24))) if damaged else write(Maker(generator))
            name = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in kind)
            yield kind, f"{name}-{seed}-{number}", data
