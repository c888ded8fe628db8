"""The images as they are built: their size, their user, what is in them."""

import json
import pathlib
import re
import sys

import pytest

import box
import conftest

# Above the base, without OpenVINO's files.
MOST_MB = 150


def size(image):
    return int(box.inspect(image, "{{.Size}}"))


def of_openvino(image):
    script = "du --bytes --summarize /opt/clipserve/openvino | cut -f 1"
    return int(box.docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script))


def base():
    return re.search(r"^FROM (\S+) AS runtime$", (box.ROOT / "Dockerfile").read_text(), re.M)[1]


def test_the_dockerfile_has_no_known_faults():
    box.run(pathlib.Path(sys.executable).with_name("hadolint"), box.ROOT / "Dockerfile")


def test_the_cpu_image_is_small(image, seen):
    openvino = of_openvino(image)
    above = (size(image) - size(base()) - openvino) / 1e6
    seen("CPU image", f"{size(image) / 1e6:.0f} MB: {base()} {size(base()) / 1e6:.0f}, OpenVINO {openvino / 1e6:.0f}, all else {above:.0f}")
    assert above <= MOST_MB, f"{above:.0f} MB"


def test_the_binary_is_stripped_and_names_its_debug_lines(image):
    script = "grep -c clipserve.debug /opt/clipserve/clipserve; ls /opt/clipserve"
    counted, *files = box.docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script).split()
    assert counted != "0" and "clipserve.debug" not in files, files


def test_the_process_is_not_root_and_the_root_is_read_only(start):
    container = start(options=["--network", "none"])
    container.healthy()
    status = box.docker("exec", container.name, "cat", "/proc/1/status")
    assert re.search(r"^Uid:\s65532\s65532\s65532\s65532$", status, re.M), status
    assert re.search(r"^CapEff:\s0+$", status, re.M) and re.search(r"^NoNewPrivs:\s1$", status, re.M), status
    for place in ("/", "/opt/clipserve", "/cache"):
        refused = box.docker("exec", container.name, "sh", "-c", f"touch {place}/x 2>&1 || true")
        assert "Read-only file system" in refused, (place, refused)
    assert box.docker("diff", container.name) == ""


def test_labels_and_settings(image):
    config = json.loads(box.inspect(image, "{{json .Config}}"))
    version = re.search(r'^version = "(.+)"$', (box.ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert config["Labels"]["org.opencontainers.image.version"] == version
    assert (config["User"], config["StopSignal"], list(config["ExposedPorts"])) == ("65532:65532", "SIGTERM", ["8080/tcp"])
    told = box.docker("run", "--rm", "--network", "none", image, "--version")
    assert told.startswith(f"clipserve {version}"), told


@pytest.mark.cuda
def test_the_cuda_image_is_built_and_says_what_it_lacks(image, seen):
    cuda = conftest.build("cuda")
    seen("CUDA image", f"{size(cuda) / 1e6:.0f} MB")
    done = box.Container.start(cuda, options=[*box.HARDENED, "--network", "none"])
    assert box.docker("wait", done.name) == "1"
    # On a machine without a GPU: one line, which names the provider.
    last = done.log().splitlines()[-1]
    done.remove()
    assert last.startswith("clipserve: ") and 'engine.provider = "cuda" cannot start' in last, last
