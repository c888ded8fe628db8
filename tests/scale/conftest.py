"""A Ray cluster of two nodes on this machine, sources, and what `clipserve embed` makes of them.

Owns starting and ending the cluster, and running deploy/ray/embed.py as a user does. Does not own what is in the sources (shards.py).
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

import shards

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBED = ROOT / "deploy" / "ray" / "embed.py"
MODEL = ROOT / "onnx" / "emoji-clip"
CLIPSERVE = pathlib.Path(os.environ.get("CLIPSERVE", ROOT / "target" / "release" / "clipserve")).absolute()

sys.path.insert(0, str(EMBED.parent))

# What a node has, and how soon one that is gone is noticed: by default that takes half a minute.
NODE = {"num_cpus": 2, "object_store_memory": 100 << 20}
HEAD = {
    "include_dashboard": False,
    "_system_config": {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3},
}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> list[str]:
    """Arguments of `embed` and `serve`: the model in the box, with a place for its graphs."""
    cache = tmp_path_factory.mktemp("cache")
    return ["--model", str(MODEL), "--cache-dir", str(cache)]


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> list[str]:
    """Shards and tables with pictures, and with all that may be wrong with a row."""
    return shards.make(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def reference(sources, model, tmp_path_factory) -> pa.Table:
    """What `clipserve embed` writes for the sources."""
    out = tmp_path_factory.mktemp("reference") / "out"
    command = [CLIPSERVE, "embed", *sources, "--out", out, *model, "--log-format", "text", "--set", "telemetry.log_level=warn"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    return table(out)


@pytest.fixture(scope="session")
def cluster():
    """A cluster of one node; `add_node(**NODE)` adds others."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | HEAD)
    yield cluster
    cluster.shutdown()


class Run:
    """deploy/ray/embed.py, running."""

    def __init__(self, cluster, files: list[str], out: pathlib.Path, serve: list[str], *options: str):
        command = [sys.executable, EMBED, *files, "--out", out, "--clipserve", CLIPSERVE, *options, "--", *serve]
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, dict, str]:
        """Waits for it: the exit code, the summary, and what it said besides."""
        stdout, stderr = self.process.communicate(timeout=300)
        lines = stdout.strip().splitlines()
        return self.process.returncode, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}, stderr


def table(out: pathlib.Path) -> pa.Table:
    """All parts of a run, in their order."""
    parts = sorted((out / "embeddings").iterdir())
    assert all(part.suffix == ".parquet" for part in parts), parts
    return pa.concat_tables([pyarrow.parquet.read_table(part) for part in parts])
