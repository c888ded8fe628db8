#!/usr/bin/env python3
"""Trains the small CLIP of emoji, icons and clip art that lies in `emoji-clip/`.

    pip install -r onnx/requirements.txt
    python onnx/train.py

One command, five stages; each is skipped where its result is already there, and the
training resumes from its last checkpoint (written every two minutes):

    fetch      pictures and names from npm and Debian (`npm pack`, `apt-get download`), 0.6 GB
    rasterise  every picture once, to 112 x 112 RGBA, into one memory-mapped file of 2.3 GB
    train      45 minutes on two cores by default (--minutes, or --steps for a fixed number)
    save       the averaged weights in the Hugging Face layout (F16)  -> --out
    evaluate   the figures of the model card, through transformers    -> results.json, training_curve.svg

Needs npm, apt-get and dpkg-deb (Debian 12, after `apt-get update`), two cores and 8 GB of memory, no GPU.
Everything is seeded. With --minutes the number of steps depends on the machine; with --steps
the same machine and the same pinned packages repeat a run.
"""
import argparse
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from training import curve, data, export, loop, model as clip, rasters  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=HERE / ".data", help="where downloads, pictures and checkpoints go")
    p.add_argument("--out", type=Path, default=HERE / "emoji-clip", help="where the checkpoint goes")
    p.add_argument("--run", default="run", help="the training's name: its folder under --data")
    p.add_argument("--held-out", nargs="*", default=list(data.HELD_OUT), help="styles never trained on")
    p.add_argument("--minutes", type=float, default=45, help="the training's length; the learning rate follows it")
    p.add_argument("--steps", type=int, default=0, help="a fixed number of steps instead of --minutes")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--workers", type=int, default=2, help="single-threaded processes, one a core")
    p.add_argument("--port", type=int, default=29700, help="where on the loopback the workers meet")
    p.add_argument("--eval-minutes", type=float, default=5)
    shape = p.add_argument_group("model")
    shape.add_argument("--side", type=int, default=96)
    shape.add_argument("--patch", type=int, default=16)
    shape.add_argument("--width", type=int, default=192)
    shape.add_argument("--layers", type=int, default=6)
    shape.add_argument("--text-layers", type=int, default=3)
    how = p.add_argument_group("training")
    how.add_argument("--batch", type=int, default=256, help="pictures a step, all workers together")
    how.add_argument("--own-share", type=float, default=0.08, help="share of icons and clip art that are no emoji")
    how.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    how.add_argument("--lr", type=float, default=1e-3, help="AdamW's learning rate")
    how.add_argument("--muon-lr", type=float, default=0.006)
    how.add_argument("--muon-decay", type=float, default=0.02)
    how.add_argument("--warmup", type=int, default=40, help="steps")
    how.add_argument("--hold", type=float, default=0.3, help="share of the training before the learning rate falls")
    how.add_argument("--patch-drop", type=float, default=0.4, help="share of the patches left out of each picture ...")
    how.add_argument("--full-from", type=float, default=0.85, help="... until this share of the training")
    how.add_argument("--layer-drop", type=float, default=0.1, help="stochastic depth of the last layer")
    how.add_argument("--average", type=float, default=0.995, help="the weights' moving average")
    how.add_argument("--bank-every", type=int, default=10, help="steps between two encodings of all names")
    return p.parse_args()


def main():
    args = arguments()
    from tqdm import tqdm
    progress = lambda it, **k: tqdm(it, mininterval=2, **k)

    args.data.mkdir(parents=True, exist_ok=True)
    data.fetch(args.data)
    names, pictures = data.collect(args.data)
    _, ok = rasters.rasterise(args.data, pictures, progress)
    counts = data.summary(names, pictures, ok)
    print(f"{int(ok.sum())} pictures, {names.emoji} emoji, {len(names.concepts) - names.emoji} other names")

    tokenizer = args.data / "tokenizer"
    if not (tokenizer / "tokenizer.json").exists():
        # The BPE trainer breaks ties at random: a checkpoint that is there keeps its vocabulary.
        if (args.out / "tokenizer.json").exists():
            tokenizer.mkdir()
            for name in ("tokenizer.json", "vocab.json", "merges.txt"):
                shutil.copyfile(args.out / name, tokenizer / name)
        else:
            clip.train_tokenizer(loop.corpus(names), tokenizer)

    checkpoint = args.data / args.run / "checkpoint.pt"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.workers == 1:
        loop.worker(0, 1, args, names, pictures, ok, args.data)
    else:
        import torch.multiprocessing as mp
        mp.spawn(loop.worker, (args.workers, args, names, pictures, ok, args.data), nprocs=args.workers)

    import torch
    state = torch.load(checkpoint, weights_only=False)
    cfg = clip.config(args.side, args.patch, args.width, args.layers, args.text_layers, args.width // 64)
    model = clip.build(cfg)
    model.load_state_dict(state["average"], strict=False)
    export.save(model, cfg, tokenizer, args.out)

    torch.set_num_threads(args.workers)
    figures = export.final(args.out, names, pictures, ok, args.held_out, HERE / "examples")
    figures = {"training": {"minutes": round(state["spent"] / 60, 1), "steps": state["step"],
                            "pictures seen": state["step"] * args.batch, "seed": args.seed,
                            "parameters": sum(p.numel() for p in model.parameters())},
               "pictures": counts, "figures": figures, "curve": state["curve"]}
    (args.data / args.run / "results.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    (HERE / "training_curve.svg").write_text(curve.draw(state["curve"]), "utf-8")
    print(json.dumps(figures["figures"], indent=1))


if __name__ == "__main__":
    main()
