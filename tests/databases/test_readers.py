"""What `clipserve embed` writes is read by others as what it is: types, values and nulls, for each type of embedding."""

from __future__ import annotations

import numpy
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

DIM = 192
ARROW = {"f32": pa.float32(), "f16": pa.float16(), "int8": pa.int8()}
NUMPY = {"f32": numpy.float32, "f16": numpy.float16, "int8": numpy.int8}


@pytest.fixture(scope="module", params=ARROW)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def files(embedded, kind) -> list[str]:
    return sorted(str(part) for part in (embedded / kind / "embeddings").iterdir())


@pytest.fixture(scope="module")
def expected(files) -> dict[str, numpy.ndarray | None]:
    """Embeddings by id, read by Arrow."""
    table = pyarrow.dataset.dataset(files).to_table()
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", table["embedding"].type.value_type), DIM)
    rows = dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist()))
    assert len(rows) == len(table) == 2_001 and [id for id, row in rows.items() if row is None] == ["broken"]
    return rows


def check(ids, rows, expected, kind) -> None:
    """The same vectors, in the type's own numbers."""
    assert len(ids) == len(expected)
    for id, row in zip(ids, rows):
        if expected[id] is None:
            assert row is None
        else:
            assert (numpy.asarray(row, NUMPY[kind]) == numpy.asarray(expected[id], NUMPY[kind])).all(), id


def test_pyarrow_sees_a_list_of_fixed_size(files, kind, expected):
    schema = pyarrow.dataset.dataset(files).schema
    assert schema.field("embedding").type == pa.list_(pa.field("element", ARROW[kind]), DIM)
    assert not schema.field("id").nullable
    notes = pyarrow.parquet.read_metadata(files[0]).metadata
    assert b"clipserve.fingerprint" in notes and (b"clipserve.int8_scale" in notes) == (kind == "int8")


def test_polars(files, kind, expected):
    import polars

    frame = polars.read_parquet(files)
    inner = {"f32": polars.Float32, "f16": polars.Float16, "int8": polars.Int8}[kind]
    assert frame.schema["embedding"] == polars.Array(inner, DIM)
    check(frame["id"].to_list(), frame["embedding"].to_list(), expected, kind)


def test_duckdb_sees_lists_whose_length_must_be_named(files, kind, expected):
    import duckdb

    found = duckdb.sql(f"select id, embedding from read_parquet({files})")
    assert str(found.types[1]) == {"f32": "FLOAT[]", "f16": "FLOAT[]", "int8": "TINYINT[]"}[kind]
    check(*zip(*found.fetchall()), expected, kind)
    first = f"select array_cosine_similarity(embedding{{}}, embedding{{}}) from read_parquet({files}) limit 1"
    with pytest.raises(duckdb.Error):
        duckdb.sql(first.format("", "")).fetchall()
    cast = f"::float[{DIM}]"
    assert abs(duckdb.sql(first.format(cast, cast)).fetchone()[0] - 1) < 1e-5


def test_datasets_take_every_column_by_its_type_and_none_for_an_image(files, kind, expected, tmp_path):
    import datasets

    for file in files:
        assert b"huggingface" not in pyarrow.parquet.read_metadata(file).metadata
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    value = {"f32": "float32", "f16": "float16", "int8": "int8"}[kind]
    assert found.features["embedding"] == datasets.List(datasets.Value(value), length=DIM)
    others = {name: feature for name, feature in found.features.items() if name != "embedding"}
    assert others and set(map(str, others.values())) == {"Value('string')"}, others
    check(found["id"], found["embedding"], expected, kind)


def test_lancedb_takes_floats_as_vectors_without_nulls(files, kind, expected, tmp_path):
    import lancedb

    rows = pyarrow.dataset.dataset(files).to_table(columns=["id", "embedding"])
    database = lancedb.connect(tmp_path)
    if kind != "int8":
        with pytest.raises(RuntimeError, match="on_bad_vectors"):
            database.create_table("with_null", rows)
    table = database.create_table("t", rows.filter(rows["embedding"].is_valid()))
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", ARROW[kind]), DIM)
    found = table.to_arrow()
    check([*found["id"].to_pylist(), "broken"], [*found["embedding"].to_pylist(), None], expected, kind)
    query = numpy.asarray(expected["drawing-0007"], "f4")
    search = lambda: table.search(query, vector_column_name="embedding").distance_type("cosine").limit(1).to_list()
    if kind == "int8":
        with pytest.raises(ValueError):
            search()
    else:
        assert search()[0]["id"] == "drawing-0007"
