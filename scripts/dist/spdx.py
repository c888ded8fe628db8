"""Licence expressions of SPDX: which licences suffice, and their texts where a crate brings none.

Owns the reading of an expression. Does not own what is allowed, which is in deny.toml, the list that `make deny` reads too.
"""

import pathlib
import re
import tomllib

from fault import Fault

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = pathlib.Path(__file__).resolve().parent / "texts"

# What stands for the licence of a crate that has no file of its own.
KNOWN = {
    "Apache-2.0": ROOT / "LICENSE-APACHE",
    "0BSD": TEXTS / "0BSD.txt",
    "MIT": TEXTS / "MIT.txt",
    "BSD-3-Clause": TEXTS / "BSD-3-Clause.txt",
}


def normal(expression: str) -> str:
    """The expression with the old `/` of crates written as it is today."""
    return re.sub(r"\s*/\s*", " OR ", expression)


def alternatives(expression: str) -> list[frozenset[str]]:
    """The sets of licences of which each suffices; `Apache-2.0 WITH LLVM-exception` counts as one licence."""
    tokens = re.findall(r"[()]|\bAND\b|\bOR\b|[\w.+-]+(?:\s+WITH\s+[\w.-]+)?", normal(expression))

    def either() -> list[frozenset[str]]:
        found = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            found = found + both()
        return found

    def both() -> list[frozenset[str]]:
        found = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            more = one()
            found = [left | right for left in found for right in more]
        return found

    def one() -> list[frozenset[str]]:
        token = tokens.pop(0) if tokens else ")"
        if token == "(":
            found = either()
            if tokens[:1] == [")"]:
                tokens.pop(0)
                return found
        elif token not in (")", "AND", "OR"):
            return [frozenset([token])]
        raise Fault(f"{expression!r} is no SPDX expression")

    found = either()
    if tokens:
        raise Fault(f"{expression!r} is no SPDX expression")
    return found


def allowed() -> frozenset[str]:
    """What deny.toml allows."""
    return frozenset(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])


def texts_of(suffice: list[frozenset[str]]) -> list[pathlib.Path]:
    """The texts of the first alternative of which all are known; empty where there is none."""
    for licences in suffice:
        if licences <= KNOWN.keys():
            return [KNOWN[licence] for licence in sorted(licences)]
    return []
