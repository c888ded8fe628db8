"""Docker as these tests use it: images, containers, a load beside them, and what was seen.

Owns that everything it started carries LABEL and is gone afterwards. Traffic stays on Docker's own networks: the load runs in a
container on the network of what it asks, and what a person would ask from outside goes to a port on the loopback.
"""

import dataclasses
import json
import math
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LABEL = "org.clipserve.test"
# deploy/README.md's own flags.
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
TOOLS = "clipserve:test-tools"


def run(*command, check=True, timeout=300, **more):
    """Its standard output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **more)
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def docker(*arguments, **more):
    return run("docker", *arguments, **more)


def inspect(name, form):
    return docker("inspect", "--format", form, name)


def until(what, condition, seconds=60.0):
    """What `condition` says once that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return value


def ask(url, timeout=5):
    """The status and the body; status 0 where there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Container:
    """One that was started by `docker run`, or by Compose."""

    def __init__(self, name):
        self.name = name

    @classmethod
    def start(cls, image, *command, options=()):
        return cls(docker("run", "--detach", "--label", LABEL, *options, image, *command))

    def url(self, port=8080):
        return "http://" + docker("port", self.name, f"{port}/tcp").splitlines()[0]

    def state(self):
        return json.loads(inspect(self.name, "{{json .State}}"))

    def healthy(self, seconds=90.0):
        """Waits until its health check says so; how long it waited."""
        def settled():
            state = self.state()
            assert state["Running"], self.log()
            return state["Health"]["Status"] == "healthy"
        began = time.monotonic()
        until(f"{self.name} is healthy", settled, seconds)
        return time.monotonic() - began

    def log(self):
        done = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def lines(self):
        """The lines of the service's log."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def said(self, message):
        """The first line with this message."""
        return next((line for line in self.lines() if message in json.dumps(line)), None)

    def healthcheck(self):
        """The exit code of the health check within it, which needs no network."""
        command = ["docker", "exec", self.name, "/opt/clipserve/clipserve", "healthcheck"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    def remove(self):
        docker("rm", "--force", "--volumes", self.name, check=False)


@dataclasses.dataclass
class Answers:
    """What became of the requests of a load."""

    rows: list

    def between(self, start, end):
        """Those that began between two times."""
        return Answers([row for row in self.rows if start <= row["began"] < end])

    def failed(self):
        return [row for row in self.rows if row["status"] != 200]

    def models(self):
        return {row["said"] for row in self.rows if row["status"] == 200}

    def quantile(self, part):
        """Of the answers' times, in milliseconds."""
        times = sorted(row["took"] for row in self.rows if row["status"] == 200)
        return times[min(len(times) - 1, math.ceil(part * len(times)) - 1)] * 1e3

    def __str__(self):
        kinds = {}
        for row in self.failed():
            kinds[row["status"]] = kinds.get(row["status"], 0) + 1
        failed = ", ".join(f"{count} x {status}" for status, count in sorted(kinds.items())) or "none failed"
        p50, p99, longest = (self.quantile(part) for part in (0.5, 0.99, 1))
        return f"{len(self.rows)} requests, {failed}, p50 {p50:.0f}, p99 {p99:.0f}, longest {longest:.0f} ms"


class Load:
    """A constant load from a container on the network of what is asked."""

    def __init__(self, network, url, rate, seconds, pictures=0.2):
        script = pathlib.Path(__file__).with_name("load.py")
        options = ["--network", network, "--volume", f"{script}:/load.py:ro", "--log-opt", "max-size=100m"]
        command = ["python3", "/load.py", url, "--rate", str(rate), "--seconds", str(seconds), "--pictures", str(pictures)]
        self.container = Container.start(TOOLS, *command, options=options)

    def begun(self):
        """Waits for the first answer."""
        until("the load has begun", lambda: '"status": 200' in self.container.log())

    def end(self):
        """Ends it: what is in flight is waited for, nothing new begins."""
        docker("kill", "--signal", "TERM", self.container.name)
        return self.done()

    def done(self):
        """Waits for its end."""
        docker("wait", self.container.name, timeout=600)
        rows = [json.loads(line) for line in self.container.log().splitlines() if line.startswith("{")]
        assert rows, self.container.log()
        self.container.remove()
        return Answers(sorted(rows, key=lambda row: row["began"]))
