"""Fetches the pictures and says which concept each of them draws.

Everything comes from package registries through their ordinary clients (`npm pack`,
`apt-get download`), at pinned versions, and stays in the data folder: nothing of it is
committed. A *concept* is one of emojibase's emoji (id 0 ... 1948) or, for icons and clip
art which are no emoji, a further id with the picture's own name.
"""
import json
import re
import subprocess
import tarfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

# Emoji drawn by many hands: style -> (npm package, version, licence).
EMOJI_SETS = {
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0"),
    "noto-v1": ("@iconify-json/noto-v1", "1.2.5", "Apache-2.0"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0"),
    "fxemoji": ("@iconify-json/fxemoji", "1.2.2", "Apache-2.0"),
    "emojione": ("@iconify-json/emojione", "1.2.3", "CC-BY-4.0"),
    "emojione-v1": ("@iconify-json/emojione-v1", "1.2.3", "CC-BY-SA-4.0"),
    "emojione-monotone": ("@iconify-json/emojione-monotone", "1.2.1", "CC-BY-4.0"),
    "fluent-emoji": ("@iconify-json/fluent-emoji", "1.2.7", "MIT"),
    "fluent-emoji-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT"),
    "fluent-emoji-high-contrast": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT"),
    "streamline-emojis": ("@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0"),
    "openmoji": ("@iconify-json/openmoji", "1.2.29", "CC-BY-SA-4.0"),
}
# Icon sets of which every icon is taken, with its own name where it is no emoji.
ICON_SETS = {
    "flat-color-icons": ("@iconify-json/flat-color-icons", "1.2.3", "MIT"),
    "game-icons": ("@iconify-json/game-icons", "1.2.4", "CC-BY-3.0"),
    "icon-park": ("@iconify-json/icon-park", "1.2.4", "Apache-2.0"),
    "streamline-ultimate-color": ("@iconify-json/streamline-ultimate-color", "1.2.2", "CC-BY-4.0"),
    "streamline-kameleon-color": ("@iconify-json/streamline-kameleon-color", "1.2.2", "CC-BY-4.0"),
    "streamline-freehand-color": ("@iconify-json/streamline-freehand-color", "1.2.2", "CC-BY-4.0"),
    "streamline-plump-color": ("@iconify-json/streamline-plump-color", "1.2.2", "CC-BY-4.0"),
    "streamline-stickies-color": ("@iconify-json/streamline-stickies-color", "1.2.2", "CC-BY-4.0"),
    "fluent-color": ("@iconify-json/fluent-color", "1.2.21", "MIT"),
    "meteocons": ("@iconify-json/meteocons", "1.2.4", "MIT"),
    "lucide-lab": ("@iconify-json/lucide-lab", "1.2.3", "ISC"),
}
# Icon sets of which only the icons that draw an emoji's concept are taken.
MATCHED_SETS = {
    "icon-park-twotone": ("@iconify-json/icon-park-twotone", "1.2.4", "Apache-2.0"),
    "mdi": ("@iconify-json/mdi", "1.2.3", "Apache-2.0"),
    "tabler": ("@iconify-json/tabler", "1.2.41", "MIT"),
    "ph": ("@iconify-json/ph", "1.2.2", "MIT"),
    "lucide": ("@iconify-json/lucide", "1.2.137", "ISC"),
    "fa6-solid": ("@iconify-json/fa6-solid", "1.2.4", "CC-BY-4.0"),
    "healthicons": ("@iconify-json/healthicons", "1.2.13", "MIT"),
    "temaki": ("@iconify-json/temaki", "1.2.6", "CC0-1.0"),
    "material-symbols": ("@iconify-json/material-symbols", "1.2.98", "Apache-2.0"),
    "mingcute": ("@iconify-json/mingcute", "1.2.8", "Apache-2.0"),
    "solar": ("@iconify-json/solar", "1.2.13", "CC-BY-4.0"),
}
FLAG_SETS = {
    "circle-flags": ("@iconify-json/circle-flags", "1.2.11", "MIT"),
    "flag": ("@iconify-json/flag", "1.2.12", "MIT"),
    "flagpack": ("@iconify-json/flagpack", "1.2.8", "MIT"),
    "cif": ("@iconify-json/cif", "1.2.7", "CC0-1.0"),
}
OTHER_NPM = {
    "emojibase": ("emojibase-data", "17.0.0", "MIT"),
    "fluent-3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "MIT"),
    "noto-mono": ("@fontsource/noto-emoji", "5.3.2", "OFL-1.1"),
}
# Debian packages (bookworm), taken from whatever release the machine runs: (version seen, licence).
DEBIAN = {
    "openclipart": ("openclipart-png", "1:0.18+dfsg-19", "public domain"),
    "tuxpaint": ("tuxpaint-stamps-default", "2022.06.04-1", "GPL-2.0-or-later"),
    "symbola": ("fonts-symbola", "2.60-1.1", "free for any use"),
}
NPM = {**EMOJI_SETS, **ICON_SETS, **MATCHED_SETS, **FLAG_SETS, **OTHER_NPM}

