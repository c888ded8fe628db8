"""The training itself: two single-threaded workers, each with half of every batch.

Separate processes that meet once a step lose less than one process of two threads, which
meets in every operation - above all on a machine that others use too.
"""
import json
import math
import os
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from . import augment, data, evaluate, model as clip

TEMPLATES = [
    "a picture of a {}", "a drawing of a {}", "an emoji of a {}", "an icon of a {}", "a photo of a {}",
    "clip art of a {}", "a {}", "the {}", "{} emoji", "{} icon", "a picture of {}", "an illustration of a {}",
    "a cartoon of a {}", "a sticker of a {}", "this is a {}", "a picture of the {}", "a symbol of {}",
]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


def normalise(pixels):
    return (pixels - MEAN) / STD


def caption(c, rng, emoji):
    """One of the many ways to say what a concept is."""
    r = rng.random()
    name = c.name
    if name.startswith("flag: ") and rng.random() < 0.4:
        name = rng.choice(["flag of {}", "{} flag", "{}"]).format(name[6:])
    elif c.aliases and rng.random() < 0.2:
        name = c.aliases[rng.integers(len(c.aliases))]
    if not emoji:
        if r < 0.1 and c.tags:
            return f"{name}, {c.tags[rng.integers(len(c.tags))]}"
    elif r < 0.08 and c.tags:
        return f"{name}, {c.tags[rng.integers(len(c.tags))]}"
    elif r < 0.12 and len(c.tags) > 2:
        return " ".join(rng.permutation(c.tags)[:3])
    if r < 0.55:
        return name
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(name)


def corpus(names):
    """What the tokenizer learns its merges from: names (emoji's count most), tags, templates."""
    lines = []
    for i, c in enumerate(names.concepts):
        lines += [c.name] * (4 if i < names.emoji else 1) + c.tags + c.aliases
    return lines + [t.format(x) for t in TEMPLATES for x in ("cat", "dog")] * 8


class Sampler:
    """Draws a worker's share of a batch: concepts, two pictures of each in different styles."""

    def __init__(self, names, pictures, ok, args, rank, world):
        self.names, self.args, self.rank, self.world = names, args, rank, world
        by = {}
        for i, p in enumerate(pictures):
            if ok[i] and p.style not in args.held_out:
                by.setdefault(p.concept, []).append(i)
        weight = lambda i: data.STYLE_WEIGHT.get(pictures[i].style, data.ICON_WEIGHT)
        self.choice = {}
        for c, ids in by.items():
            w = np.array([weight(i) for i in ids])
            self.choice[c] = (np.array(ids), w / w.sum())
        self.emoji = np.array([c for c in sorted(by) if c < names.emoji])
        self.own = np.array([c for c in sorted(by) if c >= names.emoji])

    def draw(self, step):
        rng = np.random.default_rng([self.args.seed, step, self.rank])
        half = self.args.batch // self.world
        n_own = int(half * self.args.own_share)
        n_emoji = (half - n_own) // 2
        # Every emoji equally often: walk through one shuffled deck after another.
        at = (step * self.world + self.rank) * n_emoji
        concepts = []
        for k in range(at, at + n_emoji):
            deck, place = divmod(k, len(self.emoji))
            if not concepts or place == 0:
                order = np.random.default_rng([self.args.seed, deck]).permutation(self.emoji)
            concepts.append(order[place])
        concepts += list(rng.choice(self.own, n_own, replace=False))
        rows = []
        for j, c in enumerate(concepts):
            ids, w = self.choice[c]
            many = 2 if j < n_emoji else 1
            n = min(many, len(ids))
            for i in rng.choice(ids, n, replace=False, p=w):
                rows.append((c, i))
            if n < many:
                rows.append((c, ids[0]))
        captions = [caption(self.names.concepts[c], rng, c < self.names.emoji) for c in concepts]
        return np.array([c for c, _ in rows]), np.array([i for _, i in rows]), np.array(concepts), captions


