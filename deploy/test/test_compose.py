"""compose.yaml as it is: two replicas behind HAProxy or nginx under a constant load, while things happen to a replica; Prometheus beside.

What is held: a replica that is stopped, started or rolled to another model fails no request and keeps p99 within twice the quiet one;
one that is killed, cut off or frozen fails at most what it had in flight, one that is slowed nothing.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import uuid

import pytest

import box
import graphs

RATE = 40
# The dashboard's graphs, as the last run saw them.
PICTURE = pathlib.Path(sys.prefix) / "graphs.png"
# The other model that is rolled to: the same graphs under another name are enough to tell the answers apart.
RENAMED = {"CLIPSERVE__MODEL__NAME": "another"}
BALANCERS = {"haproxy": [], "nginx": ["compose.nginx.yaml"]}


def composers():
    """The Compose commands of this machine."""
    found = [["docker-compose"]] if shutil.which("docker-compose") else []
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60)
    return ([["docker", "compose"]] if plugin.returncode == 0 else []) + found


class Stack:
    """One project of Compose."""

    def __init__(self, image, overlays, folder):
        self.image, self.folder = image, folder
        self.project = f"clipserve-test-{uuid.uuid4().hex[:8]}"
        self.network = f"{self.project}_default"
        self.files = [str(box.ROOT / "deploy" / name) for name in ("compose.yaml", *overlays)]
        self.settings({})

    def settings(self, environment):
        """What the next replicas are started with, in a file over those of the repository."""
        service = {"image": self.image, "cpus": 1, "environment": environment, "healthcheck": {"interval": "1s"}}
        (self.folder / "settings.json").write_text(json.dumps({"services": {"clipserve": service}}))

    def compose(self, *arguments, check=True):
        files = [part for name in (*self.files, str(self.folder / "settings.json")) for part in ("--file", name)]
        # Free ports of the loopback.
        environment = {**os.environ, "CLIPSERVE_PORT": "127.0.0.1:", "PROMETHEUS_PORT": ""}
        return box.run(*composers()[0], "--project-name", self.project, *files, *arguments, env=environment, check=check)

    def of(self, service):
        label = "label=com.docker.compose."
        return [box.Container(name) for name in box.docker(
            "ps", "--quiet", "--filter", f"{label}project={self.project}", "--filter", f"{label}service={service}").split()]

    def replicas(self):
        return self.of("clipserve")

    def balanced(self):
        """Waits until the replicas that run are all used."""
        for replica in self.replicas():
            replica.healthy()
        # One round of health checks and of names.
        time.sleep(3)

    def up(self):
        self.compose("up", "--detach", "--no-build")
        box.until("the balancer answers", lambda: box.ask(self.of("balancer")[0].url() + "/readyz")[0] == 200)
        self.balanced()

    def down(self):
        self.compose("down", "--volumes", "--timeout", "15", check=False)


def stopped_and_started(stack):
    replica = stack.replicas()[0]
    box.docker("stop", replica.name)
    time.sleep(3)
    box.docker("start", replica.name)
    stack.balanced()


def killed(stack):
    replica = stack.replicas()[0]
    at = time.time()
    box.docker("kill", replica.name)
    time.sleep(5)
    box.docker("start", replica.name)
    stack.balanced()
    return at


def rolled(stack):
    """To other settings and back, as deploy/README.md has it."""
    for settings in (RENAMED, {}):
        old = stack.replicas()
        stack.settings(settings)
        stack.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", f"clipserve={2 * len(old)}", "clipserve")
        stack.balanced()
        for replica in old:
            box.docker("stop", replica.name)
            box.docker("rm", replica.name)
        stack.balanced()


def cut_off(stack):
    replica = stack.replicas()[0]
    at = time.time()
    box.docker("network", "disconnect", stack.network, replica.name)
    time.sleep(10)
    box.docker("network", "connect", "--alias", "clipserve", stack.network, replica.name)
    stack.balanced()
    return at


def frozen(stack):
    replica = stack.replicas()[0]
    at = time.time()
    box.docker("pause", replica.name)
    time.sleep(6)
    box.docker("unpause", replica.name)
    stack.balanced()
    return at


def slowed(stack):
    replica = stack.replicas()[0]
    box.docker("update", "--cpus", "0.1", replica.name)
    time.sleep(8)
    box.docker("update", "--cpus", "1", replica.name)
    stack.balanced()


# Whether it may fail what is in flight at the replica, and whether it may be slower than twice the quiet p99.
FAULTS = {stopped_and_started: (False, False), rolled: (False, False), killed: (True, True), cut_off: (True, True), frozen: (True, True),
          slowed: (False, True)}


def in_flight(answers, at):
    """How many requests had begun by then and not ended."""
    return sum(row["began"] <= at <= row["began"] + row["took"] for row in answers.rows)


@pytest.mark.parametrize("balancer", BALANCERS)
def test_what_happens_to_a_replica(balancer, image, tmp_path, seen):
    stack = Stack(image, BALANCERS[balancer], tmp_path)
    missed = []
    try:
        stack.up()
        for fault, (fails, slows) in FAULTS.items():
            load = box.Load(stack.network, "http://balancer:8080", RATE, seconds=90)
            load.begun()
            time.sleep(10)
            began = time.time()
            at = fault(stack) or began
            ended = time.time()
            answers = load.end()
            quiet, during = answers.between(began - 10, began), answers.between(began, ended)
            failed, flying = during.failed(), in_flight(answers, at)
            seen(f"{balancer}: {fault.__name__}", f"quiet {quiet}; then {ended - began:.0f} s: {during}; in flight at first {flying}")
            if quiet.failed() or len(failed) > (flying if fails else 0):
                missed.append((fault.__name__, quiet.failed(), flying, failed[:10]))
            if not slows and during.quantile(0.99) > 2 * quiet.quantile(0.99):
                missed.append((fault.__name__, "p99", str(quiet), str(during)))
            if fault is rolled and during.models() != {"emoji-clip", "another"}:
                missed.append((fault.__name__, sorted(during.models())))
    finally:
        # Not the requests: what the balancer and the replicas say of themselves.
        log = stack.compose("logs", "--no-color", "--timestamps", check=False)
        print("\n".join(line for line in log.splitlines() if "POST /" not in line))
        stack.down()
    assert not missed, "\n".join(json.dumps(one) for one in missed)


def test_every_compose_command_takes_the_files():
    assert composers(), "neither docker compose nor docker-compose is here"
    for composer in composers():
        for overlays in BALANCERS.values():
            files = [part for name in ("compose.yaml", *overlays) for part in ("--file", str(box.ROOT / "deploy" / name))]
            box.run(*composer, *files, "config", "--quiet")


def test_prometheus_watches_both_replicas_and_answers_the_dashboard(image, tmp_path, seen):
    stack = Stack(image, [], tmp_path)
    try:
        stack.up()
        api = stack.of("prometheus")[0].url(9090) + "/api/v1/"

        def value(query):
            return [row["value"][1] for row in json.loads(box.ask(f"{api}query?query={query}")[1])["data"]["result"]]

        box.until("both are scraped", lambda: value("up") == ["1", "1"])
        box.until("what they are is the same", lambda: value("count%20by%20(fingerprint)%20(clipserve_build_info)") == ["2"])
        load = box.Load(stack.network, "http://balancer:8080", RATE, seconds=75)
        load.begun()
        time.sleep(40)
        stopped_and_started(stack)
        answers = load.done()
        graphs.draw(api, 90, PICTURE)
        groups = json.loads(box.ask(api + "rules")[1])["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules and all(rule["health"] == "ok" and rule["state"] != "firing" for rule in rules), rules
        seen("Prometheus", f"{len(rules)} rules; every query of the dashboard has data; {PICTURE}; {answers}")
        assert not answers.failed()
    finally:
        stack.down()


def test_promtool_takes_the_files_and_every_alert_fires_for_its_fault_alone():
    image = next(line.split()[1] for line in (box.ROOT / "deploy/compose.yaml").read_text().splitlines() if "image: prom/" in line)
    folder = f"{pathlib.Path(box.ROOT / 'deploy')}:/deploy:ro"
    for command in (["check", "config", "/deploy/prometheus.yml"], ["test", "rules", "/deploy/test/alerts_test.yml"]):
        box.docker("run", "--rm", "--network", "none", "--volume", folder, "--entrypoint", "promtool", image, *command)
