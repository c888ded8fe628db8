"""Sizes and samples."""

import numpy
from PIL import Image

# Around blocks, bytes and the filters' support.
SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)


class Maker:
    """What writers draw from: one seeded generator for everything that is left to chance."""

    def __init__(self, generator, largest=200):
        self.random = generator
        self.largest = largest

    def chance(self, share=0.5):
        return self.random.random() < share

    def choose(self, options):
        return options[self.random.integers(len(options))]

    def between(self, low, high):
        return int(self.random.integers(low, high + 1))

    def side(self):
        return min(self.choose(SIDES) if self.chance() else self.between(1, self.largest), self.largest)

    def samples(self, channels, bits=8, size=None):
        """Height x width x channels of so many bits: noise, slopes, or flat patches."""
        width, height = size or (self.side(), self.side())
        shape, top = (height, width, channels), (1 << bits) - 1
        style = self.between(0, 2)
        if style == 0:
            values = self.random.integers(0, top, shape, endpoint=True)
        elif style == 1:
            y, x = numpy.mgrid[0:height, 0:width]
            phases, steps = self.random.random(channels) * 6, self.random.random((2, channels)) / 8
            wave = numpy.sin(x[..., None] * steps[0] + y[..., None] * steps[1] + phases)
            values = numpy.clip((wave * 0.55 + 0.5) * top, 0, top)
        else:
            patches = self.random.integers(0, top, ((height + 6) // 7, (width + 10) // 11, channels), endpoint=True)
            values = patches.repeat(7, 0).repeat(11, 1)[:height, :width]
        return numpy.ascontiguousarray(values, dtype=numpy.uint8 if bits <= 8 else numpy.uint16 if bits <= 16 else numpy.uint32)

    def image(self, mode, size=None):
        """For Pillow's writers; a palette of its own for P."""
        if mode == "1":
            return Image.fromarray(self.samples(1, 1, size)[..., 0] * 255).convert("1", dither=Image.Dither.NONE)
        samples = self.samples(len(Image.new(mode, (1, 1)).getbands()), 8, size)
        image = Image.frombytes(mode, samples.shape[1::-1], samples.tobytes())
        if mode == "P":
            image.putpalette(self.palette(256))
        return image

    def palette(self, colours):
        return self.random.bytes(colours * 3)


def packed(samples, bits):
    """Rows of whole bytes, the first sample in the high bits; `samples` is height x values."""
    height, values = samples.shape
    per_byte = 8 // bits
    padded = numpy.zeros((height, -(-values // per_byte) * per_byte), numpy.uint8)
    padded[:, :values] = samples
    shifts = numpy.arange(per_byte)[::-1] * bits
    return (padded.reshape(height, -1, per_byte) << shifts).sum(2).astype(numpy.uint8)