class Muon:
    """Orthogonalised momentum for the layers' matrices, AdamW for all else.

    The matrices' share of the work is split among the workers; `direction` fills only its
    own part and the caller sums the parts."""

    def __init__(self, model, args):
        self.args = args
        named = list(model.named_parameters())
        self.matrices = [p for n, p in named if p.ndim == 2 and ".layers." in n and args.optimizer == "muon"]
        ids = {id(p) for p in self.matrices}
        self.rest = [p for _, p in named if id(p) not in ids]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        decay = [p for p in self.rest if p.ndim >= 2]
        plain = [p for p in self.rest if p.ndim < 2]
        self.adam = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                      lr=args.lr, betas=(0.9, 0.98), eps=1e-8)

    @torch.no_grad()
    def directions(self, rank, world):
        flat = torch.zeros(sum(p.numel() for p in self.matrices))
        at = 0
        for i, (p, m) in enumerate(zip(self.matrices, self.momentum)):
            m.lerp_(p.grad, 0.05)
            if i % world == rank:
                flat[at:at + p.numel()] = orthogonal(torch.lerp(p.grad, m, 0.95)).reshape(-1)
            at += p.numel()
        return flat

    @torch.no_grad()
    def step(self, flat, factor):
        at, lr = 0, self.args.muon_lr * factor
        for p in self.matrices:
            u = flat[at:at + p.numel()].view_as(p)
            at += p.numel()
            p.mul_(1 - lr * self.args.muon_decay).add_(u, alpha=-lr * max(1, p.shape[0] / p.shape[1]) ** 0.5)
        for group in self.adam.param_groups:
            group["lr"] = self.args.lr * factor
        self.adam.step()

    def state_dict(self):
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        for m, s in zip(self.momentum, state["momentum"]):
            m.copy_(s)
        self.adam.load_state_dict(state["adam"])


def orthogonal(g):
    """The nearest (semi-)orthogonal matrix, by five Newton-Schulz steps in bf16."""
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for a, b, c in [(3.4445, -4.7750, 2.0315)] * 5:
        y = x @ x.T
        x = a * x + (b * y + c * y @ y) @ x
    return (x.T if tall else x).float()


def losses(image, concept, text, said, bank, scale):
    """image, text: unit vectors; concept, said: the concept of each row of theirs; bank: all emoji
    names' vectors, a few steps old.

    Three terms: CLIP's own, both ways, where every row of the same concept is a positive; picture
    to name among all names (the bank holds the right one too, so its age favours none); and
    picture to picture, so that drawings of one concept by different hands meet."""
    eps = 0.05
    same = (concept[:, None] == said[None]).float()
    logits = scale * image @ text.T
    pair = 0
    for x, positive in ((logits, same), (logits.T, same.T)):
        target = positive / positive.sum(1, keepdim=True)
        pair = pair + 0.5 * (x.logsumexp(1) - (1 - eps) * (x * target).sum(1) - eps * x.mean(1)).mean()
    among = torch.zeros(())
    if bank is not None:
        known = concept < len(bank)
        among = F.cross_entropy(scale * image[known] @ bank.T, concept[known], label_smoothing=eps)
    itself = torch.eye(len(concept), dtype=torch.bool)
    others = (concept[:, None] == concept[None]) & ~itself
    rows = others.any(1)
    sim = (10.0 * image @ image.T).masked_fill(itself, -1e4)[rows]
    pos = others[rows].float()
    hands = (sim.logsumexp(1) - (sim * pos).sum(1) / pos.sum(1)).mean()
    return pair, among, hands


