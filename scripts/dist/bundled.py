"""What is in the box and no crate: C that crates carry, Rust's own library, data inside the program, ONNX Runtime, the model.

Owns the list of them, by hand: whoever adds a crate that links C, or a library to the box, adds it here. Does not own crates.

Invariant: every file of the box that is a library or of a model belongs to one component, or there is a `Fault`.
"""

import hashlib
import pathlib
import re
import subprocess

from component import Component
from fault import Fault
from spdx import ROOT, TEXTS

# The crates that link something, and what of it is in the program: those of the table below, or nothing that has a name and a version
# of its own (ring's and rayon's is their own; ONNX Runtime is loaded when the program runs; wasm's is of another system).
LINKING = {"ort-sys", "rayon-core", "ring", "turbojpeg-sys", "wasm-bindgen-shared", "zstd-sys"}

# Files that are the other choice where one of two licences may be taken.
NOT_TAKEN = {"zstd-sys": ("zstd/COPYING",)}  # the GPL; taken is zstd/LICENSE


def carried(package: dict) -> list[Component]:
    """The C library that a crate of `cargo metadata` compiles in, where it does."""
    folder = pathlib.Path(package["manifest_path"]).parent
    if package["name"] == "turbojpeg-sys":
        text, says = (folder / "libjpeg-turbo/CMakeLists.txt").read_text(), r"^set\(VERSION ([\d.]+)\)$"
        tag, cpe, licence = "libjpeg-turbo/libjpeg-turbo@", "libjpeg-turbo:libjpeg-turbo", "IJG AND BSD-3-Clause AND Zlib"
        texts = ("libjpeg-turbo/LICENSE.md", "libjpeg-turbo/README.ijg")
    elif package["name"] == "zstd-sys":
        text, says = package["version"], r"\+zstd\.([\d.]+)$"
        tag, cpe, licence = "facebook/zstd@v", "facebook:zstandard", "BSD-3-Clause"
        texts = ("zstd/LICENSE",)
    else:
        return []
    said = re.search(says, text, re.MULTILINE)
    if not said:
        raise Fault(f"{package['name']} {package['version']} does not say what it carries where it did: see scripts/dist/bundled.py")
    purl = f"pkg:github/{tag}{said[1]}"
    return [
        Component(
            kind="library",
            name=tag.split("/")[1].split("@")[0],
            version=said[1],
            ref=purl,
            purl=purl,
            cpe=f"cpe:2.3:a:{cpe}:{said[1]}:*:*:*:*:*:*:*",
            licence=licence,
            texts=tuple(folder / text for text in texts),
        )
    ]


def inside() -> list[Component]:
    """What else is in the program."""
    version = output("rustc", "-vV").split("release: ")[1].split()[0]
    copyright = pathlib.Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if not copyright.is_file():
        raise Fault(f"{copyright} is not there, the licences of Rust's own library: take a toolchain of rustup")
    return [
        Component(
            kind="library",
            name="rust-std",
            version=version,
            ref=f"pkg:generic/rust-std@{version}",
            purl=f"pkg:generic/rust-std@{version}",
            cpe=f"cpe:2.3:a:rust-lang:rust:{version}:*:*:*:*:*:*:*",
            licence="MIT OR Apache-2.0",
            texts=(copyright,),
        ),
        Component(
            kind="data",
            name="clip-vocabulary",
            version="",
            ref="pkg:github/openai/CLIP",
            purl="pkg:github/openai/CLIP",
            licence="MIT",
            sha256=sha256(ROOT / "src/preprocess/clip_merges.txt.gz"),
            texts=(TEXTS / "clip-vocabulary.txt",),
        ),
    ]


# Where the libraries of each wheel lie in the box, and their licences: ONNX Runtime's, OpenVINO's and oneTBB's, hwloc's.
WHEELS = {
    "onnxruntime": (".", "MIT"),
    "onnxruntime-ep-openvino": ("openvino/plugin", "MIT AND Apache-2.0 AND BSD-3-Clause"),
    "onnxruntime-openvino": ("openvino/runtime", "MIT AND Apache-2.0"),
}


def beside(box: pathlib.Path, version: str) -> list[Component]:
    """What lies beside the program in the folder that is packed, which is of `version`."""
    found, owned = [], set()
    for pinned in sorted((ROOT / "scripts").glob("onnxruntime-*.txt")):
        for name, release in re.findall(r"^(onnxruntime[\w-]*)==([\w.]+)", pinned.read_text(), re.MULTILINE):
            folder, licence = WHEELS.get(name, ("", ""))
            files = sorted((box / folder).glob("lib*.so*")) if folder else []
            if not files:
                continue
            owned.update(files)
            purl = f"pkg:pypi/{name}@{release}"
            found.append(
                Component(
                    kind="library",
                    name=name,
                    version=release,
                    ref=purl,
                    purl=purl,
                    cpe=f"cpe:2.3:a:microsoft:onnxruntime:{release}:*:*:*:*:*:*:*" if name == "onnxruntime" else "",
                    licence=licence,
                    texts=tuple(notices(box, name)),
                    files=hashes(box, files),
                )
            )
    model = [path for path in sorted((box / "onnx/emoji-clip").rglob("*")) if path.is_file()]
    owned.update(model)
    found.append(
        Component(
            kind="machine-learning-model",
            name="emoji-clip",
            version=version,
            ref=f"emoji-clip@{version}",
            licence="MIT OR Apache-2.0",
            texts=(ROOT / "LICENSE-MIT", ROOT / "LICENSE-APACHE"),
            files=hashes(box, model),
        )
    )
    for path in sorted(box.rglob("*")):
        if path.is_file() and (".so" in path.suffixes or path.suffix.startswith(".onnx")) and path not in owned:
            raise Fault(f"{path.relative_to(box)} is nobody's: say in scripts/dist/bundled.py whose it is")
    return found


def notices(box: pathlib.Path, wheel: str) -> list[pathlib.Path]:
    """The texts that came in the wheel, which `dist.sh` has put into licenses/."""
    return sorted((box / "licenses").glob(f"{wheel.replace('-', '_')}-[LTt]*"))


def hashes(box: pathlib.Path, files: list[pathlib.Path]) -> tuple[tuple[str, str], ...]:
    return tuple((str(path.relative_to(box)), sha256(path)) for path in files)


def sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
