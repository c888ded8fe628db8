#!/usr/bin/env python3
"""Our pictures beside those of Pillow and transformers: which files each reads, which crops are equal, how far the others are.

    make pictures ARGS="FOLDER..."          writes docs/pictures.md about the files of the folders; by default about our fixtures
    make pictures ARGS="--random 20"        makes 20 pictures of each kind that it knows, and compares what is decoded
    make pictures ARGS="--damage 20"        the same, each damaged: cut, or with other bytes
    make pictures ARGS="--random 200 --kind tiff --seed 7"

What differs otherwise than `verdicts.EXCEPTIONS` says is printed, and the exit code is then 1; made pictures that do are kept.
"""

import argparse
import importlib.metadata
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import document
import made
import tally
from programs import Sides
from verdicts import verdict

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, help="of pictures; other files do no harm")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/pictures.md", help="where the document is written")
    parser.add_argument("--random", type=int, metavar="N", help="make N pictures of each kind")
    parser.add_argument("--damage", type=int, metavar="N", help="make N pictures of each kind, and damage them")
    parser.add_argument("--kind", default="", metavar="TEXT", help="only kinds that have this in their name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, default=ROOT / "target/bench/pictures-found", help="where pictures are kept that differ")
    parser.add_argument("--ours", type=shlex.split, help="the program to ask in place of benches/pictures/main.rs")
    args = parser.parse_args()

    # Of Pillow's writers, about EXIF that is odd on purpose.
    warnings.simplefilter("ignore")
    ours = args.ours or built()
    if args.random or args.damage:
        return compare_made(ours, args)
    return compare_folders(ours, args)


def built():
    """The path of `cargo bench --bench pictures`."""
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "pictures", "--message-format", "json-render-diagnostics"]
    lines = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    artifacts = [message for message in map(json.loads, lines) if message["reason"] == "compiler-artifact"]
    return [next(artifact["executable"] for artifact in artifacts if artifact["target"]["name"] == "pictures")]


def compare_folders(ours, args):
    folders = args.folders or [FIXTURES]
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    names = {path: str(path.relative_to(folder)) for folder, path in files}
    started = time.monotonic()
    with Sides(ours, "crop") as sides:
        verdicts = list(sides.compare(names, lambda path, theirs, ours: verdict(path, names[path], theirs, ours)))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pillow", "transformers"))
    args.out.write_text(document.of(verdicts, versions))
    print(f"{len(files)} files in {time.monotonic() - started:.0f} s: {args.out}")
    return tally.of_folders(verdicts)


def compare_made(ours, args):
    with tempfile.TemporaryDirectory() as folder, Sides(ours, "picture") as sides:
        paths = {}
        for kind, path, data in made.pictures(args.random or args.damage, args.seed, args.kind, damaged=bool(args.damage)):
            paths[pathlib.Path(folder, path)] = kind
            pathlib.Path(folder, path).write_bytes(data)
        verdicts = list(sides.compare(paths, lambda path, theirs, ours: verdict(path, path.name, theirs, ours, bool(args.damage))))
        args.keep.mkdir(parents=True, exist_ok=True)
        for each in verdicts:
            if each.unexplained:
                shutil.copy(pathlib.Path(folder, each.path), args.keep)
    print(f"Those that differ are kept in {args.keep}.")
    return tally.of_kinds(verdicts, paths.values())


if __name__ == "__main__":
    sys.exit(main())