def worker(rank, world, args, names, pictures, ok, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    if world > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world)
    say = print if rank == 0 else (lambda *a, **k: None)
    torch.manual_seed(args.seed)
    from tokenizers import Tokenizer
    texts = clip.Texts(Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")))
    model = clip.build(clip.config(args.side, args.patch, args.width, args.layers, args.text_layers, args.width // 64))
    array = np.load(folder / "pictures.npy", mmap_mode="r")
    sampler = Sampler(names, pictures, ok, args, rank, world)
    clip.whiten(model, first_pictures(sampler, array, args))
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = Muon(model, args)
    # Mirroring changes no meaning of people's, animals', food's, travel's and things' pictures.
    flippable = np.array([c.group not in (8, 9) and not {"left", "right", "east", "west"} & set(c.name.replace("-", " ").split())
                          for c in names.concepts])
    params = list(model.parameters())
    step, spent, curve = 0, 0.0, []
    run = folder / args.run
    saved = run / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent, curve = state["average"], state["step"], state["spent"], state["curve"]
        say(f"resumed at step {step}, {spent / 60:.1f} min")
    bank, started, last_save, shown = None, time.time() - spent, time.time(), time.time()
    next_eval = (math.floor(spent / 60 / args.eval_minutes) + 1) * args.eval_minutes
    meters = torch.zeros(3)

    def progress(steps):
        return steps / args.steps if args.steps else (time.time() - started) / 60 / args.minutes

    done = progress(step)
    while done < 1:
        g = torch.Generator().manual_seed((args.seed * 1_000_003 + step) * 64 + rank)
        if step >= 100 and (bank is None or step % args.bank_every == 0):
            bank = name_bank(model, names, texts, rank, world)
        concepts, rows, said, captions = sampler.draw(step)
        raw = torch.from_numpy(array[rows])
        mono = raw[..., :3].flatten(1).amax(1) < 12
        strength = min(1.0, 0.3 + 1.5 * done)  # easier pictures first
        pixels = normalise(augment.augment(raw, mono, torch.from_numpy(flippable[concepts]), args.side, g, strength))
        # Constant, then falling to nothing in a straight line.
        factor = min(1.0, (step + 1) / args.warmup) * min(1.0, (1 - done) / (1 - args.hold))
        drop = args.patch_drop if done < args.full_from else 0.0
        with torch.autocast("cpu", torch.bfloat16):
            image = clip.image_features(model, pixels, drop, args.layer_drop, g)
            text = clip.text_features(model, *texts(captions))
        scale = model.logit_scale.exp()
        parts = losses(image, torch.from_numpy(concepts), text, torch.from_numpy(said), bank, scale)
        loss = parts[0] + 0.5 * parts[1] + 0.5 * parts[2]
        loss.backward()
        # One sum of everything: gradients, losses, and the first worker's clock.
        clock = torch.tensor([progress(step + 1) if rank == 0 else 0.0])
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in params]
                         + [torch.stack(parts).detach(), clock * world])
        if world > 1:
            dist.all_reduce(flat)
        flat /= world
        at = 0
        for p in params:
            p.grad = flat[at:at + p.numel()].view_as(p)
            at += p.numel()
        meters.lerp_(flat[at:at + 3], 0.05 if meters.any() else 1.0)
        done = float(flat[at + 3])
        torch.nn.utils.clip_grad_norm_(optimizer.rest, 2.0)
        moves = optimizer.directions(rank, world)
        if world > 1:
            dist.all_reduce(moves)
        optimizer.step(moves, factor)
        for p in params:
            p.grad = None
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
            decay = min(args.average, (1 + step) / (10 + step))
            for n, p in model.named_parameters():
                average[n].lerp_(p, 1 - decay)
        step += 1
        if rank == 0:
            if time.time() - shown > 20:
                shown = time.time()
                m = meters.tolist()
                left = (shown - started) * (1 / max(done, 1e-6) - 1) / 60
                say(f"[{'#' * int(30 * done):30s}] {100 * done:5.1f} %  step {step}  pairs {m[0]:.3f}  names {m[1]:.3f}  "
                    f"hands {m[2]:.3f}  x{float(scale.detach()):.1f}  {(shown - started) / 60:.1f} min, {left:.0f} left", flush=True)
            minutes = (time.time() - started) / 60
            if minutes >= next_eval or done >= 1:
                next_eval = (math.floor(minutes / args.eval_minutes) + 1) * args.eval_minutes
                with swapped(model, average):
                    figures = evaluate.quick(model, names, pictures, ok, array, texts, args)
                curve.append({"minutes": round(minutes, 1), "step": step, **figures})
                say(json.dumps(curve[-1]), flush=True)
            if time.time() - last_save > 120 or done >= 1:
                last_save = time.time()
                run.mkdir(parents=True, exist_ok=True)
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                            "step": step, "spent": time.time() - started, "curve": curve}, saved.with_suffix(".new"))
                saved.with_suffix(".new").replace(saved)
    if world > 1:
        dist.destroy_process_group()


def first_pictures(sampler, array, args):
    """A thousand training pictures; the same for every worker."""
    rng = np.random.default_rng(args.seed)
    rows = np.array([rng.choice(sampler.choice[c][0]) for c in rng.permutation(sampler.emoji)[:1000]])
    g = torch.Generator().manual_seed(args.seed)
    raw, none = torch.from_numpy(array[rows]), torch.zeros(len(rows), dtype=torch.bool)
    return normalise(augment.augment(raw, none, none, args.side, g, 0.5))


class swapped:
    """Lends a model the averaged weights for a while."""

    def __init__(self, model, average):
        self.model, self.average = model, average

    def __enter__(self):
        self.own = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        with torch.no_grad():
            for n, p in self.model.named_parameters():
                p.copy_(self.average[n])

    def __exit__(self, *_):
        with torch.no_grad():
            for n, p in self.model.named_parameters():
                p.copy_(self.own[n])


@torch.no_grad()
def name_bank(model, names, texts, rank, world):
    """Every emoji's name as a vector; each worker encodes its share."""
    labels = [c.name for c in names.concepts[: names.emoji]]
    mine = sorted(range(rank, len(labels), world), key=lambda i: len(labels[i]))
    out = torch.zeros(len(labels), model.config.projection_dim)
    for at in range(0, len(mine), 128):
        part = mine[at:at + 128]
        with torch.autocast("cpu", torch.bfloat16):
            out[part] = clip.text_features(model, *texts([labels[i] for i in part]))
    if world > 1:
        dist.all_reduce(out)
    return out
