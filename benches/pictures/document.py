"""docs/pictures.md, from the verdicts."""

import collections

from decided import OTHERWISE
from verdicts import DIFFERENT, EQUAL, EXCEPTIONS, NEITHER, ONLY_OURS, ONLY_PILLOW, PROMISED

HEAD = """# Pictures

Which pictures are read, and how near their crops are to those of Pillow and `transformers`' `CLIPImageProcessor`. Written by
`make pictures ARGS="FOLDER..."` (`benches/pictures/`), which gives both sides the same files: Pillow opens strictly, then
`exif_transpose`, `convert("RGB")` and the processor's crop of 224. **Equal** means every byte of the crop. Here: {files} files, {versions}.
"""


def of(verdicts, versions):
    parts = [HEAD.format(files=len(verdicts), versions=versions), by_format(verdicts), exceptions(verdicts), by_source(verdicts)]
    parts += [otherwise(), differences(verdicts), only_pillow(verdicts), only_ours(verdicts)]
    return "\n".join(part for part in parts if part)


def table(title, header, rows, text=""):
    lines = [f"## {title}\n"] + ([text + "\n"] if text else []) + [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in cells]) + "\n" if cells else ""


def counted(verdicts):
    """Pillow reads, we read of those, equal, the largest difference of the others, only we read."""
    counts = collections.Counter(each.verdict for each in verdicts)
    both = counts[EQUAL] + counts[DIFFERENT]
    others = [each for each in verdicts if each.verdict == DIFFERENT]
    most = max((each.levels for each in others if each.levels is not None), default="")
    return [both + counts[ONLY_PILLOW], both, counts[EQUAL], counts[DIFFERENT], most, counts[ONLY_OURS]]


COUNTED = ["Pillow reads", "we of those", "equal", "different", "by levels, at most", "only we read"]


def by_format(verdicts):
    of_format = lambda wanted: [each for each in verdicts if each.format in wanted]
    rows = [[name, *counted(of_format([name]))] for name in PROMISED]
    rows.append(["together", *counted(of_format(PROMISED))])
    others = sorted({each.format for each in verdicts if each.verdict != NEITHER} - set(PROMISED))
    rows.append([f"not served: {', '.join(others)}", *counted(of_format(others))]) if others else None
    neither = sum(each.verdict == NEITHER for each in verdicts)
    return table("Formats", ["format", *COUNTED], rows, f"{neither} more files neither reads: no pictures, or broken ones.")


def exceptions(verdicts):
    of = collections.defaultdict(list)
    for each in verdicts:
        if each.departs or each.exception:
            of[each.exception].append(each)
    others = [(None, "**others**", "without an explanation")] if of[None] else []
    rows = []
    for exception, what, reason in [(each, each.what, each.reason) for each in EXCEPTIONS] + others:
        counts = collections.Counter(each.verdict for each in of[exception])
        most = max((each.levels or 0 for each in of[exception]), default=0)
        rows.append([what, reason, *(counts[name] for name in (EQUAL, DIFFERENT, ONLY_PILLOW, ONLY_OURS)), most or ""])
    header = ["what", "why", "equal", "different", "only Pillow reads", "only we read", "by levels, at most"]
    return table("What differs, and why", header, rows)


def otherwise():
    text = "Seen in pictures that were made or damaged for it (`--random`, `--damage`), or in the sources of both."
    return table("Decided otherwise", ["format", "the file", "Pillow", "here"], OTHERWISE, text)


def by_source(verdicts):
    sources = collections.defaultdict(list)
    for each in verdicts:
        if each.format in PROMISED:
            sources[each.path.split("/")[0]].append(each)
    return table("By source", ["folder", *COUNTED], [[f"`{name}`", *counted(rows)] for name, rows in sorted(sources.items())])


def why(each):
    return each.exception.what if each.exception else "**not explained**"


def chosen(verdicts, name):
    return [each for each in verdicts if each.verdict == name and each.format in PROMISED]


def differences(verdicts):
    rows = [[f"`{each.path}`", each.described, each.difference, why(each)] for each in chosen(verdicts, DIFFERENT)]
    return table("Different crops", ["file", "picture", "difference", "why"], rows)


def only_pillow(verdicts):
    rows = [[f"`{each.path}`", each.described, each.difference, why(each)] for each in chosen(verdicts, ONLY_PILLOW)]
    return table("Read by Pillow only", ["file", "picture", "our reason", "why"], rows)


def only_ours(verdicts):
    rows = [[f"`{each.path}`", each.described, each.difference, why(each)] for each in chosen(verdicts, ONLY_OURS)]
    return table("Read by us only", ["file", "picture", "Pillow's reason", "why"], rows)
