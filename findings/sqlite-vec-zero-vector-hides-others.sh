#!/usr/bin/env bash
# sqlite-vec 0.1.9: one vector of zeros can hide a thousand others under cosine (seen 2026-11-28; sqlite-vec 0.1.9, apsw 3.54.1.0, numpy
# 2.4.6).
#
# Expected: a vector of zeros has no direction, so its distance is NULL, 1 or an error, and it comes last; nobody else is affected.
# Behaviour: its distance is NULL (not a number inside). A vec0 table is searched by chunks of 1024 rows, each for its own best k, and a
# number that is none never loses a comparison once it is in. So where the zeros are the FIRST row of a chunk (a placeholder of an empty
# document, inserted first) they take the chunk's first place, and what is right behind them depends on where the other chunks are:
#   one chunk: the zeros are the nearest neighbour of every query;
#   several: the whole chunk can be lost, near neighbours with it, and the zeros do not even show.
# Anywhere else in a chunk they do no harm, which is why a test with a few rows may not see it.
# What helps: don't store zeros; normalising does not (vec_normalize of zeros is NaN).
#
# Output seen (50 queries, 3 neighbours, beside exact search):
#      20 rows, zeros in row    7: right 50, zeros among the answers  0, rows 1 to 1023 among the answers 142
#      20 rows, zeros in row    0: right  0, zeros among the answers 50, rows 1 to 1023 among the answers 100
#    2000 rows, zeros in row 1024: right  0, zeros among the answers 50, rows 1 to 1023 among the answers 41
#    2000 rows, zeros in row    0: right 10, zeros among the answers  0, rows 1 to 1023 among the answers 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
import apsw
import numpy
import sqlite_vec

K = 3


def searched(rows, zeros):
    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("create virtual table items using vec0(v float[8] distance_metric=cosine)")
    chance = numpy.random.default_rng(1)
    stored = chance.standard_normal((rows, 8)).astype(numpy.float32)
    stored[zeros] = 0
    with db:
        for rowid, v in enumerate(stored):
            db.execute("insert into items(rowid, v) values (?, ?)", (rowid, v.tobytes()))

    right = with_zeros = first_chunk = 0
    others = numpy.delete(numpy.arange(rows), zeros)
    for query in chance.standard_normal((50, 8)).astype(numpy.float32):
        found = db.execute("select rowid from items where v match ? and k = ?", (query.tobytes(), K))
        got = [rowid for (rowid,) in found]
        cosines = stored[others] @ query / numpy.linalg.norm(stored[others], axis=1)
        right += got == others[numpy.argsort(-cosines)[:K]].tolist()
        with_zeros += zeros in got
        first_chunk += sum(0 < rowid < 1024 for rowid in got)
    print(f"{rows:5} rows, zeros in row {zeros:4}: right {right:2}, zeros among the answers {with_zeros:2}, "
          f"rows 1 to 1023 among the answers {first_chunk}")
    return right, with_zeros, first_chunk


assert searched(20, 7)[:2] == (50, 0), "zeros in the middle do harm now"
assert searched(20, 0)[:2] == (0, 50), "zeros are no longer the nearest of all"
assert searched(2000, 1024)[:2] == (0, 50), "zeros at the head of the second chunk are no longer the nearest"
right, with_zeros, first_chunk = searched(2000, 0)
assert right < 50 and with_zeros == 0 and first_chunk == 0, "the first chunk is found again"
PY
