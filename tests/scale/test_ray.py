"""deploy/ray/embed.py on a real cluster: a killed node, going on, refusals; and what it writes is what `clipserve embed` writes."""

from __future__ import annotations

import collections
import os
import pathlib
import signal
import time
import urllib.request

import psutil
import pyarrow as pa
import pyarrow.compute
import pytest

from conftest import NODE, Run, table

TEXTS = ["id", "caption", "path", "metadata"]


def check(found: pa.Table, reference: pa.Table) -> None:
    """The same rows, each once and in the order of the sources, with the same embeddings to the bit, and errors in the same ones."""
    counts = collections.Counter(found["id"].to_pylist())
    assert {id: count for id, count in counts.items() if count > 1} == {}
    assert found["id"].to_pylist() == reference["id"].to_pylist()
    assert found.schema.remove_metadata() == reference.schema.remove_metadata()
    assert found.select(TEXTS).equals(reference.select(TEXTS))
    assert found["embedding"].combine_chunks().equals(reference["embedding"].combine_chunks())
    reasons = zip(found["id"].to_pylist(), found["error"].to_pylist(), reference["error"].to_pylist())
    other = [(id, ours, theirs) for id, ours, theirs in reasons if (ours is None) != (theirs is None)]
    assert other == []


def test_every_row_is_there_once_when_a_node_is_killed(cluster, sources, reference, model, tmp_path):
    node = cluster.add_node(**NODE)
    out = tmp_path / "out"
    run = Run(cluster, sources, out, model, "--part-rows", "40")
    try:
        killed = kill(node, run, out)
        code, summary, said = run.end()
    finally:
        run.process.kill()
    assert code == 2, said
    parts = len(list((out / "embeddings").iterdir()))
    assert killed < parts, "the run was over before the node was killed"
    assert summary["rows"] == len(reference) and summary["parts"] == parts, summary
    assert sorted(path.name for path in out.iterdir()) == ["embeddings", "run.json"], "nothing of the lost node is left"
    check(table(out), reference)


def kill(node, run: Run, out: pathlib.Path) -> int:
    """Kills a node's raylet and service once that service has embedded something and a part is there; the number of parts then."""
    (raylet,) = (psutil.Process(process.process.pid) for process in node.all_processes["raylet"])
    until = time.monotonic() + 120
    while time.monotonic() < until and run.process.poll() is None:
        services = [child for child in raylet.children(recursive=True) if child.name() == "clipserve"]
        parts = list((out / "embeddings").glob("*.parquet"))
        if services and parts and embedded(services[0]):
            # What runs on the node is gone by itself soon after its raylet; the service would be, too.
            for process in (services[0], raylet):
                os.kill(process.pid, signal.SIGKILL)
            return len(parts)
        time.sleep(0.01)
    raise AssertionError(f"the node never got to work: {run.end()}")


def embedded(process: psutil.Process) -> bool:
    """Whether this service has embedded a picture."""
    try:
        ports = [connection.laddr.port for connection in process.net_connections("tcp") if connection.status == psutil.CONN_LISTEN]
        if not ports:
            return False
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
    except (OSError, psutil.Error):
        return False
    return any(line.startswith("clipserve_batch_size_count") and float(line.split()[-1]) > 2 for line in metrics.splitlines())


def test_the_same_command_goes_on_and_another_is_refused(cluster, sources, reference, model, tmp_path):
    files, out = sources[-2:], tmp_path / "out"
    code, first, said = Run(cluster, files, out, model, "--part-rows", "40").end()
    assert code == 2 and first["embedded_now"] == first["rows"], said
    parts = sorted((out / "embeddings").iterdir())
    before = {part.name: part.read_bytes() for part in parts}
    parts[1].unlink()
    code, second, said = Run(cluster, files, out, model, "--part-rows", "40").end()
    assert code == 2 and second["rows"] == first["rows"] and second["errors"] == first["errors"], said
    assert 0 < second["embedded_now"] < first["rows"]
    assert {part.name: part.read_bytes() for part in (out / "embeddings").iterdir()} == before
    code, _, said = Run(cluster, files[:1], out, model, "--part-rows", "40").end()
    assert code == 1 and "a run in which the sources or --part-rows were others; give another --out" in said, said


def test_a_full_service_is_waited_for(cluster, sources, reference, model, tmp_path):
    code, summary, said = Run(cluster, sources[:2], tmp_path, [*model, "--set", "limits.max_inflight_requests=1"]).end()
    assert code == 2, said
    assert summary["refusals"] > 0, summary
    found = table(tmp_path)
    check(found, reference.filter(pa.compute.is_in(reference["id"], found["id"].combine_chunks())))
    assert len(found) == summary["rows"] > 200


@pytest.mark.parametrize(
    ("serve", "expected"),
    [(["--model", "/absent"], "no id on the hub (owner/name) either"), (["--set", "no.such=1"], "no.such")],
)
def test_a_service_that_does_not_start_is_said_at_once(cluster, sources, tmp_path, serve, expected):
    code, _, said = Run(cluster, sources[:1], tmp_path / "out", serve).end()
    last = said.strip().splitlines()[-1]
    assert code == 1 and last.startswith("RuntimeError: clipserve did not start: ") and expected in last, said
