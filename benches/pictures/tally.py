"""What is printed."""

import collections

from verdicts import DIED, DIFFERENT, EQUAL, NEITHER, ONLY_OURS, ONLY_PILLOW

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
    directions(tables)
    return ended(verdicts, [each for each in verdicts if each.unexplained])


def directions(tables):
    """What either side reads alone, and what both read otherwise: by the first word of a kind, which is its format, and by exception."""
    formats, reasons = collections.defaultdict(collections.Counter), collections.Counter()
    for kind, rows in tables.items():
        for each in rows:
            formats[kind.split()[0]][each.verdict] += 1
            if each.departs:
                reasons[each.verdict, each.exception.what if each.exception else "not explained"] += 1
    names = (EQUAL, DIFFERENT, ONLY_PILLOW, ONLY_OURS, DIED, NEITHER)
    print("".join(f"{title:>12}" for title in ("format", *names)))
    for format, counts in formats.items():
        print("".join(f"{cell:>12}" for cell in (format, *(counts[name] for name in names))))
    for (verdict, what), count in sorted(reasons.items()):
        print(f"{count:>6} {verdict}: {what}")


def ended(verdicts, found):
    counts = collections.Counter(EXPLAINED if each.departs and each.exception else each.verdict for each in verdicts)
    print(f"{len(verdicts)} files: " + ", ".join(f"{counts[name]} {name}" for name in (EQUAL, EXPLAINED, NEITHER)) + f", {len(found)} without an explanation")
    return 1 if found else 0
