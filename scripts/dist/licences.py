"""The file of licences: what is in the box, under which licence, and each text once."""

import hashlib
import pathlib

from component import Component
from fault import Fault

HEAD = """\
What is in this box beside clipserve itself, which is under MIT or Apache-2.0 (LICENSE-MIT, LICENSE-APACHE), and the licences of it. Where
one of several may be chosen, the choice is left open below. Texts that are files of their own lie in licenses/.

This software is based in part on the work of the Independent JPEG Group.
"""
RULE = "-" * 100


def written(components: list[Component], folder: pathlib.Path) -> str:
    """The file's text. What is no plain text, and what is in `folder` already, is named there and not repeated; the former is copied."""
    lines = [HEAD]
    texts: dict[str, tuple[str, list[Component]]] = {}
    for component in components:
        if not component.texts:
            raise Fault(f"{component.title} has no licence's text")
        files = []
        for path in component.texts:
            if path.suffix == ".html":
                (folder / f"{component.name}-{path.name}").write_bytes(path.read_bytes())
                files.append(f"{component.name}-{path.name}")
            elif path.parent == folder:
                files.append(path.name)
            else:
                text = read(path)
                texts.setdefault(hashlib.sha256(" ".join(text.split()).encode()).hexdigest(), (text, []))[1].append(component)
        lines.append(f"{component.title}: {component.licence}" + "".join(f"; licenses/{name}" for name in files))
    for text, of in texts.values():
        names = ", ".join(dict.fromkeys(component.title for component in of))
        lines.append(f"\n{RULE}\n{names}\n{RULE}\n\n{text}")
    return "\n".join(lines) + "\n"


def read(path: pathlib.Path) -> str:
    """Some are older than UTF-8."""
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").strip("\n")