# Never trained on. OpenMoji is the bar; the two others give the further left-out figures.
HELD_OUT = ("openmoji", "fxemoji", "symbola")

# Shares of the draw among the styles of one concept: families with several members weigh less each.
STYLE_WEIGHT = {
    "noto": 1.0, "noto-v1": 1.0, "twemoji": 1.5, "emojione": 1.2, "emojione-v1": 1.0,
    "emojione-monotone": 0.8, "fluent-emoji": 0.6, "fluent-emoji-flat": 1.0, "fluent-3d": 0.6,
    "fluent-emoji-high-contrast": 0.7, "streamline-emojis": 1.5, "noto-mono-300": 0.6,
    "noto-mono-700": 0.4, "openclipart": 1.0, "tuxpaint": 1.0,
}
ICON_WEIGHT = 0.35  # every other style


@dataclass
class Concept:
    """Something with a name. `tags` and `aliases` are further captions."""
    name: str
    hexcode: str = ""
    tags: list = field(default_factory=list)
    aliases: list = field(default_factory=list)
    group: int = -1


@dataclass
class Picture:
    """One drawing: where it is (`kind`, `ref`), in which style, of which concept."""
    style: str
    concept: int
    kind: str  # svg | file | glyph
    ref: object


# ---------------------------------------------------------------- fetching

def _npm_file(folder: Path, package: str, version: str) -> Path:
    return folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"


def fetch(folder: Path, log=print):
    """Downloads what is not there yet: `npm pack` and `apt-get download`."""
    npm, deb, debx = folder / "npm", folder / "deb", folder / "debx"
    npm.mkdir(parents=True, exist_ok=True)
    deb.mkdir(parents=True, exist_ok=True)
    for package, version, _ in NPM.values():
        if not _npm_file(npm, package, version).exists():
            log(f"fetch {package}@{version}")
            subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=npm, check=True,
                           stdout=subprocess.DEVNULL)
    for package, version, _ in DEBIAN.values():
        if (debx / package).exists():
            continue
        found = sorted(deb.glob(f"{package}_*.deb"))
        if not found:
            log(f"fetch {package} (seen here: {version})")
            subprocess.run(["apt-get", "download", package], cwd=deb, check=True,
                           stdout=subprocess.DEVNULL)
            found = sorted(deb.glob(f"{package}_*.deb"))
        debx.mkdir(parents=True, exist_ok=True)  # dpkg-deb makes only the last folder of a path
        subprocess.run(["dpkg-deb", "-x", str(found[-1]), str(debx / package)], check=True)


def _tar(folder: Path, style: str) -> tarfile.TarFile:
    package, version, _ = NPM[style]
    return tarfile.open(_npm_file(folder / "npm", package, version))


def _json(tar: tarfile.TarFile, name: str, default=None):
    try:
        return json.loads(tar.extractfile(f"package/{name}").read())
    except KeyError:
        return default


# ---------------------------------------------------------------- names

def norm(text: str) -> str:
    """'Flag: Côte d’Ivoire' -> 'flag cote d ivoire'."""
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c)).lower()
    return re.sub(r"[^a-z0-9]+", " ", text).strip()


def hexkey(code: str) -> str:
    """A hexcode without variation selectors, '-'-joined, upper case, zero-padded."""
    parts = [p.upper().zfill(4) for p in re.split(r"[-_ ]", code) if p]
    return "-".join(p for p in parts if p != "FE0F")


