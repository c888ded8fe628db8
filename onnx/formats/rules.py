"""What open_clip, OpenAI's code and Immich make of pictures and texts before a model sees them.

    python -P onnx/formats/rules.py --pictures tests/fixtures/images tests/fixtures/pictures/tiff \
        --tokenizer tests/fixtures/tiny-clip/tokenizer.json --immich CHECKOUT/machine-learning --texts tests/fixtures/golden/naughty_ids.json ... \
        --out tests/fixtures/golden/rules.json

With `--random N` pictures of every kind of `benches/pictures/made` (N of each), and 500 * N texts, are made and taken as well; the pictures
are put into the first folder:

    python -P onnx/formats/rules.py --random 4 --seed 1 --pictures target/bench/rules/pictures --tokenizer ... --immich ... \
        --out target/bench/rules/goldens.json
    cargo test --lib -- --ignored other_goldens

Without `-P` Python takes the module beside this one for open_clip.

Wants open_clip_torch 3.3.0 (which brings torchvision and ftfy), Pillow 13, tokenizers; clip-anytorch for OpenAI's `clip.tokenize`; and a
checkout of Immich; for `--random` imagecodecs. A crop is the u8 samples before they are scaled; its SHA-256 is what is written.
"""

import argparse
import hashlib
import io
import json
import random
import sys
import types
from pathlib import Path

import ftfy
import numpy as np
import open_clip
import PIL
import torchvision
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tokenizers import Tokenizer

# By their names in the golden: what a `preprocess_cfg.json` says.
TRANSFORMS = {
    "shortest": {"size": 224},
    "bilinear": {"size": [65, 65], "interpolation": "bilinear"},
    "cover": {"size": [64, 97], "interpolation": "bilinear"},
    "longest": {"size": [90, 61], "resize_mode": "longest", "fill_color": 77},
    "squash": {"size": [48, 80], "resize_mode": "squash"},
}
IMMICH = {
    "shortest": {"size": [224, 224], "interpolation": "bicubic"},
    "lanczos": {"size": 57, "interpolation": "lanczos", "resize_mode": "shortest"},
    "squash": {"size": 60, "interpolation": "bilinear", "resize_mode": "squash"},
}


# What texts.json and the naughty strings lack: misread encodings, references, and each library's special tokens.
TEXTS = [
    "schÃ¶n, it\u2019s a \u201ccafÃ©\u201d",
    "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.",
    "voilÃ le travail",
    "Ã  la mode, fÃ cil, Ã quele",
    "P&EACUTE;REZ &notit; &amp;amp;lt; &#x80; &#xD800; &#65x &nGt; &COPY &copy",
    "<b>&eacute;</b>",
    "a&nbsp;b&#10;c &#0;&#1;&#x1c;d",
    "ＬＯＵＤ　ＮＯＩＳＥＳ ｱｲｳ",
    "ﬂuﬃeﬆ ŉ ǅ Ĳ",
    "\x1b[36;44mblue\x1b[0m \x1b[x",
    "a\u2028b\u2029c\x85d\re\r\nf\x0bg\x1ch",
    "ð\x9f\x92©  â€œ like this â€\ufffd",
    "вЂњРєРѕС‚вЂќ ГўВЂВ™s ā€“ β€™ √± ‚Äù ≈°",
    "Ð¡Ð¾Ð±Ð°ÐºÐ° Ø¹Ø±Ø¨ÙŠ à¸«à¸¡à¸²",
    "\xed\xa0\xbd\xed\xb8\x8d Ã À\x80",
    "<start_of_text>cat<end_of_text> a!<end_of_text> <END_OF_TEXT>",
    "<|startoftext|>cat<|endoftext|> a!<|endoftext|> <|EndOfText|>",
    "it'S I'LL we\u2019ve '\u017f \u212a",
    "snake_case, (Brackets)... and_more!",
    "İSTANBUL ΣΑΣ ẞ",
    "\u3000\u2003 spaces\u00a0everywhere \u180e",
    "e\u0301 \u1112\u1161\u11ab \u0958",
    "word " * 90,
]


def samples(crop):
    return np.ascontiguousarray(np.asarray(crop)).tobytes()


def digest(crop):
    return hashlib.sha256(samples(crop)).hexdigest()


def open_clip_crop(config):
    """`image_transform` up to where samples become floats: the last two steps."""
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    steps = transform.transforms[:-2]
    assert [type(step).__name__ for step in transform.transforms[-2:]] == ["MaybeToTensor", "Normalize"]

    def crop(data):
        picture = Image.open(io.BytesIO(data))
        for step in steps:
            picture = step(picture)
        return picture

    return crop


def immich_crop(config, transforms):
    size = config["size"][0] if isinstance(config["size"], list) else config["size"]
    resampling = transforms.get_pil_resampling(config["interpolation"])

    def crop(data):
        picture = transforms.decode_pil(data)
        if config.get("resize_mode") == "squash":
            return picture.resize((size, size), resample=resampling)
        return transforms.crop_pil(transforms.resize_pil(picture, size, resampling), size)

    return crop


