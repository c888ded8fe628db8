"""What the tests of the containers share: the images, built once, and the table of what was seen.

CLIPSERVE_IMAGE names an image that is tested in place of the one that is built here.
"""

import os
import subprocess
import uuid

import pytest

import box

SEEN = []


@pytest.fixture(scope="session", autouse=True)
def swept():
    """Nothing that these tests started is left."""
    yield
    for name in box.docker("ps", "--all", "--quiet", "--filter", f"label={box.LABEL}").split():
        box.Container(name).remove()
    for kind in ("volume", "network"):
        for name in box.docker(kind, "ls", "--quiet", "--filter", f"label={box.LABEL}").split():
            box.docker(kind, "rm", name, check=False)


def build(target):
    """By whichever builder `docker build` is here; the first time takes as long as a release build."""
    tag = f"clipserve:test-{target}"
    done = subprocess.run(["docker", "build", "--target", target, "--tag", tag, box.ROOT], stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"docker build --target {target} failed (see above)"
    return tag


@pytest.fixture(scope="session")
def image():
    """The CPU image; the load's own image is a stage of it."""
    build("tools")
    return os.environ.get("CLIPSERVE_IMAGE") or build("cpu")


@pytest.fixture
def start(image):
    """Starts the image with options of `docker run` and a command; what was started ends with the test."""
    started = []

    def start(*command, options=(), image=image):
        started.append(box.Container.start(image, *command, options=[*box.HARDENED, "--health-interval", "1s", *options]))
        return started[-1]

    yield start
    for container in started:
        container.remove()


@pytest.fixture
def volume():
    """Makes a named volume."""
    made = []

    def volume():
        made.append(box.docker("volume", "create", "--label", box.LABEL, f"clipserve-test-{uuid.uuid4().hex[:8]}"))
        return made[-1]

    yield volume
    for name in made:
        box.docker("volume", "rm", name, check=False)


@pytest.fixture
def network():
    """A network of its own."""
    name = f"clipserve-test-{uuid.uuid4().hex[:8]}"
    box.docker("network", "create", "--label", box.LABEL, name)
    yield name
    box.docker("network", "rm", name, check=False)


@pytest.fixture
def seen():
    """Notes what was seen, for the table at the end."""
    return lambda what, value: SEEN.append((what, value))


def pytest_terminal_summary(terminalreporter):
    if SEEN:
        terminalreporter.section("seen")
        terminalreporter.write_line("| what | seen |\n|---|---|")
        for row in SEEN:
            terminalreporter.write_line("| {} | {} |".format(*row))
