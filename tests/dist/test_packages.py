"""What is in the packages: the same bytes each time, what belongs there, whose it is, and where a debugger finds its lines."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from conftest import DIST, ONNXRUNTIME, ROOT, one
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.metadata import Metadata
from packaging.utils import parse_wheel_filename

LIBRARY = f"libonnxruntime.so.{ONNXRUNTIME}"


def output(*command: object) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def test_two_runs_give_the_same_bytes():
    again = pathlib.Path(os.environ["AGAIN"])
    names = sorted(path.name for path in DIST.iterdir())
    assert names == sorted(path.name for path in again.iterdir()) and len(names) == 5
    for name in names:
        assert (DIST / name).read_bytes() == (again / name).read_bytes(), name


def test_the_sums_are_those_of_the_files():
    said = dict(reversed(line.split("  ")) for line in (DIST / "SHA256SUMS").read_text().splitlines())
    assert said == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in DIST.iterdir() if path.name != "SHA256SUMS"}


def test_the_tarball_holds_one_folder_of_nobody(tarball):
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "-C", ROOT, "log", "-1", "--format=%ct"))
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
    top = tarball.name.removesuffix(".tar.gz")
    assert [member.name for member in members] == sorted((member.name for member in members), key=lambda name: name.encode())
    for member in members:
        assert member.name == top or member.name.startswith(f"{top}/")
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", epoch), member.name
        assert member.isdir() or member.isfile(), member.name
        assert member.mode == (0o755 if member.isdir() or member.name == f"{top}/clipserve" else 0o644), member.name
    names = {member.name.removeprefix(f"{top}/") for member in members}
    assert names >= {
        "clipserve",
        LIBRARY,
        "config/default.toml",
        "clipserve.service",
        "onnx/emoji-clip/onnx/vision_model.onnx",
        "onnx/emoji-clip/onnx/text_model.onnx",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "licenses/THIRD-PARTY.txt",
        "licenses/onnxruntime-LICENSE",
        "licenses/onnxruntime-ThirdPartyNotices.txt",
        "licenses/rust-std-COPYRIGHT-library.html",
        "clipserve.cdx.json",
        "README.md",
        "docs/install.md",
    }


@pytest.fixture(scope="module")
def unpacked(tarball, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xzf", tarball, "-C", folder], check=True)
    return folder / tarball.name.removesuffix(".tar.gz")


def test_the_bill_of_materials_is_one(bill, tarball, unpacked):
    text = (unpacked / "clipserve.cdx.json").read_text()
    assert json.loads(text) == bill
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    refs = [component["bom-ref"] for component in bill["components"]]
    assert len(refs) == len(set(refs))
    # Everything is needed by something, and nothing is needed that is not there.
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    reached, new = set(), [bill["metadata"]["component"]["bom-ref"]]
    while new:
        ref = new.pop()
        if ref not in reached:
            reached.add(ref)
            new += needs[ref]
    assert reached == {*refs, bill["metadata"]["component"]["bom-ref"]}


def test_the_bill_has_each_crate_that_cargo_links(bill):
    manifest = ROOT / "Cargo.toml"
    tree = output(*"cargo tree --locked --offline --edges normal --prefix none --format {p} --manifest-path".split(), manifest)
    linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line and not line.startswith("clipserve ")}
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    sums = {(package["name"], f"v{package['version']}"): package.get("checksum") for package in locked}
    billed = {
        (component["name"], f"v{component['version']}"): component["hashes"][0]["content"]
        for component in bill["components"]
        if component["bom-ref"].startswith("pkg:cargo/")
    }
    assert len(linked) > 200 and linked <= billed.keys(), linked - billed.keys()
    assert billed.items() <= sums.items()


def test_the_bill_has_the_files_that_are_there(bill, unpacked):
    files = {file["name"]: file["hashes"][0]["content"] for component in bill["components"] for file in component.get("components", [])}
    files["clipserve"] = bill["metadata"]["component"]["hashes"][0]["content"]
    assert {LIBRARY, "onnx/emoji-clip/onnx/vision_model.onnx_data"} <= files.keys()
    for name, sum in files.items():
        assert hashlib.sha256((unpacked / name).read_bytes()).hexdigest() == sum, name


def test_each_component_has_its_licence(bill, unpacked):
    lines = (unpacked / "licenses/THIRD-PARTY.txt").read_text().splitlines()
    for component in bill["components"]:
        title = f"{component['name']} {component.get('version', '')}".strip()
        assert sum(line.startswith(f"{title}: ") for line in lines) >= 1, title
        at_files = [line for line in lines if line.startswith(f"{title}: ") and "; licenses/" in line]
        named = [line for line in lines if title in line.split(", ")]
        assert at_files or named, title
        for line in at_files:
            for file in line.split("; ")[1:]:
                assert (unpacked / file).stat().st_size > 0, file


def test_a_debugger_finds_the_lines_by_the_build_id(unpacked, tmp_path):
    build_id = re.search(r"Build ID: (\w+)", output("readelf", "--notes", unpacked / "clipserve"))[1]
    sections = output("readelf", "--sections", "--wide", unpacked / "clipserve")
    assert ".text" in sections and not re.search(r"\.debug_(info|line)|\.symtab", sections)
    subprocess.run(["tar", "-xzf", one("clipserve-*-debug.tar.gz"), "-C", tmp_path], check=True)
    lines = tmp_path / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    assert f"Build ID: {build_id}" in output("readelf", "--notes", lines)
    symbols = output("nm", "--demangle", "--defined-only", lines)
    address = re.search(r"^(\w+) \w clipserve::main(?:::h\w+)?$", symbols, re.MULTILINE)[1]
    assert re.search(r"src/main\.rs:\d+", output("addr2line", "--exe", lines, f"0x{address}"))


def test_the_wheel_says_what_it_is(wheel, tarball):
    name, version, _, tags = parse_wheel_filename(wheel.name)
    tag, = tags
    assert name == "clipserve" and f"-{version}-" in tarball.name
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        info = f"clipserve-{version}.dist-info"
        described = Metadata.from_email(archive.read(f"{info}/METADATA"), validate=True)
        assert described.license_expression == "MIT OR Apache-2.0" and described.description.startswith("# clipserve")
        assert {f"{info}/licenses/{file}" for file in described.license_files} == {name for name in entries if "/licenses/" in name}
        assert f"Tag: py3-none-{tag.platform}\n" in archive.read(f"{info}/WHEEL").decode()
        assert list(entries)[:-1] == sorted(entries.keys() - {f"{info}/RECORD"})
        assert f"{info}/sboms/clipserve.cdx.json" in entries
    # An independent judge of the symbols: the oldest system on which they are.
    said = output(pathlib.Path(sys.executable).parent / "auditwheel", "show", wheel)
    assert f'"{tag.platform}"' in " ".join(said.split()), said
