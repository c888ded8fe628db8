"""Figures on pictures by hands that were never trained on."""
import numpy as np
import torch

from . import augment, model as clip

EVERYDAY = [
    "cat face", "dog face", "pizza", "rocket", "bicycle", "guitar", "umbrella", "snowman", "sun", "crescent moon",
    "star", "red heart", "fire", "fish", "house", "automobile", "bus", "airplane", "sailboat", "key",
    "alarm clock", "open book", "pencil", "scissors", "soccer ball", "basketball", "trophy", "hamburger", "banana",
    "red apple", "grapes", "strawberry", "carrot", "ice cream", "birthday cake", "hot beverage", "mushroom", "cactus",
    "tulip", "butterfly", "spider", "frog", "elephant", "penguin", "owl", "snail",
]
EVERYDAY_TEMPLATES = ["a picture of a {}", "a drawing of a {}", "an emoji of a {}", "an icon of a {}", "a {}"]


@torch.no_grad()
def encode_names(model, labels, texts, templates=("{}",)):
    """The mean direction of each name over the templates."""
    out = []
    for at in range(0, len(labels), 256):
        total = 0
        for t in templates:
            total = total + clip.text_features(model, *texts([t.format(n) for n in labels[at:at + 256]]))
        out.append(torch.nn.functional.normalize(total, dim=-1))
    return torch.cat(out)


@torch.no_grad()
def encode_pictures(model, array, rows, side):
    from .loop import normalise
    out = []
    for at in range(0, len(rows), 128):
        raw = torch.from_numpy(array[rows[at:at + 128]])
        out.append(clip.image_features(model, normalise(augment.plain(raw, side))))
    return torch.cat(out)


def first_of(pictures, ok, style, emoji):
    """One picture of each concept in a style: rows and concepts."""
    seen = {}
    for i, p in enumerate(pictures):
        if p.style == style and ok[i] and p.concept < emoji:
            seen.setdefault(p.concept, i)
    return np.array(list(seen.values())), torch.tensor(list(seen.keys()))


def recall(image, concept, names):
    order = image @ names.T
    own = order.gather(1, concept[:, None])
    place = (order > own).sum(1)
    return {f"R@{k}": round(100 * (place < k).float().mean().item(), 2) for k in (1, 5, 10)}


def quick(model, names, pictures, ok, array, texts, args):
    """R@k among all the emoji names for every style held out, and the everyday names."""
    labels = [c.name for c in names.concepts[: names.emoji]]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = encode_names(model, labels, texts)
        result = {}
        for style in args.held_out:
            rows, concept = first_of(pictures, ok, style, names.emoji)
            image = encode_pictures(model, array, rows, args.side)
            result[style] = recall(image, concept, plain)
            if style == "openmoji":
                ids = torch.tensor([labels.index(n) for n in EVERYDAY])
                at = {int(c): i for i, c in enumerate(concept)}
                pics = image[[at[int(i)] for i in ids]]
                for key, t in (("everyday", ("{}",)), ("everyday, templates", EVERYDAY_TEMPLATES)):
                    v = encode_names(model, EVERYDAY, texts, t)
                    right = ((pics @ v.T).argmax(1) == torch.arange(len(EVERYDAY))).float().mean().item()
                    result[key] = round(100 * right, 1)
    return result