def immich_transforms(checkout):
    # What its module imports and these functions do not use.
    for name in ("cv2", "orjson"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.path.insert(0, checkout)
    from immich_ml.models import transforms

    return transforms


def tokenizers(tokenizer, transforms):
    """Each way from a text to its ids, without padding."""
    import clip

    whole = Tokenizer.from_file(tokenizer)
    whole.no_padding()
    whole.enable_truncation(max_length=77)

    def until_end(ids, end=49407):
        # Padding is zeros, which are a token too: the end is the last end token.
        ids = ids.tolist()
        return ids[: len(ids) - ids[::-1].index(end)]

    def simple(**settings):
        made = SimpleTokenizer(**settings)
        return lambda text: until_end(made([text])[0])

    def hugging_face(clean):
        clean = get_clean_fn(clean)
        return lambda text: whole.encode(clean(text)).ids

    return {
        "open_clip": simple(),
        "open_clip_whitespace": simple(clean="whitespace"),
        "open_clip_canonicalize": simple(clean="canonicalize"),
        "open_clip_hf": hugging_face("whitespace"),
        "openai": lambda text: until_end(clip.tokenize([text], truncate=True)[0]),
        "immich": lambda text: whole.encode(transforms.clean_text(text)).ids,
        "immich_canonicalize": lambda text: whole.encode(transforms.clean_text(text, canonicalize=True)).ids,
    }


def make_pictures(folder, count, seed):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches/pictures"))
    import made

    folder.mkdir(parents=True, exist_ok=True)
    for _, name, data in made.pictures(count, seed, "", damaged=False):
        (folder / name).write_bytes(data)


def random_texts(count, seed):
    """Words, parts of `TEXTS`, references, misread encodings and characters from all over Unicode, side by side and in each other."""
    chance = random.Random(seed)
    words = "a photo of the quick brown fox jumps over lazy dogs 2024 don't l'été naïve STRASSE straße 你好 кот Ελλάδα".split()

    def character():
        while True:
            code = chance.choice([chance.randrange(0x250), chance.randrange(0x3400), chance.randrange(0x20000)])
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def misread():
        text = chance.choice(words) + character() + chance.choice("’“”é–…ñ")
        return text.encode().decode(chance.choice(["latin-1", "cp1252", "cp1251", "cp437"]), errors="replace")

    def part():
        text = chance.choice(TEXTS)
        start = chance.randrange(len(text))
        return text[start : start + chance.randint(1, 12)]

    ways = [
        lambda: chance.choice(words),
        lambda: "".join(character() for _ in range(chance.randint(1, 4))),
        lambda: f"&{chance.choice(['amp', 'lt', 'eacute', 'nbsp', 'copy', 'Uuml', f'#{chance.randrange(0x3000)}'])}{chance.choice([';', ''])}",
        misread,
        part,
    ]
    for _ in range(count):
        pieces = (chance.choice(ways)() for _ in range(chance.randint(1, 12)))
        yield "".join(piece + chance.choice(["", " ", " ", ", ", "\u3000", "!"]) for piece in pieces)


def read_texts(paths):
    for path in paths:
        read = json.loads(Path(path).read_text())
        for text in read["texts"] if isinstance(read, dict) else read:
            yield text["text"] if isinstance(text, dict) else text


def crops_of(transforms, pictures):
    made = {}
    for name, (config, crop) in transforms.items():
        crops = {}
        for picture in pictures:
            try:
                crops[picture.name] = digest(crop(picture.read_bytes()))
            except Exception as error:  # what the library refuses has no golden
                print(f"{name}: {picture.name}: {error}", file=sys.stderr)
        made[name] = {"config": config, "crops": crops}
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--immich", required=True)
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--random", type=int, default=0, metavar="N", help="make N pictures of each kind, and 500 * N texts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    transforms = immich_transforms(args.immich)
    folders = [Path(folder) for folder in args.pictures]
    if args.random:
        make_pictures(folders[0], args.random, args.seed)
    # What lies beside a TIFF is what Pillow shows of it.
    pictures = sorted(path for folder in folders for path in folder.iterdir() if path.is_file() and path.suffix != ".ppm")
    ways = tokenizers(args.tokenizer, transforms)
    texts = list(dict.fromkeys([*TEXTS, *read_texts(args.texts), *random_texts(500 * args.random, args.seed)]))
    full = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    golden = {
        "versions": {
            "open_clip": open_clip.__version__,
            "torchvision": torchvision.__version__,
            "Pillow": PIL.__version__,
            "ftfy": ftfy.__version__,
        },
        "open_clip": crops_of({name: (config, open_clip_crop(config)) for name, config in TRANSFORMS.items()}, pictures),
        "immich": crops_of(
            {name: (config | full, immich_crop(config, transforms)) for name, config in IMMICH.items()}, pictures
        ),
        "texts": [{"text": text, "ids": {name: tokenize(text) for name, tokenize in ways.items()}} for text in texts],
    }
    # Most ways agree on most texts: only what differs from the first one is written.
    for text in golden["texts"]:
        first = text["ids"]["open_clip"]
        text["ids"] = {name: ids for name, ids in text["ids"].items() if name == "open_clip" or ids != first}
    lines = ",\n".join(json.dumps(text, ensure_ascii=False) for text in golden.pop("texts"))
    head = json.dumps(golden, indent=1)
    Path(args.out).write_text(f'{head[:-2]},\n "texts": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
