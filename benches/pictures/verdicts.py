"""What is said of one file that both sides were asked for, and everything that may differ, with its reason: the one list of it."""

import dataclasses
from typing import Callable

import numpy

from reference import FLAT

# By Pillow's names. Of these it is promised that what Pillow reads is read; AVIF among them, HEIC and JPEG XL are not Pillow's.
PROMISED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

EQUAL, DIFFERENT, ONLY_PILLOW, ONLY_OURS, NEITHER = "equal", "different", "only Pillow", "only ours", "neither"
# Ours panicked, where Pillow refuses.
DIED = "died"
# Bytes.
HEAD = 4096


@dataclasses.dataclass
class Verdict:
    path: str
    # Of the file, as far as descriptions of its items lie.
    head: bytes
    verdict: str
    format: str
    mode: str
    kind: str
    size: tuple
    theirs: str
    ours: str
    # Of the values of the two: the largest difference, and the share of those that differ. None where the sizes do.
    levels: int | None = 0
    share: float = 0.0
    # Whether the file was damaged on purpose.
    damaged: bool = False

    @property
    def exception(self):
        return next((exception for exception in EXCEPTIONS if exception.holds(self)), None)

    @property
    def departs(self):
        """Whether it is not as promised, or not as Pillow has it."""
        return self.verdict not in (EQUAL, NEITHER) and self.format in PROMISED

    @property
    def unexplained(self):
        return self.departs and self.exception is None

    @property
    def described(self):
        size = "" if self.size == (0, 0) else f"{self.size[0]} x {self.size[1]}"
        return " ".join(filter(None, (self.format, self.mode, size))) + (f" ({self.kind})" if self.kind else "")

    @property
    def difference(self):
        if self.verdict == DIFFERENT:
            return "another size" if self.levels is None else f"{self.levels} levels, {self.share:.2%} of the values"
        return self.theirs if self.verdict == ONLY_OURS else self.ours


def verdict(file, path, theirs, ours, damaged=False):
    """Of the `file`, that is to be named `path`."""
    with open(file, "rb") as opened:
        head = opened.read(HEAD)
    made = lambda what, **more: Verdict(
        path, head, what, theirs.format or ours.format.upper() or "?", theirs.mode, theirs.kind, tuple(theirs.size), theirs.reason,
        f"died: {ours.reason}" if ours.outcome == "died" else ours.reason, damaged=damaged, **more,
    )
    if not (theirs.read and ours.read):
        return made(ONLY_PILLOW if theirs.read else ONLY_OURS if ours.read else DIED if ours.outcome == "died" else NEITHER)
    if theirs.pixels.shape != ours.pixels.shape:
        return made(DIFFERENT, levels=None)
    if numpy.array_equal(theirs.pixels, ours.pixels):
        return made(EQUAL)
    distances = numpy.abs(theirs.pixels.astype(numpy.int16) - ours.pixels)
    return made(DIFFERENT, levels=int(distances.max()), share=float(numpy.mean(distances > 0)))


@dataclasses.dataclass(frozen=True)
class Decided:
    """A kind of pictures of which ours is not what Pillow and transformers make."""

    what: str
    reason: str
    holds: Callable[[Verdict], bool]


EXCEPTIONS = [
    Decided(
        "pictures 1 or 3 pixels high",
        "`CLIPImageProcessor` takes their rows for channels, and fails or answers noise, unless it is told `input_data_format`, as it is here",
        lambda v: v.verdict == EQUAL and v.kind.endswith(FLAT),
    ),
    Decided(
        "16-bit grey",
        "`convert(\"RGB\")` clips at 255, so that nearly every pixel is white; here it is scaled, `value >> 8`",
        lambda v: v.verdict == DIFFERENT and v.mode.startswith("I;16"),
    ),
    Decided(
        "big-endian BigTIFF",
        "Pillow looks for its number in the other byte",
        lambda v: v.verdict == ONLY_OURS and v.head.startswith(b"MM\0\x2b"),
    ),
    Decided(
        "16-bit planar TIFF",
        "Pillow shows noise; here it is the picture",
        lambda v: v.verdict == DIFFERENT and v.format == "TIFF" and v.kind.endswith("16 bits, planar"),
    ),
    Decided(
        "lossy WebP, AVIF",
        "another decoder, whose arithmetic may round otherwise: 2 levels at most",
        lambda v: v.verdict == DIFFERENT and v.format in ("WEBP", "AVIF") and v.levels is not None and v.levels <= 2,
    ),
    Decided(
        "deep grey TIFF, big-endian and compressed",
        "Pillow takes its samples in the wrong byte order; here it is the picture",
        lambda v: v.verdict == DIFFERENT and v.format == "TIFF" and v.mode in ("I", "F") and v.head.startswith(b"MM"),
    ),
    Decided(
        "AVIF with the description of another gain map",
        "the map is not shown, and what describes it is not read",
        lambda v: v.verdict == ONLY_OURS and "tone mapped" in v.theirs,
    ),
    Decided(
        "AVIF with a group of items of a kind that says more than their numbers",
        "libavif 1.4.2 takes what it says for another group, and fails; later ones do not",
        lambda v: v.verdict == ONLY_OURS and v.format == "AVIF" and b"grpl" in v.head and b"pymd" in v.head,
    ),
    Decided(
        "AVIF whose first brand is another",
        "Pillow looks at the first alone, libavif and everybody else at all that the file names",
        lambda v: v.verdict == ONLY_OURS and v.head[4:8] == b"ftyp" and v.head[8:12] not in (b"avif", b"avis", b"mif1", b"msf1"),
    ),
    Decided(
        "AVIF whose AV1 data have another size than the file says",
        "libavif scales them; no writer makes such, and here nothing is made up",
        lambda v: v.verdict == ONLY_PILLOW and v.format == "AVIF" and ("was announced" in v.ours or "ERANGE" in v.ours),
    ),
    Decided(
        "lossy WebP whose last blocks need a byte more than there is",
        "libwebp refuses it, the decoder here (`image-webp`) takes one zero in its place",
        lambda v: v.verdict == ONLY_OURS and b"VP8 " in v.head and "failed to read next frame" in v.theirs,
    ),
    Decided(
        "PNG with more than 1 MiB of text",
        "it is not inflated",
        lambda v: v.verdict == ONLY_OURS and "MAX_TEXT_CHUNK" in v.theirs,
    ),
    Decided(
        "metadata that Pillow fails on: an EXIF block without a header, or in other than hexadecimal digits",
        "the pixels are whole; the picture is answered as it is stored, or as what can be read says",
        lambda v: v.verdict == ONLY_OURS and ("fromhex()" in v.theirs or "not a TIFF file (header" in v.theirs),
    ),
    Decided(
        "TIFF whose strips or tiles are damaged or missing",
        "Pillow shows what libtiff made of them before it failed; here nothing is half shown",
        lambda v: v.verdict == ONLY_PILLOW and v.format == "TIFF" and v.ours.startswith(("truncated", "corrupt")),
    ),
    Decided(
        "damaged Zstandard in TIFF: of four streams of literals one has more, another fewer than a quarter",
        "libzstd ends each at its quarter, the decoder here (`ruzstd`) each where its bits end; neither sees the damage",
        lambda v: v.verdict == DIFFERENT and v.damaged and v.format == "TIFF" and v.kind.startswith("zstd"),
    ),
]
