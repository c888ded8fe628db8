"""docs/vector-databases.md does what it shows, and every recall in it is what comes out."""

from __future__ import annotations

import os

import pytest

import page
from conftest import run, shell

SECTIONS = {heading: blocks for heading, blocks in page.sections().items() if heading}

# An approximate index is another one each time it is built.
TOLERANCE = 0.02

# What says that a block's index is asked, and not all rows: a plan, and what stands in it then.
PLANS = {
    "DuckDB, HNSW, f32": ("HNSW_INDEX_SCAN", lambda names: duckdb_plan(names)),
    "LanceDB, IVF_HNSW_SQ, f32": ("ANNSubIndex", lambda names: lancedb_plan(names)),
    "pgvector, HNSW, f32": ("Index Scan", lambda names: postgres_plan(names, "pictures", names["embed"]("cat"))),
    "pgvector, HNSW, f16": ("Index Scan", lambda names: postgres_plan(names, "halves", names["pgvector"].HalfVector(names["embed"]("cat")))),
}


def duckdb_plan(names: dict):
    nearest = "explain select id from pictures order by array_cosine_distance(embedding, ?::float[192]) limit 10"
    return names["database"].execute(nearest, [names["embed"]("cat").tolist()]).fetchall()


def lancedb_plan(names: dict):
    return names["pictures"].search(names["embed"]("cat"), vector_column_name="embedding").explain_plan()


def postgres_plan(names: dict, table: str, vector):
    return names["connection"].execute(f"explain select id from {table} order by embedding <#> %s limit 10", [vector]).fetchall()


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_section_runs_and_finds_what_the_table_says(heading, embedded, service, captions, truth, monkeypatch, capsys):
    monkeypatch.chdir(embedded)
    names: dict = {}
    for block in page.sections()[""]:
        if block.language == "python":
            run(block, names, service)
    measured = {}
    for block in SECTIONS[heading]:
        if block.language == "sh":
            shell(block, embedded)
            continue
        run(block, names, service)
        if block.label in PLANS:
            expected, plan = PLANS[block.label]
            assert expected in str(plan(names)), plan(names)
        if block.label:
            found = [set(names["search"](caption)) for caption in captions]
            measured[block.label] = sum(len(ids & true) for ids, true in zip(found, truth)) / (10 * len(truth))
    said = page.recalls()
    with capsys.disabled():
        for label, recall in measured.items():
            print(f"\n| {label} | {recall:.3f} |", end="")
    wrong = {label: recall for label, recall in measured.items() if abs(recall - said.get(label, -1)) > TOLERANCE}
    assert wrong == {}, f"the table says {said}"


def test_every_row_of_the_table_is_a_block():
    labels = [block.label for blocks in SECTIONS.values() for block in blocks if block.label]
    assert sorted(labels) == sorted(page.recalls())
    assert len(SECTIONS) > 7 and os.path.basename(page.PAGE) == "vector-databases.md"
