"""One thing that is in the box, as licences and the bill of materials both need it."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Component:
    """`licence` is an SPDX expression; `sha256` that of what it was made from, "" where that is nobody's file; `needs` are names of
    others by `ref`; `files` are those in the box that are its own, by path and sha256."""

    kind: str
    name: str
    version: str
    ref: str
    licence: str
    purl: str = ""
    cpe: str = ""
    sha256: str = ""
    texts: tuple[pathlib.Path, ...] = ()
    needs: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """As people call it."""
        return f"{self.name} {self.version}".strip()
