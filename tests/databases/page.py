"""Pages of docs/ as code: their blocks by section, and the table of recalls of docs/vector-databases.md.

Owns reading the page. A block of Python that measures begins with a comment, which is its label in the table.
"""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "vector-databases.md"
TYPES = DOCS / "embeddings.md"
ADDRESS = "127.0.0.1:8080"


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: pathlib.Path
    language: str
    text: str
    # The line of the page in front of it.
    line: int

    @property
    def place(self) -> str:
        """Where it is."""
        return f"{self.page.name}:{self.line}"

    @property
    def label(self) -> str | None:
        """What it is called in the table."""
        first = self.text.splitlines()[0]
        return first[2:] if self.language == "python" and first.startswith("# ") else None


def sections(page: pathlib.Path = PAGE) -> dict[str, list[Block]]:
    """The blocks by the heading that they are under; those in front of the first one by ''."""
    found: dict[str, list[Block]] = {"": []}
    heading, language, lines, start = "", None, [], 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if language is None and line.startswith("## "):
            heading = line[3:]
            found[heading] = []
        elif line.startswith("```") and language is None:
            language, lines, start = line[3:], [], number
        elif line == "```":
            found[heading].append(Block(page, language, "\n".join(lines) + "\n", start))
            language = None
        elif language is not None:
            lines.append(line)
    return {heading: blocks for heading, blocks in found.items() if blocks}


def recalls() -> dict[str, float]:
    """What the table says, by label."""
    rows = re.findall(r"^\| ([^|`]+, [^|`]+) \| ([01]\.\d+) \| \d+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {label: float(recall) for label, recall in rows}