class Names:
    """Finds the concept that an icon's name or a hexcode means."""

    def __init__(self, folder: Path):
        tar = _tar(folder, "emojibase")
        data = _json(tar, "en/data.json")
        codes = {}
        for preset in ("cldr", "emojibase", "github", "iamcal", "joypixels"):
            for code, value in _json(tar, f"en/shortcodes/{preset}.json", {}).items():
                codes.setdefault(hexkey(code), []).extend([value] if isinstance(value, str) else value)
        data.sort(key=lambda e: (e.get("order", 9999), e["hexcode"]))
        self.concepts, self.by_hex = [], {}
        strong, weak = {}, {}
        for i, e in enumerate(data):
            key = hexkey(e["hexcode"])
            aliases = [a.replace("_", " ").replace("-", " ").lower() for a in codes.get(key, [])]
            if "-" not in key:
                old = unicodedata.name(chr(int(key, 16)), "")
                if old:
                    aliases.append(old.lower())
            aliases = [a for a in dict.fromkeys(aliases) if norm(a) != norm(e["label"])]
            self.concepts.append(Concept(e["label"].lower(), key, e.get("tags", []), aliases,
                                         e.get("group", -1)))
            self.by_hex[key] = i
            strong.setdefault(norm(e["label"]).replace(" ", ""), set()).add(i)
            for a in aliases:
                weak.setdefault(norm(a).replace(" ", ""), set()).add(i)
        # A name counts if it means one concept only; a label beats an alias.
        self.by_name = {k: next(iter(v)) for k, v in weak.items() if len(v) == 1}
        self.by_name.update({k: next(iter(v)) for k, v in strong.items() if len(v) == 1})
        # Iconify's own spellings ("flag-for-france"), read off the sets that give the hexcodes too.
        for style in ("noto", "twemoji", "fluent-emoji-flat"):
            for code, name in _json(_tar(folder, style), "chars.json").items():
                i = self.by_hex.get(hexkey(code))
                if i is not None:
                    self.by_name.setdefault(norm(name).replace(" ", ""), i)
        self.own = {}

    @property
    def emoji(self) -> int:
        return len(self.by_hex)

    def find(self, name: str):
        key = norm(name).replace(" ", "")
        if key in self.by_name:
            return self.by_name[key]
        return self.by_name.get(re.sub(r"\d+$", "", key))

    def find_or_own(self, name: str):
        """The concept of this name; a new one where it is no emoji's."""
        found = self.find(name)
        if found is not None:
            return found
        key = norm(name)
        if key not in self.own:
            self.own[key] = len(self.concepts)
            self.concepts.append(Concept(key))
        return self.own[key]

    def flag(self, country: str):
        key = "-".join(f"{0x1F1E6 + ord(c) - 97:X}" for c in country)
        return self.by_hex.get(key)


# Words at an icon's end that tell how it is drawn, not what.
_VARIANT = re.compile(
    r"(-(outline|outlined|filled|fill|bold|duotone|light|thin|line|linear|solid|flat|duo|twotone|rounded|"
    r"sharp|broken|negative|alt|variant|one|two|three|four|\d+))+$")


def _svg(icons: dict, icon: dict) -> str:
    w, h = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", icons.get("left", 0))} {icon.get("top", icons.get("top", 0))} {w} {h}" '
            f'width="{w}" height="{h}" color="#000">{icon["body"]}</svg>')


