"""The wheel: the folder that was packed as a Python package, with a command that becomes the program.

Owns the archive's layout: PEP 427, with the licences of PEP 639 and the bill of materials of PEP 770. Does not own what is in the folder.

Invariant: entries are sorted and carry one time and their modes alone, so that the same folder makes the same bytes.
"""

import base64
import hashlib
import pathlib
import time
import zipfile

HERE = pathlib.Path(__file__).resolve().parent

# What is for whoever unpacks the other archive; a wheel has its own places for the rest of it.
LEFT_OUT = {"README.md", "clipserve.service", "config", "docs"}


def written(box: pathlib.Path, out: pathlib.Path, *, package: dict, tag: str, epoch: int) -> pathlib.Path:
    """Writes the wheel of `box` into the folder `out`, for the platform `tag`; `package` is what `cargo metadata` says of ours."""
    version = package["version"] + ("+openvino" if (box / "openvino").is_dir() else "")
    info = f"clipserve-{version}.dist-info"
    texts = sorted([*box.glob("LICENSE-*"), *(box / "licenses").iterdir()])
    bill = box / "clipserve.cdx.json"
    entries: dict[str, tuple[bytes, int]] = {}
    for path in sorted(box.rglob("*")):
        name = str(path.relative_to(box))
        if path.is_file() and path not in texts and path != bill and name.split("/")[0] not in LEFT_OUT:
            entries[f"clipserve/{name}"] = (path.read_bytes(), path.stat().st_mode & 0o111)
    for source in sorted((HERE / "package").glob("*.py")):
        entries[f"clipserve/{source.name}"] = (source.read_bytes(), 0)
    for path in texts:
        entries[f"{info}/licenses/{path.relative_to(box)}"] = (path.read_bytes(), 0)
    entries[f"{info}/sboms/{bill.name}"] = (bill.read_bytes(), 0)
    entries[f"{info}/entry_points.txt"] = (b"[console_scripts]\nclipserve = clipserve.__main__:main\n", 0)
    entries[f"{info}/METADATA"] = (metadata(version, package, [str(path.relative_to(box)) for path in texts]).encode(), 0)
    entries[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: clipserve ({package['version']})\nRoot-Is-Purelib: false\nTag: py3-none-{tag}\n".encode(),
        0,
    )
    record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, (data, _) in sorted(entries.items()))
    wheel = out / f"clipserve-{version}-py3-none-{tag}.whl"
    with zipfile.ZipFile(wheel, "x", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, (data, executable) in [*sorted(entries.items()), (f"{info}/RECORD", (f"{record}{info}/RECORD,,\n".encode(), 0))]:
            entry = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(entry, data)
    return wheel


def metadata(version: str, package: dict, texts: list[str]) -> str:
    head = [
        "Metadata-Version: 2.4",
        "Name: clipserve",
        f"Version: {version}",
        f"Summary: {package['description']}",
        f"License-Expression: {package['license']}",
        *(f"License-File: {text}" for text in texts),
        "Requires-Python: >=3.8",
        "Description-Content-Type: text/markdown; charset=UTF-8",
    ]
    return "\n".join(head) + "\n\n" + (HERE.parents[1] / "README.md").read_text()


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
