"""The packages, and the clean roots that they are installed into.

Owns finding them, the roots and their end, and running the program in one. Does not own what is asked of it (test_*.py).

Invariants: no test reaches a network, and nothing that a program does under test can write below its root; the roots that `run.sh` made
stay as they are, since each test has copies, which are gone with the namespace that holds their mounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import tempfile
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIST = ROOT / "target" / "dist"

# Its version, as it is pinned.
ONNXRUNTIME = re.search(r"^onnxruntime==(\S+)", (ROOT / "scripts/onnxruntime-cpu.txt").read_text(), re.MULTILINE)[1]

# Nobody in particular.
USER = "65532:65532"

PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def one(pattern: str) -> pathlib.Path:
    """The file of the packed folder that has this name."""
    found = sorted(DIST.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


@pytest.fixture(scope="session")
def tarball() -> pathlib.Path:
    return one("clipserve-*-linux.tar.gz")


@pytest.fixture(scope="session")
def wheel() -> pathlib.Path:
    return one("clipserve-*.whl")


@pytest.fixture(scope="session")
def bill() -> dict:
    return json.loads(one("clipserve-*.cdx.json").read_text())


@pytest.fixture(scope="session", autouse=True)
def network() -> None:
    """There is nothing but the loopback device, which is down in a new namespace."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "run this by tests/dist/run.sh"
    up, running, set_flags = 0x1, 0x40, 0x8914
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up | running))


class Place:
    """A copy of a root: `run` changes it, programs see it by `view`, where only /tmp can be written to."""

    def __init__(self, original: pathlib.Path, folder: pathlib.Path):
        self.root, self.view = folder / "root", folder / "view"
        subprocess.run(["cp", "-a", original, self.root], check=True)
        self.view.mkdir()
        for command in (
            ["mount", "-t", "proc", "proc", self.root / "proc"],
            ["mount", "--rbind", self.root, self.view],
            ["mount", "-o", "remount,bind,ro", self.view],
            ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", self.view / "tmp"],
        ):
            subprocess.run(command, check=True)

    def run(self, *command: str, code: int = 0) -> str:
        """As root, with the root open for changes; what it prints."""
        return self._run(["chroot", self.root, *command], code)

    def see(self, *command: str, code: int = 0, **variables: str) -> str:
        """As nobody in particular, with nothing to write to; what it prints."""
        return self._run(["chroot", f"--userspec={USER}", self.view, *command], code, **variables)

    def _run(self, command: list, code: int, **variables: str) -> str:
        done = subprocess.run(command, env=PATH | variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def serving(self, *command: str, **variables: str):
        """The program as a service that is ready, ended at the end if it has not been."""
        with tempfile.TemporaryFile("w+") as log:
            read, write = os.pipe()
            become = ["chroot", f"--userspec={USER}", self.view, *command]
            process = subprocess.Popen(become, env=PATH | variables, stdout=subprocess.DEVNULL, stderr=write)
            os.close(write)
            try:
                with open(read) as lines:
                    for line in lines:
                        log.write(line)
                        if line.rstrip().endswith(" ready"):
                            break
                    else:
                        log.seek(0)
                        pytest.fail(f"{command} ended with {process.wait()}:\n{log.read()}")
                    yield process
            finally:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="clipserve-") as name:
        yield pathlib.Path(name)
        # Their mounts, innermost first, or the folder could not be taken away.
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(name)]):
            # Lazily: a program that a failed test has left does not keep it.
            subprocess.run(["umount", "--lazy", mount], check=True)


def ask(path: str, body: dict | None = None) -> dict:
    """What the service on the default address answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:8080{path}", data, {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)


def answers_as_the_readme_says() -> None:
    """Asks for what README.md shows of the model in the box."""
    said = ask("/embed/text", {"texts": ["cat face"], "dimensions": 4})
    assert said["model"] == "emoji-clip"
    assert said["embeddings"][0] == pytest.approx([0.53433436, -0.21811718, -0.21846141, 0.78688395], abs=1e-5)
    info = ask("/info")
    assert info["provider"] == "cpu" and info["versions"]["onnxruntime"] == ONNXRUNTIME


def ends_by(process: subprocess.Popen, signal_: signal.Signals, code: int) -> None:
    """The exit code behind a signal, where -9 is an end by signal 9."""
    process.send_signal(signal_)
    assert process.wait(timeout=60) == code