def collect(folder: Path):
    """(names, pictures): every picture in the data folder and its concept."""
    names = Names(folder)
    pictures = []
    for style in EMOJI_SETS:
        tar = _tar(folder, style)
        icons = _json(tar, "icons.json")
        chars = {}
        for code, name in _json(tar, "chars.json", {}).items():
            chars.setdefault(name, hexkey(code))
        for name, icon in icons["icons"].items():
            if "skin-tone" in name:
                continue
            i = names.by_hex.get(chars[name]) if name in chars else names.find(name)
            if i is None and style == "streamline-emojis":
                i = names.find_or_own(_VARIANT.sub("", name))
            if i is not None:
                pictures.append(Picture(style, i, "svg", _svg(icons, icon)))
    for style in {**ICON_SETS, **MATCHED_SETS}:
        icons = _json(_tar(folder, style), "icons.json")
        best = {}  # fluent-color repeats an icon in many sizes: keep the largest
        for name, icon in icons["icons"].items():
            size = re.search(r"-(\d+)$", name) if style == "fluent-color" else None
            stem = name[: size.start()] if size else name
            if stem not in best or (size and int(size[1]) > best[stem][0]):
                best[stem] = (int(size[1]) if size else 0, icon)
        per_concept = {}
        for stem, (_, icon) in best.items():
            if re.search(r"-(off|slash|negative)$", stem):
                continue
            base = _VARIANT.sub("", stem) or stem
            i = names.find_or_own(base) if style in ICON_SETS else names.find(base)
            if i is None or per_concept.get(i, 0) >= 3:
                continue
            per_concept[i] = per_concept.get(i, 0) + 1
            pictures.append(Picture(style, i, "svg", _svg(icons, icon)))
    for style in FLAG_SETS:
        icons = _json(_tar(folder, style), "icons.json")
        for name, icon in icons["icons"].items():
            code = re.fullmatch(r"([a-z]{2})(-4x3)?", name)
            i = names.flag(code[1]) if code else None
            if i is not None:
                pictures.append(Picture(style, i, "svg", _svg(icons, icon)))
    # Fluent 3D: files named by hexcode.
    out = folder / "fluent-3d"
    if not out.exists():
        with _tar(folder, "fluent-3d") as tar:
            tar.extractall(out, filter="data")
    for file in sorted((out / "package" / "assets").glob("*.webp")):
        i = names.by_hex.get(hexkey(file.stem))
        if i is not None:
            pictures.append(Picture("fluent-3d", i, "file", str(file)))
    # Two monochrome fonts: single characters only (no shaping needed).
    for weight in (300, 700):
        ttf = folder / f"noto-emoji-{weight}.ttf"
        if not ttf.exists():
            from fontTools.ttLib import TTFont
            with _tar(folder, "noto-mono") as tar:
                woff = tar.extractfile(f"package/files/noto-emoji-emoji-{weight}-normal.woff2")
                font = TTFont(woff)
                font.flavor = None
                font.save(ttf)
        pictures += _glyphs(names, f"noto-mono-{weight}", ttf)
    pictures += _glyphs(names, "symbola", next((folder / "debx").glob("fonts-symbola/**/Symbola*.ttf")))
    # Clip art: the caption is the file's name; the folder's name is a tag. Six of a name are enough.
    seen = {}
    for file in sorted((folder / "debx" / "openclipart-png").glob("**/*.png")):
        words = [w for w in norm(re.sub(r"([a-z])([A-Z])", r"\1 \2", file.stem)).split()
                 if not re.search(r"\d", w) and len(w) > 1]
        # Files end in their author's name: "umbrella_bob_01"; four words tell the subject.
        caption = " ".join(words[:4])
        if len(caption) >= 3:
            i = names.find(caption)
            if i is None and words:
                i = names.find(" ".join(words[:2])) if len(words) > 2 else None
            if i is None:
                i = names.find_or_own(caption)
                folder_name = norm(file.parent.name)
                if folder_name and folder_name not in names.concepts[i].tags and i >= names.emoji:
                    names.concepts[i].tags.append(folder_name)
            seen[i] = seen.get(i, 0) + 1
            if seen[i] <= 6:
                pictures.append(Picture("openclipart", i, "file", str(file)))
    for file in sorted((folder / "debx" / "tuxpaint-stamps-default").glob("**/stamps/**/*")):
        text = file.with_suffix(".txt")
        if file.suffix not in (".png", ".svg") or not text.exists():
            continue
        if file.suffix == ".png" and file.with_suffix(".svg").exists():
            continue
        lines = text.read_text("utf-8", "replace").splitlines()
        caption = norm(re.sub(r"^(an?|the|some) ", "", lines[0].strip().lower())) if lines else ""
        if 3 <= len(caption) <= 60:
            i = names.find_or_own(" ".join(caption.split()[:6]))
            pictures.append(Picture("tuxpaint", i, "file", str(file)))
    return names, pictures


def _glyphs(names: Names, style: str, ttf: Path):
    from fontTools.ttLib import TTFont
    cmap = TTFont(str(ttf), lazy=True).getBestCmap()
    return [Picture(style, i, "glyph", (str(ttf), chr(int(c.hexcode, 16))))
            for i, c in enumerate(names.concepts[:names.emoji])
            if "-" not in c.hexcode and int(c.hexcode, 16) in cmap and int(c.hexcode, 16) > 0xFF]


def summary(names: Names, pictures, ok):
    """style -> [pictures, emoji drawn in it]."""
    out = {}
    for i, p in enumerate(pictures):
        if ok[i]:
            entry = out.setdefault(p.style, [0, set()])
            entry[0] += 1
            if p.concept < names.emoji:
                entry[1].add(p.concept)
    return {s: [n, len(c)] for s, (n, c) in out.items()}
