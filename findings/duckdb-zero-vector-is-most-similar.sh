#!/usr/bin/env bash
# duckdb 2.0.0: a vector of zeros is the most similar of all, and passes every threshold (seen 2026-11-28; duckdb 2.0.0).
#
# Expected: its cosine with anything is NULL, 0 or an error, so it comes last, or at least `where similarity > 0.9` leaves it out, as a NaN
# does in most programming languages.
# Behaviour: array_cosine_similarity is NaN, and DuckDB's NaN is a number that is equal to itself and larger than all others. So the zeros
# are first in `order by similarity desc`, win arg_max, and are counted by `> 0.9`. By array_cosine_distance, ascending, the same row is
# last: which of the two is written decides what a search finds.
# What helps: `where not isnan(similarity)`.
#
# Output seen:
#   by similarity [2, 1, 4, 3], by distance [1, 4, 3, 2]
#   arg_max 2, more than 0.9: [1, 2, 4]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet duckdb==2.0.0

"$work/venv/bin/python" - <<'PY'
import duckdb

db = duckdb.connect()
db.execute("create table items(id int, v float[2])")
db.execute("insert into items values (1, [3, 4]), (2, [0, 0]), (3, [-3, -4]), (4, [4, 3])")
db.execute("create view found as select id, array_cosine_similarity(v, [3, 4]::float[2]) as similarity, "
           "array_cosine_distance(v, [3, 4]::float[2]) as distance from items")


def ids(rest):
    return [row[0] for row in db.execute("select id from found " + rest).fetchall()]


by_similarity, by_distance = ids("order by similarity desc"), ids("order by distance")
print(f"by similarity {by_similarity}, by distance {by_distance}")
best = db.execute("select arg_max(id, similarity) from found").fetchone()[0]
close = ids("where similarity > 0.9 order by id")
print(f"arg_max {best}, more than 0.9: {close}")

assert by_similarity == [2, 1, 4, 3] and by_distance == [1, 4, 3, 2], "another order"
assert best == 2 and close == [1, 2, 4], "NaN is no longer the largest number"
assert ids("where not isnan(similarity) order by similarity desc") == [1, 4, 3]
PY
