"""What is printed."""

import collections

from verdicts import EQUAL, NEITHER

EXPLAINED = "explained"


def of_folders(verdicts):
    """Prints each file that no exception explains, and answers the exit code."""
    found = [each for each in verdicts if each.unexplained]
    for each in found:
        print(f"{each.verdict}: {each.path}: {each.described}: {each.difference}")
    return ended(verdicts, found)


def of_kinds(verdicts, kinds):
    """The same for made pictures: a line for each kind, with the smallest picture of it."""
    tables = collections.defaultdict(list)
    for each, kind in zip(verdicts, kinds, strict=True):
        tables[kind].append(each)
    as_pillow = 0
    for kind, rows in tables.items():
        found = [each for each in rows if each.unexplained]
        if not found:
            as_pillow += 1
            continue
        counts = collections.Counter(EXPLAINED if each.departs and each.exception else each.verdict for each in rows)
        smallest = min(found, key=lambda each: each.size[0] * each.size[1])
        said = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
        print(f"{kind}: {said}; {smallest.path}: {smallest.described}: {smallest.verdict}: {smallest.difference}")
    print(f"{len(tables)} kinds, {as_pillow} of them without such a line")
    return ended(verdicts, [each for each in verdicts if each.unexplained])


def ended(verdicts, found):
    counts = collections.Counter(EXPLAINED if each.departs and each.exception else each.verdict for each in verdicts)
    print(f"{len(verdicts)} files: " + ", ".join(f"{counts[name]} {name}" for name in (EQUAL, EXPLAINED, NEITHER)) + f", {len(found)} without an explanation")
    return 1 if found else 0
