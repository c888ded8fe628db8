"""One container, as deploy/README.md starts it."""

import json
import re
import time

import pytest

import box

PUBLISHED = ["--publish", "127.0.0.1::8080"]
BOXED = str(box.ROOT / "onnx/emoji-clip")


def metric(text, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def curls():
    """The commands of the README, in order."""
    text = (box.ROOT / "README.md").read_text()
    return re.findall(r"^    \$ (curl (?:.*\\\n)*.*)$", text, re.M)


def test_it_turns_healthy_and_answers_the_readmes_first_curls(start, seen):
    container = start(options=[*PUBLISHED, "--memory", "4g", "--health-interval", "10s"])
    seen("healthy", f"{container.healthy():.1f} s after `docker run` (it is asked every 10 s)")
    assert container.said("ready"), container.log()
    first, second = curls()[:2]
    # The last digit is the CPU's own.
    for command, dim, begins in ((first, 192, 0.03064509), (second, 4, 0.53433436)):
        answer = box.run("bash", "-c", command.replace("localhost:8080", container.url().removeprefix("http://")), cwd=box.ROOT)
        said = json.loads(answer)
        assert (said["dim"], said["embeddings"][0][0]) == (dim, pytest.approx(begins, abs=1e-5)), (command, answer)


def test_without_a_network_it_is_ready_and_says_so(start):
    container = start(options=["--network", "none"])
    container.healthy()
    assert container.healthcheck() == 0


def test_a_stop_under_load_loses_nothing(start, network, seen):
    container = start(options=["--network", network, "--network-alias", "service"])
    container.healthy()
    load = box.Load(network, "http://service:8080", rate=100, seconds=15)
    load.begun()
    stopping = time.time()
    box.docker("stop", container.name)
    took = time.time() - stopping
    answers = load.done()
    # A stopped container has neither an address nor a name; what came before that was refused is not lost but told to go elsewhere.
    lost = [row for row in answers.failed() if row["status"] != 0]
    after = answers.between(stopping, stopping + 1)
    code = container.state()["ExitCode"]
    seen("`docker stop` under 100 requests/s", f"exit code {code} after {took:.1f} s; {len(lost)} lost; in the first second {after}")
    assert not lost and not after.failed() and code == 0, (lost[:5], after, container.log()[-2000:])


def test_threads_and_time_follow_the_cpu_limit(start, network, seen):
    for cpus, threads in (("1", 1), ("2", 2)):
        container = start(options=["--network", network, "--network-alias", f"cpus-{cpus}", "--cpus", cpus, *PUBLISHED])
        container.healthy()
        assert container.said("the engine started")["intra_threads"] == threads, container.log()
        text = box.ask(container.url() + "/metrics")[1]
        used, began = metric(text, "process_cpu_seconds_total"), time.monotonic()
        load = box.Load(network, f"http://cpus-{cpus}:8080", rate=150, seconds=6, pictures=1)
        answers = load.done()
        text = box.ask(container.url() + "/metrics")[1]
        share = (metric(text, "process_cpu_seconds_total") - used) / (time.monotonic() - began)
        all_threads = metric(text, "process_threads")
        seen(f"`--cpus {cpus}`", f"{threads} thread(s) a run, {all_threads:.0f} in all; {share:.2f} CPUs used; {answers}")
        assert share <= float(cpus) * 1.05, share
        container.remove()


def test_the_memory_limit_holds(start, network, seen):
    limits = ["--memory", "512m", "--memory-swap", "512m"]
    container = start(options=["--network", network, "--network-alias", "small", *limits, *PUBLISHED])
    container.healthy()
    load = box.Load(network, "http://small:8080", rate=100, seconds=6, pictures=0.5)
    answers = load.done()
    state = container.state()
    resident = metric(box.ask(container.url() + "/metrics")[1], "process_resident_memory_bytes")
    seen("`--memory 512m`, the model in the box", f"{resident / 1e6:.0f} MB resident after {answers}")
    assert state["Running"] and not state["OOMKilled"] and all(row["status"] == 429 for row in answers.failed())


def test_a_checkpoint_is_made_into_graphs_in_a_volume_and_served_from_it_read_only(start, volume, seen):
    cache = volume()
    settings = ["--network", "none", "--volume", f"{BOXED}:/model:ro", "--env", "CLIPSERVE__MODEL__PATH=/model",
                "--env", "CLIPSERVE__MODEL__CACHE_DIR=/cache"]
    first = start(options=[*settings, "--volume", f"{cache}:/cache"])
    first.healthy()
    made = box.docker("exec", first.name, "find", "/cache", "-name", "*.onnx", "-user", "65532")
    assert len(made.split()) == 4, made
    box.docker("stop", first.name)
    second = start(options=[*settings, "--volume", f"{cache}:/cache:ro"])
    second.healthy()
    seen("a checkpoint with its cache in a volume", "made at the first start, served at the second from the volume read-only, without a network")


def test_a_folder_of_the_host_must_be_that_users(start, tmp_path):
    tmp_path.chmod(0o755)
    settings = ["--network", "none", "--volume", f"{BOXED}:/model:ro", "--env", "CLIPSERVE__MODEL__PATH=/model"]
    for options in ([*settings, "--env", "CLIPSERVE__MODEL__CACHE_DIR=/cache", "--volume", f"{tmp_path}:/cache"], settings):
        container = start(options=options)
        assert box.docker("wait", container.name) != "0"
        last = container.log().splitlines()[-1]
        assert last.startswith("clipserve: ") and "cache" in last, container.log()


def test_a_prepared_export_is_served_from_a_read_only_volume(start, volume):
    export = volume()
    options = ["--network", "none", "--volume", f"{BOXED}:/model:ro", "--volume", f"{export}:/cache"]
    maker = start("export", "/model", "/cache/export", options=options)
    assert box.docker("wait", maker.name) == "0", maker.log()
    settings = ["--volume", f"{export}:/models:ro", "--env", "CLIPSERVE__MODEL__PATH=/models/export"]
    container = start(options=["--network", "none", *settings])
    container.healthy()
    assert container.healthcheck() == 0
