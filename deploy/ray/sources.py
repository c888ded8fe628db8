"""What is embedded: the rows of Parquet files and of WebDataset shards, by the rules of `clipserve embed` (docs/bulk.md).

Owns which units the work is cut into, and what of a cell or a group of members is the picture, the id and the caption. Does not own
embedding (embed.py).

Invariants: the same files give the same units with the same rows in the same order; a row that cannot be read is a row with its
reason, and nothing is raised for it; a picture over the limit is not read into memory from a tar or a file.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

T = TypeVar("T")

PICTURES = frozenset("avif bmp dib gif jfif jpe jpeg jpg png tif tiff webp".split())
# Pictures that not every build decodes: one of them counts where its sample has no other.
OTHERS = frozenset("heic heif jp2 jxl".split())
# Of one key in a tar.
MEMBERS = 64
# Bytes of an id, a path, and a name in a tar.
NAME_BYTES = 4096
CAPTIONS = ("caption", "text", "TEXT")
IDS = ("id", "key", "__key__")
NO_PICTURE = "the sample has no picture"
UNMARKED = "the archive ends without its end marker; it may be truncated"

# Cells that are read at once, about: a row group may hold 100 MB of pictures.
READ_BYTES = 4 << 20
MAX_READ_ROWS = 1024


@dataclass(frozen=True)
class Unit:
    """What one part of the output is made from: a tar, or neighbouring row groups of a Parquet file."""

    number: int
    path: str
    # Of the file, so that a changed one is noticed.
    size: int
    # The row groups from `first` to before `last`, and the number of their first row in the file; of a tar all 0.
    first: int = 0
    last: int = 0
    row: int = 0


@dataclass(frozen=True)
class Limits:
    """Bytes that a picture's file and a text may have: those of the service."""

    picture: int
    text: int


class Unreadable(Exception):
    """Why a row has no picture or text."""


@dataclass
class Row:
    """A picture and what is known of it; with an error it is not embedded."""

    id: str
    picture: bytes | None = None
    caption: str | None = None
    path: str | None = None
    metadata: str | None = None
    error: str | None = None

    def take(self, get: Callable[[], T]) -> T | None:
        """What `get` gives, or nothing and the reason; the first reason of a row stays."""
        try:
            return get()
        except Unreadable as error:
            self.error = self.error or str(error)
            return None

    def take_beside(self, get: Callable[[], T]) -> T | None:
        """What `get` gives, or nothing: a picture is embedded whatever stands beside it."""
        try:
            return get()
        except Unreadable:
            return None


