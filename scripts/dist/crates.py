"""The crates that are linked into the binary, from what `cargo metadata` says and their own folders.

Owns which those are, their licences' files, and that each licence is allowed. Does not own what is no crate (`bundled`).

Invariant: each crate has at least one text, and of its licences at least one alternative is allowed, or there is a `Fault`.
"""

import pathlib
import re
import tomllib

import bundled
import spdx
from component import Component
from fault import Fault

LICENCE_FILE = re.compile(r"(un)?licen[cs]e|copying|copyright|notice|patents|readme\.ijg", re.IGNORECASE)
NO_TEXTS = {".rs", ".c", ".h", ".py", ".json", ".toml", ".yml", ".yaml", ".sh", ".rtf"}


def linked(metadata: dict) -> list[Component]:
    """The crates below the package that reach the program by dependencies that are neither for tests nor for builds, by name and
    version; not the package itself."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    reached, new = {root}, [root]
    while new:
        for id in needed(nodes[new.pop()]):
            if id not in reached:
                reached.add(id)
                new.append(id)
    reached.discard(root)
    allowed = spdx.allowed()
    checksums = locked(pathlib.Path(packages[root]["manifest_path"]).parent / "Cargo.lock")
    found = []
    for id in reached:
        package = packages[id]
        needs = tuple(sorted(ref(packages[other]) for other in needed(nodes[id])))
        found.append(component(package, needs, allowed, checksums))
    return sorted(found, key=lambda crate: (crate.name, crate.version))


def needed(node: dict) -> list[str]:
    """The ids of the crates that a node needs in the program."""
    return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]


def direct(metadata: dict) -> tuple[str, ...]:
    """The `ref`s of what the package itself needs."""
    packages = {package["id"]: package for package in metadata["packages"]}
    root = next(node for node in metadata["resolve"]["nodes"] if node["id"] == metadata["resolve"]["root"])
    return tuple(sorted(ref(packages[id]) for id in needed(root)))


def ref(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def locked(lock: pathlib.Path) -> dict[tuple[str, str], str]:
    """The sha256 of each crate's file, by name and version."""
    packages = tomllib.loads(lock.read_text())["package"]
    return {(package["name"], package["version"]): package.get("checksum", "") for package in packages}


def component(package: dict, needs: tuple[str, ...], allowed: frozenset[str], checksums: dict[tuple[str, str], str]) -> Component:
    name, version = package["name"], package["version"]
    folder = pathlib.Path(package["manifest_path"]).parent
    expression = package.get("license")
    if not expression:
        raise Fault(f"{name} {version} names no licence: do without it")
    try:
        taken = [licences for licences in spdx.alternatives(expression) if licences <= allowed]
    except Fault as fault:
        raise Fault(f"{name} {version}: {fault}") from None
    if not taken:
        raise Fault(f"{name} {version}: {expression} is not among the licences that deny.toml allows")
    texts = licence_files(folder, bundled.NOT_TAKEN.get(name, ()))
    # What lies deeper is of what the crate carries.
    if not any(path.parent == folder or LICENCE_FILE.match(path.parent.name) for path in texts):
        known = spdx.texts_of(taken)
        if not known:
            raise Fault(f"{name} {version} has no file of its licence, {expression}: add its text to scripts/dist/texts and spdx.py")
        texts += known
    if package.get("links") and name not in bundled.LINKING:
        raise Fault(f"{name} {version} links {package['links']}: say in scripts/dist/bundled.py what of that is in the program")
    return Component(
        kind="library",
        name=name,
        version=version,
        ref=ref(package),
        purl=ref(package),
        licence=spdx.normal(expression),
        sha256=checksums.get((name, version), ""),
        texts=tuple(texts),
        needs=needs,
    )


def licence_files(folder: pathlib.Path, not_taken: tuple[str, ...]) -> list[pathlib.Path]:
    """Those of the crate and of what it carries in folders, sorted."""
    named = (path for path in folder.rglob("*") if LICENCE_FILE.match(path.name) and path.suffix.lower() not in NO_TEXTS)
    return sorted(path for path in named if path.is_file() and str(path.relative_to(folder)) not in not_taken)
