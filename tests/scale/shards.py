"""Sources that are made from a seed: tars and Parquet files of small pictures, among them rows with everything that may be wrong.

Owns what is in them. Invariant: no two rows have the same id.
"""

from __future__ import annotations

import io
import json
import pathlib
import tarfile

import numpy
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

TARS, TABLES, ROWS = 6, 3, 100

# Name, kind and target: of a member, of one that is a link itself, of none, and of what is no sample.
LINKS = (
    ("link/hard.jpg", tarfile.LNKTYPE, "odd/long.jpg"),
    ("link/soft.jpg", tarfile.SYMTYPE, "../link/hard.jpg"),
    ("link/lost.jpg", tarfile.SYMTYPE, "absent.jpg"),
    ("link/pipe.jpg", tarfile.FIFOTYPE, ""),
)


def picture(rng: numpy.random.Generator, kind: str = "JPEG", size: tuple[int, int] = (320, 240), **options) -> bytes:
    """A picture's file: blocks of colour with some noise, so that it has something of a photograph to a decoder."""
    small = rng.integers(0, 256, (6, 8, 3), dtype=numpy.uint8)
    large = numpy.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), dtype=numpy.int16)
    noisy = numpy.clip(large + rng.integers(-12, 13, large.shape, dtype=numpy.int16), 0, 255).astype(numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, kind, **options)
    return file.getvalue()


def turned(rng: numpy.random.Generator) -> bytes:
    """A JPEG that its EXIF data turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(rng, exif=exif)


def make(folder: pathlib.Path) -> list[str]:
    """Makes them; their paths."""
    rng = numpy.random.default_rng(1)
    files = []
    for number in range(TARS):
        path = folder / f"shard-{number}.tar"
        members = [member for row in range(ROWS) for member in sample(rng, f"tar{number}/{row:04}", row)]
        tar(path, *((members + odd(rng), LINKS) if number == 0 else (members,)))
        files.append(str(path))
    (folder / "beside.jpg").write_bytes(picture(rng))
    for number in range(TABLES):
        path = folder / f"table-{number}.parquet"
        parquet(path, rng, f"table{number}")
        files.append(str(path))
    cut = folder / "cut.tar"
    tar(cut, [member for row in range(3) for member in sample(rng, f"cut/{row}", row)])
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    return [*files, str(cut)]


def sample(rng, key: str, row: int) -> list[tuple[str, bytes]]:
    """The members of a good sample."""
    caption = [(f"{key}.txt", f"picture {row}\n".encode())] if row % 3 else []
    metadata = [(f"{key}.json", json.dumps({"caption": f"caption {row}", "w": row}).encode())] if row % 4 == 0 else []
    return [(f"{key}.jpg", turned(rng) if row % 10 == 0 else picture(rng)), *caption, *metadata]


def odd(rng) -> list[tuple[str, bytes]]:
    """What WebDataset and others lose, and what cannot be embedded."""
    good = picture(rng)
    return [
        ("odd/broken.jpg", good[:500]),
        ("odd/none.txt", b"a text without a picture"),
        ("odd/two.left.jpg", good),
        ("odd/two.right.jpg", good),
        ("odd/twice.jpg", good),
        ("odd/twice.JPG", good),
        ("./odd/apart.PNG", picture(rng, "PNG")),
        ("odd/Case.WEBP", picture(rng, "WEBP")),
        ("odd/case.txt", b"another sample"),
        ("odd/apart.txt", b"of the same sample"),
        ("odd/metadata.jpg", good),
        ("odd/metadata.json", b"[1]"),
        ("odd/latin.jpg", good),
        ("odd/latin.txt", b"\xff"),
        ("odd/long.jpg", good),
        ("odd/long.txt", b"a" * (1 << 15)),
        ("odd/half.jpg", good),
        ("odd/half.json", rb'{"caption": "\ud83d"}'),
        # Python writes the half of a character that stands for a byte as that byte.
        ("odd/byte\udcff.jpg", good),
        ("odd/byte\udcfe.jpg", good),
        ("odd/" + "n" * 5000 + ".jpg", good),
        ("odd/text.jpg", b"no picture at all"),
        ("v1.0/x.y.jpg", good),
        ("odd/" + "l" * 120 + ".jpg", good),
        (".hidden/x.jpg", good),
        ("__MACOSX/._a.jpg", good),
        ("odd/._a.jpg", good),
        ("odd/noext", good),
        *((f"odd/many.{number}.txt", b"") for number in range(70)),
    ]


def tar(path: pathlib.Path, members: list[tuple[str, bytes]], links: tuple[tuple[str, bytes, str], ...] = ()) -> None:
    """Writes a tar; of links also their kind and what they lead to."""
    with tarfile.open(path, "w", errors="surrogateescape") as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
        for name, kind, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            file.addfile(member)


def parquet(path: pathlib.Path, rng, name: str) -> None:
    """Writes a table as Hugging Face's datasets store pictures, in row groups of 40."""
    cells = [{"bytes": picture(rng), "path": f"{row}.jpg"} for row in range(ROWS)]
    cells += [
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": "absent.jpg"},
        {"bytes": None, "path": None},
        {"bytes": b"", "path": "empty.jpg"},
        {"bytes": picture(rng, "TIFF"), "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells += [{"bytes": picture(rng), "path": other} for other in ("PATH-MARK", "p" * 5000, "of a good one", "of a good one", "of a good one")]
    texts = [f"row {row}" if row % 5 else None for row in range(len(cells))]
    ids = [f"{name}/{row}" if row % 7 else None for row in range(len(cells))]
    texts[-1], ids[-2], ids[-3] = "TEXT-MARK", "NAME-MARK", "i" * 5000
    columns = {"image": pa.array(cells, kind), "text": pa.array(texts), "id": pa.array(ids)}
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=40, compression="none", use_dictionary=False)
    # What no writer does: strings that are not UTF-8.
    data = path.read_bytes()
    assert all(data.count(mark) for mark in (b"PATH-MARK", b"TEXT-MARK", b"NAME-MARK"))
    path.write_bytes(data.replace(b"PATH-MARK", b"PATH\xffMARK").replace(b"TEXT-MARK", b"TEXT\xffMARK").replace(b"NAME-MARK", b"NAME\xffMARK"))
