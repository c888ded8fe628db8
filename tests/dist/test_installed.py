"""The packages where nothing else is: installed as docs/install.md says, asked, ended, taken away."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal

import pytest
from conftest import ROOT, Place, answers_as_the_readme_says, ends_by

CONFIG = "/etc/clipserve/clipserve.toml"


def unit() -> dict[str, list[str]]:
    """The values of deploy/clipserve.service, by key."""
    values: dict[str, list[str]] = {}
    for line in (ROOT / "deploy/clipserve.service").read_text().splitlines():
        if re.match(r"\w+=", line):
            key, value = line.split("=", 1)
            values.setdefault(key, []).append(value)
    return values


def ignored(pid: int) -> list[str]:
    """The signals that a process ignores and blocks, as the kernel says them."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return re.findall(r"^Sig(?:Ign|Blk):\s*(\w+)", status, re.MULTILINE)


def embedded(place: Place, program: str, pictures: str) -> int:
    """How many rows a folder of pictures becomes."""
    place.see(program, "embed", pictures, "--out", "/tmp/out", "--format", "jsonl")
    return sum(len(path.read_text().splitlines()) for path in (place.view / "tmp/out/embeddings").glob("*.jsonl"))


@pytest.fixture(scope="module")
def bare(folder, tarball) -> Place:
    place = Place(pathlib.Path(os.environ["BARE"]), folder)
    for name in ("cargo", "rustc", "python3", "curl"):
        assert not shutil.which(name, path=f"{place.root}/usr/bin:{place.root}/usr/sbin"), f"{name} is there"
    shutil.copy(tarball, place.root)
    place.run("tar", "-xzf", f"/{tarball.name}", "-C", "/opt", "--no-same-owner")
    place.run("ln", "-sfn", tarball.name.removesuffix(".tar.gz"), "/opt/clipserve")
    place.run("install", "-D", "-m", "644", "/opt/clipserve/config/default.toml", CONFIG)
    place.run("install", "-m", "644", "/opt/clipserve/clipserve.service", "/etc/systemd/system/")
    return place


def test_the_unit_s_own_lines_serve_on_a_bare_debian(bare):
    said = unit()
    assert (bare.root / "etc/systemd/system/clipserve.service").read_text() == (ROOT / "deploy/clipserve.service").read_text()
    assert said["LoadCredential"] == [f"clipserve.toml:{CONFIG}"]
    # Where systemd would have put it. The caches that the unit gives are not there, and not needed.
    variables = dict(value.split("=", 1) for value in said["Environment"])
    credentials = str(pathlib.PurePosixPath(CONFIG).parent)
    before, start = (said[key][0].replace("${CREDENTIALS_DIRECTORY}", credentials) for key in ("ExecStartPre", "ExecStart"))
    assert bare.see(*before.split(), **variables) == "configuration ok\n"
    with bare.serving(*start.split(), **variables) as process:
        answers_as_the_readme_says()
        bare.see("/opt/clipserve/clipserve", "healthcheck")
        ends_by(process, signal.SIGTERM, 0)
    assert "8080" in bare.see("/opt/clipserve/clipserve", "healthcheck", code=1)


def test_files_are_embedded_on_a_bare_debian(bare):
    assert embedded(bare, "/opt/clipserve/clipserve", "/opt/clipserve/onnx/examples") == 10


@pytest.fixture(scope="module")
def with_python(folder, wheel) -> Place:
    (folder / "python").mkdir()
    place = Place(pathlib.Path(os.environ["BARE"] + "-python"), folder / "python")
    shutil.copy(wheel, place.root)
    place.run("python3", "-m", "venv", "/opt/venv")
    place.run("/opt/venv/bin/pip", "install", f"/{wheel.name}")
    return place


COMMANDS = [("/opt/venv/bin/clipserve",), ("/opt/venv/bin/python", "-m", "clipserve")]


@pytest.mark.parametrize("command", COMMANDS, ids=["command", "module"])
def test_the_wheel_s_command_is_the_program(with_python, command):
    assert re.fullmatch(r"clipserve [\d.]+\n", with_python.see(*command, "--version"))
    assert "--modle" in with_python.see(*command, "--modle", code=64)
    program, = with_python.root.glob("opt/venv/lib/python3*/site-packages/clipserve/clipserve")
    program = f"/{program.relative_to(with_python.root)}"
    with with_python.serving(program, "serve") as process:
        alone = ignored(process.pid)
        ends_by(process, signal.SIGKILL, -signal.SIGKILL)
    with with_python.serving(*command, "serve") as process:
        # The same process, in which Python is no more, and with the signals that the program has by itself.
        assert os.readlink(f"/proc/{process.pid}/exe").endswith(program)
        assert ignored(process.pid) == alone
        answers_as_the_readme_says()
        with_python.see(*command, "healthcheck")
        ends_by(process, signal.SIGTERM, 0)
    with_python.see(*command, "healthcheck", code=1)


def test_the_wheel_embeds_files(with_python):
    examples, = with_python.root.glob("opt/venv/lib/python3*/site-packages/clipserve/onnx/examples")
    examples = f"/{examples.relative_to(with_python.root)}"
    assert embedded(with_python, "/opt/venv/bin/clipserve", examples) == 10


def test_the_wheel_goes_without_a_trace(with_python):
    assert "No broken requirements" in with_python.run("/opt/venv/bin/pip", "check")
    with_python.run("/opt/venv/bin/pip", "uninstall", "--yes", "clipserve")
    left = [path for path in (with_python.root / "opt/venv").rglob("*") if "clipserve" in path.name or "onnx" in path.name]
    assert left == []
