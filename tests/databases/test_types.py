"""docs/embeddings.md's bits and bytes go into databases as it shows, and come back with numpy's distances."""

from __future__ import annotations

import numpy
import pytest

import page
from conftest import run

(BLOCKS,) = [blocks for heading, blocks in page.sections(page.TYPES).items() if heading == "What databases take"]
LABELS = ["sqlite-vec, bits", "sqlite-vec, int8", "pgvector, bits", "LanceDB, bits"]


@pytest.fixture(scope="module")
def done(service, captions, tmp_path_factory) -> dict[str, dict]:
    """The names that each block has left behind, by its label: all are run once, in the order of the page."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "texts.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    names: dict = {}
    left = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in BLOCKS:
            run(block, names, service)
            if block.label:
                left[block.label] = dict(names)
    return left


@pytest.fixture(scope="module")
def hamming(service, captions) -> numpy.ndarray:
    """How many signs differ between the floats of each caption and of the query."""
    stored, query = service.texts(captions)["float"], service.texts(["cat face"])["float"]
    return ((stored >= 0) != (query >= 0)).sum(axis=1)


@pytest.fixture(scope="module")
def cosine(service, captions) -> numpy.ndarray:
    """The cosine distances between the int8 embeddings of each caption and of the query."""
    stored, query = (service.texts(texts)["int8"].astype("f8") for texts in (captions, ["cat face"]))
    return 1 - (stored @ query[0]) / numpy.linalg.norm(stored, axis=1) / numpy.linalg.norm(query)


@pytest.mark.parametrize("label", LABELS)
def test_a_database_answers_the_distances_of_numpy(label, done, hamming, cosine):
    true = cosine if label.endswith("int8") else hamming
    ids, distances = map(numpy.array, zip(*done[label]["found"]))
    assert len(set(ids.tolist())) == 10
    assert abs(distances - true[ids]).max() < 1e-5
    # The ten nearest, whichever of those that are equally near.
    assert abs(distances - numpy.sort(true)[:10]).max() < 1e-5


def test_every_block_with_a_label_is_checked():
    assert [block.label for block in BLOCKS if block.label] == LABELS


def test_sqlite_vec_makes_the_same_bits_of_floats_once_ours_are_turned(done, service, captions):
    names = done["sqlite-vec, bits"]
    floats = service.texts(captions)["float"]
    theirs = [row for (row,) in (names["database"].execute("select vec_quantize_binary(?)", [bytes(x)]).fetchone() for x in floats)]
    assert theirs == [bytes(row) for row in names["turned"](names["stored"])]
    assert theirs != [bytes(row) for row in names["stored"]]
    assert theirs == [bytes(row) for row in numpy.packbits(floats >= 0, axis=1, bitorder="little")]


def test_sqlite_vec_answers_noise_where_bits_are_mixed(done, hamming):
    names = done["sqlite-vec, bits"]
    found = names["database"].execute(names["nearest"], [bytes(names["query"][0])])
    ids, distances = map(numpy.array, zip(*found.fetchall()))
    assert len(ids) == 10 and (distances != hamming[ids]).any()


def test_sqlite_vec_quantises_to_other_bytes_than_ours(done):
    database = done["sqlite-vec, int8"]["database"]
    ((numbers,),) = database.execute("select vec_to_json(vec_quantize_int8('[1.0,-1.0,0.5,0.0]', 'unit'))").fetchall()
    assert numbers == "[126,-128,63,0]"


def test_pgvector_takes_bits_as_bytes_alone(done):
    names = done["pgvector, bits"]
    with pytest.raises(ValueError, match="expected elements to be boolean"):
        names["pgvector"].Bit(names["stored"][0])
    row = names["pgvector"].Bit(names["stored"][0].tobytes())
    assert row.to_list() == numpy.unpackbits(names["stored"][0]).astype(bool).tolist()


def test_lancedb_takes_uint8_for_packed_bits(done, tmp_path):
    import pyarrow

    names = done["LanceDB, bits"]
    bits, query = names["bits"], names["query"][0]
    assert str(bits.schema.field("embedding").type) == "fixed_size_list<item: uint8>[24]"
    search = lambda: bits.search(query, vector_column_name="embedding").limit(10)
    # Nothing said: Hamming.
    assert [(row["id"], row["_distance"]) for row in search().to_list()] == names["found"]
    for other in ["l2", "cosine", "dot"]:
        with pytest.raises(ValueError, match=f"Distance type {other} does not support UInt8 vectors"):
            search().distance_type(other).to_list()
    binaries = pyarrow.array([row.tobytes() for row in names["stored"]], pyarrow.binary(24))
    table = names["lancedb"].connect(tmp_path).create_table("binaries", pyarrow.table({"embedding": binaries}))
    with pytest.raises(ValueError, match="Data type is not a vector"):
        table.search(query, vector_column_name="embedding").limit(1).to_list()