def filesystem(place: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a path or a URI (s3://, gs://, hdfs://, ...), and the path in it."""
    if "://" in place:
        return pyarrow.fs.FileSystem.from_uri(place)
    return pyarrow.fs.LocalFileSystem(), os.path.abspath(place)


def plan(places: list[str], image_column: str | None, rows: int) -> list[Unit]:
    """The units of all files at `places` (files, patterns, folders, URIs), with about `rows` rows each where a Parquet file allows it.

    Raises SystemExit with one line for what is not there, and for a Parquet file without pictures.
    """
    files = [file for place in places for file in _files(place)]
    with ThreadPoolExecutor(32) as threads:
        cut = list(threads.map(lambda file: _cut(*file, image_column, rows), files))
    return [Unit(number, *unit) for number, unit in enumerate(unit for units in cut for unit in units)]


def _files(place: str) -> list[tuple[str, int]]:
    """Path and size of the shards at `place`, by name."""
    if _plain(place) != place:
        raise SystemExit(f"{_plain(place)}: the path is not UTF-8, and Arrow opens no other")
    if "://" not in place and any(letter in place for letter in "*?["):
        return [file for path in sorted(glob.glob(place, recursive=True)) for file in _files(path)]
    system, path = filesystem(place)
    prefix = place[: len(place) - len(path)] if "://" in place else ""
    info = system.get_file_info(path)
    if info.type == pyarrow.fs.FileType.Directory:
        found = system.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
        hidden = lambda info: any(part.startswith((".", "_")) for part in info.path[len(path) :].split("/"))
        found = sorted((info for info in found if info.is_file and not hidden(info)), key=lambda info: info.path)
        found = [info for info in found if info.extension.lower() in ("tar", "parquet")]
    else:
        found = [info] if info.is_file else []
        if found and info.extension.lower() not in ("tar", "parquet"):
            raise SystemExit(f"{place}: neither a .tar nor a .parquet file")
    if not found:
        raise SystemExit(f"{place}: no .tar and no .parquet file is there")
    return [(prefix + info.path, info.size) for info in found]


def _cut(path: str, size: int, image_column: str | None, rows: int) -> list[tuple]:
    """The units of one file, without their numbers."""
    if path.lower().endswith(".tar"):
        return [(path, size)]
    try:
        with _parquet(path) as file:
            _Columns(file.schema_arrow, image_column)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    except (Unreadable, pa.ArrowException, OSError) as error:
        raise SystemExit(f"{path}: {_line(error)}") from None
    units, first, row = [], 0, 0
    for last in range(1, len(counts) + 1):
        count = sum(counts[first:last])
        if count >= rows or last == len(counts):
            units.append((path, size, first, last, row))
            first, row = last, row + count
    return units


def read(unit: Unit, image_column: str | None, limits: Limits) -> Iterator[Row]:
    """The rows of a unit."""
    return _shard(unit, limits) if unit.path.lower().endswith(".tar") else _table(unit, image_column, limits)


# Parquet.


def _parquet(path: str) -> pyarrow.parquet.ParquetFile:
    system, path = filesystem(path)
    # With a buffer, a column is read as it is needed and not a row group at a time.
    return pyarrow.parquet.ParquetFile(system.open_input_file(path), buffer_size=1 << 20, pre_buffer=False)


class _Columns:
    """Which columns are read."""

    def __init__(self, schema: pa.Schema, image: str | None):
        is_binary = lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        is_image = lambda kind: is_binary(kind) or (
            pa.types.is_struct(kind) and any(inner.name == "bytes" and is_binary(inner.type) for inner in kind)
        )
        is_string = lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_id = lambda kind: is_string(kind) or pa.types.is_integer(kind)
        first = lambda names, fits: next((n for n in names if n in schema.names and fits(schema.field(n).type)), None)
        images = [column.name for column in schema if is_image(column.type)] if image is None else [image]
        columns = ", ".join(f"{column.name} ({column.type})" for column in schema)
        if len(images) != 1:
            found = f"several columns may be its pictures ({', '.join(images)})" if images else "it has no column of pictures"
            raise Unreadable(f"{found} among {columns}; name one by --image-column")
        (self.image,) = images
        kind = schema.field(self.image).type if self.image in schema.names else None
        self.is_path = kind is not None and is_string(kind)
        if kind is None or not (self.is_path or is_image(kind)):
            raise Unreadable(f"--image-column {image}: no binary, struct of bytes and path, or string of that name among {columns}")
        self.caption, self.id = first(CAPTIONS, is_string), first(IDS, is_id)
        self.all = list(dict.fromkeys(name for name in (self.image, self.caption, self.id) if name))


def _table(unit: Unit, image_column: str | None, limits: Limits) -> Iterator[Row]:
    number = end = unit.row
    try:
        with _parquet(unit.path) as file:
            columns = _Columns(file.schema_arrow, image_column)
            for group in range(unit.first, unit.last):
                metadata = file.metadata.row_group(group)
                end += metadata.num_rows
                leaves = [metadata.column(at) for at in range(metadata.num_columns)]
                size = sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.split(".")[0] in columns.all)
                at_once = max(1, min(MAX_READ_ROWS, READ_BYTES * metadata.num_rows // max(1, size)))
                for batch in file.iter_batches(at_once, [group], columns.all, use_threads=False):
                    for row in _as_bytes(batch).to_pylist():
                        yield _record(unit.path, number, row, columns, limits)
                        number += 1
    except (Unreadable, pa.ArrowException, OSError) as error:
        # What a fault has in front of it cannot be passed, and how many rows are behind it is only claimed: one row for them.
        rest = f"{end - number} rows" if end > number else "the rows"
        yield Row(f"{unit.path}:{number}", error=f"{rest} from here on cannot be read: {_line(error)}")


def _as_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Its strings as binaries: a whole batch would be lost for one that is not UTF-8."""
    return pa.RecordBatch.from_arrays([column.cast(_binary(column.type)) for column in batch.columns], batch.schema.names)


def _binary(kind: pa.DataType) -> pa.DataType:
    """The type of a column whose strings are binaries, those of a struct too."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_binary(field.type)) for field in kind])
    return {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(kind, kind)


def _record(path: str, number: int, cells: dict, columns: _Columns, limits: Limits) -> Row:
    row = Row(f"{path}:{number}")
    id, cell = cells[columns.id] if columns.id else None, cells[columns.image]
    if id is not None and (id := row.take(lambda: _name(id, "id") if isinstance(id, bytes) else str(id))) is not None:
        row.id = id
    if columns.caption and cells[columns.caption] is not None:
        row.caption = row.take_beside(lambda: _text(cells[columns.caption], limits))
    picture, place = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell) if columns.is_path else (cell, None)
    if place is not None:
        row.path = row.take(lambda: _name(place, "path"))
        if row.path is None:
            return row
    if picture is None and row.path is not None:
        # Data sets of Hugging Face name their pictures by path unless they are told to hold them.
        row.picture = row.take(lambda: _file(os.path.join(os.path.dirname(path), row.path), limits))
    elif picture is None:
        row.error = row.error or NO_PICTURE
    else:
        row.picture = row.take(lambda: _held(picture, limits))
    return row


def _held(picture: bytes, limits: Limits) -> bytes:
    _within(len(picture), limits.picture, "picture", "limits.max_body_bytes")
    return picture


def _file(path: str, limits: Limits) -> bytes:
    missing = "the picture is not in the Parquet file but named by it, and "
    try:
        system, inner = filesystem(path)
        info = system.get_file_info(inner)
        if not info.is_file:
            raise Unreadable(f"{missing}{path}: it is no file")
        _within(info.size, limits.picture, "picture", "limits.max_body_bytes")
        with system.open_input_file(inner) as file:
            return file.read(info.size)
    except (OSError, pa.ArrowException) as error:
        raise Unreadable(f"{missing}{path}: {_line(error)}") from None


# WebDataset.


@dataclass
class _Sample:
    key: str
    # The members by field, as it is written; in small letters where it is there twice.
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    # The first reason why it is no sample.
    fault: str | None = None
    twice: str | None = None


def _shard(unit: Unit, limits: Limits) -> Iterator[Row]:
    broken = None
    try:
        with _local(unit.path) as file:
            samples, broken, tar = _listed(file)
            for sample in samples:
                yield _sample(unit.path, tar, sample, limits)
    except (OSError, pa.ArrowException, tarfile.TarError) as error:
        broken = f"the tar cannot be read to its end: {_line(error)}"
    if broken is not None:
        # The samples that are lost have no names; one row says so.
        yield Row(unit.path, path=unit.path, error=broken)


def _local(path: str):
    """The file, where it can be read at any place: a remote one is copied first."""
    system, inner = filesystem(path)
    if isinstance(system, pyarrow.fs.LocalFileSystem):
        return open(inner, "rb")
    copy = tempfile.TemporaryFile()
    with system.open_input_stream(inner) as remote:
        while piece := remote.read(8 << 20):
            copy.write(piece)
    copy.seek(0)
    return copy


def _listed(file) -> tuple[list[_Sample], str | None, tarfile.TarFile | None]:
    """The samples in the order of their first members, and why there may be more of them."""
    samples: dict[str | int, _Sample] = {}
    tar = None
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        return [], UNMARKED, None
    try:
        tar = tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", errorlevel=2, ignore_zeros=False)
        for member in tar:
            if not member.issparse() and member.offset_data + member.size > size:
                raise tarfile.ReadError(f"the tar ends at byte {size}, within {member.name}")
            if member.isdir():
                continue
            path = _plain(member.name)
            if (length := len(path.encode())) > NAME_BYTES:
                # Whose it is cannot be known, so that it is a row of its own.
                reason = f"a member of the tar cannot be read: the name has {length} bytes, the limit is {NAME_BYTES}"
                samples[len(samples)] = _Sample(path.encode()[: tarfile.LENGTH_NAME].decode(errors="ignore"), fault=reason)
            elif split := _key_and_field(path):
                key, name = split
                sample = samples.setdefault(key, _Sample(key))
                if path != member.name:
                    sample.fault = sample.fault or "the path is not UTF-8"
                if len(sample.members) == MEMBERS:
                    sample.fault = sample.fault or f"the tar holds more than {MEMBERS} members of the key {key}"
                    continue
                if any(name.lower() == known.lower() for known in sample.members):
                    sample.twice = sample.twice or name
                sample.members.setdefault(name, member)
    except tarfile.TarError as error:
        return list(samples.values()), f"the tar cannot be read to its end: {_line(error)}", tar
    # Where no member follows, a block of zeros does.
    file.seek(tar.offset)
    is_marked = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
    return list(samples.values()), None if is_marked else UNMARKED, tar


def _key_and_field(path: str) -> tuple[str, str] | None:
    """A key ends at the first dot of the file's name; None for what belongs to no sample."""
    while path.startswith("./"):
        path = path[2:]
    if any(part.startswith(".") or part == "__MACOSX" for part in path.split("/")):
        return None
    folder, slash, name = path.rpartition("/")
    stem, _, suffix = name.partition(".")
    return (folder + slash + stem, suffix) if suffix else None


def _sample(path: str, tar: tarfile.TarFile, sample: _Sample, limits: Limits) -> Row:
    row = Row(sample.key)
    if sample.fault is not None:
        row.error = sample.fault
        return row
    if sample.twice is not None:
        row.error = f"the tar holds {sample.key}.{sample.twice} twice"
        return row
    by_name = {name.lower(): member for name, member in sample.members.items()}
    text = lambda name: _text(_contents(tar, by_name[name], limits.text, "text", "limits.max_text_bytes"), limits)
    if "json" in by_name:
        row.metadata = row.take_beside(lambda: text("json"))
    row.caption = row.take_beside(lambda: text("txt") if "txt" in by_name else _caption(row.metadata))
    called = lambda suffixes: [name for name in sample.members if name.rpartition(".")[2].lower() in suffixes]
    pictures = called(PICTURES) or called(OTHERS)
    if len(pictures) > 1:
        names = ", ".join(f"{sample.key}.{name}" for name in pictures)
        what = f"the sample has {len(pictures)} pictures ({names})"
        row.error = row.error or f"{what}: what follows the first dot of a file name is no part of the key; rename them"
    elif not pictures:
        row.error = row.error or NO_PICTURE
    else:
        (name,) = pictures
        row.path = f"{path}/{sample.key}.{name}"
        row.picture = row.take(lambda: _contents(tar, sample.members[name], limits.picture, "picture", "limits.max_body_bytes"))
    return row


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int, what: str, key: str) -> bytes:
    if member.issparse():
        raise Unreadable("it is stored as a sparse file, which is not read; make the tar without --sparse")
    _within(member.size, limit, what, key)
    try:
        # A link is the member that it leads to, whose size it does not have.
        file = tar.extractfile(member)
        data = file.read(limit + 1) if file else None
    except (KeyError, RecursionError):
        raise Unreadable(f"it is a link to {_plain(member.linkname)}, which is no member of the tar that can be read") from None
    if data is None:
        raise Unreadable("it is no plain file")
    _within(len(data), limit, what, key)
    return data


def _caption(metadata: str | None) -> str | None:
    if metadata is None:
        return None
    try:
        value = json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"its metadata is no JSON object: {_line(error)}") from None
    if not isinstance(value, dict):
        raise Unreadable("its metadata is no JSON object")
    caption = value.get("caption")
    # JSON can escape the half of a character, which no text can hold.
    return caption if isinstance(caption, str) and _plain(caption) == caption else None


# Both.


def _text(data: bytes, limits: Limits) -> str:
    """A text without its last line end."""
    _within(len(data), limits.text, "text", "limits.max_text_bytes")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Unreadable("the text is not UTF-8") from None


def _name(data: bytes, what: str) -> str:
    """An id or a path."""
    if len(data) > NAME_BYTES:
        raise Unreadable(f"the {what} has {len(data)} bytes, the limit is {NAME_BYTES}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unreadable(f"the {what} is not UTF-8") from None


def _plain(text: str) -> str:
    """A name as UTF-8 can hold it: Python has bytes that are none as halves of characters, here they are `\\xff`."""
    return re.sub("[\ud800-\udfff]", lambda half: f"\\x{ord(half[0]) & 0xFF:02x}", text)


def _within(size: int, most: int, what: str, key: str) -> None:
    if size > most:
        raise Unreadable(f"the {what} has {size} bytes, the limit is {most} (--set {key}=...)")


def _line(error: Exception) -> str:
    """An error of someone else's in one line."""
    return _plain(" ".join(str(error).split())) or type(error).__name__
