#!/usr/bin/env python3
"""Embeds the pictures of Parquet files and WebDataset shards on a Ray cluster: one `clipserve serve` on every node.

    python deploy/ray/embed.py 'shards/*.tar' more.parquet --out embeddings -- --model /models/clip --precision bf16

What stands behind `--` is for `clipserve serve`. Sources, model, binary and --out must be the same on every node: a shared file system,
or URIs (s3://...) for sources and --out. docs/bulk.md has the columns, docs/scale.md what more nodes bring.

Exit codes: 0 everything is embedded, 2 all is done and some rows have no embedding (column `error`), 1 the run did not come to its
end, 64 a wrong command line. The same command goes on with what is not done.

Owns who does what where, and the files that are written. Does not own reading (sources.py) or asking a service (service.py).

Invariants: a unit of the sources is one part of the output under a name of its own, which is there whole or not at all and whose rows
are the unit's, each once, in their order, however often and wherever the unit was done; pictures never pass Ray's object store.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass

import numpy
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import service
import sources
from sources import Limits, Row, Unit

# Pictures and bytes of one request, and requests of one worker in flight: two workers fill the queue of a service (256) to three
# quarters, so that it never waits for pictures and has no reason to refuse any.
REQUEST_ROWS = 32
REQUEST_BYTES = 8 << 20
IN_FLIGHT = 3
WORKERS_PER_NODE = 2

# Rows of a row group in the output.
GROUP_ROWS = 8192

# Next to nothing, so that a lost node's workers begin again on the others at once, however many CPUs are taken there.
WORKER_CPUS = 0.05


@ray.remote(num_cpus=0)
class Server:
    """The service of one node. Ray starts it anew, and it its process, when one of them has ended."""

    def __init__(self, command: list[str], arguments: list[str]):
        self._start = lambda: service.Process(command, arguments)
        self._process = self._start()

    def info(self) -> dict:
        """What `/info` says."""
        return self._process.info

    def address(self) -> str:
        """Where it is, running."""
        if not self._process.is_running():
            self._process = self._start()
        return self._process.address


@ray.remote(num_cpus=0)
class Servers:
    """The services by node. It lives as long as the run and owns them, so that they end with it: what a worker owns ends with the worker."""

    def __init__(self, command: list[str], arguments: list[str]):
        self._arguments = (command, arguments)
        self._by_node: dict[str, ray.actor.ActorHandle] = {}

    def of(self, node: str) -> ray.actor.ActorHandle:
        """That of a node, which need not be ready."""
        if node not in self._by_node:
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            gpus = next((entry["Resources"].get("GPU", 0) for entry in ray.nodes() if entry["NodeID"] == node), 0)
            options = {"scheduling_strategy": here, "num_gpus": min(gpus, 1), "max_restarts": -1, "max_task_retries": -1}
            self._by_node[node] = Server.options(**options).remote(*self._arguments)
        return self._by_node[node]


@dataclass(frozen=True)
class Job:
    """What all workers know."""

    servers: ray.actor.ActorHandle
    out: str
    image_column: str | None
    # What every node's service must be the same in.
    fingerprint: str
    precision: str
    dim: int
    limits: Limits
    # Digits in the name of a part.
    digits: int

    def part(self, number: int) -> str:
        """Where a part is, from --out."""
        return f"embeddings/part-{number:0{self.digits}}.parquet"

    def schema(self) -> pa.Schema:
        """The columns of `clipserve embed`. The size of the list is in its type; Ray's own tensors are lists of any size to others."""
        embedding = pa.list_(pa.field("element", pa.float32()), self.dim)
        texts = [pa.field(name, pa.string()) for name in ("caption", "path", "metadata", "error")]
        columns = [pa.field("id", pa.string(), nullable=False), pa.field("embedding", embedding), *texts]
        return pa.schema(columns, {"clipserve.fingerprint": self.fingerprint, "clipserve.precision": self.precision})


class EmbedUnit:
    """What a worker does: reads a unit, has it embedded by the service of its node, writes its part."""

    def __init__(self, job: Job):
        self._job = job
        server = ray.get(job.servers.of.remote(ray.get_runtime_context().get_node_id()))
        info = ray.get(server.info.remote())
        found = (info["model"]["fingerprint"], info["precision"])
        if found != (job.fingerprint, job.precision):
            raise RuntimeError(f"the service of this node has {' in '.join(found)}, that of the first {job.fingerprint} in {job.precision}")
        self._client = service.Client(lambda: ray.get(server.address.remote()))
        self._threads = ThreadPoolExecutor(IN_FLIGHT)

    def __call__(self, unit: dict) -> dict:
        """Embeds a unit and says how many rows it had. What is wrong with a row is in its row: a raise would cost all of them."""
        unit, refusals = Unit(**unit), self._client.refusals
        rows, errors = write(self._job, unit.number, self._embedded(unit))
        return {"rows": rows, "errors": errors, "refusals": self._client.refusals - refusals}

    def _embedded(self, unit: Unit) -> Iterator[tuple[Row, numpy.ndarray | None]]:
        """The unit's rows with their embeddings, in order; a few requests of them are in memory."""
        asked: deque = deque()
        for rows in requests(sources.read(unit, self._job.image_column, self._job.limits)):
            pictures = [row.picture for row in rows if row.error is None]
            asked.append((rows, self._threads.submit(self._client.embed, pictures) if pictures else None))
            if len(asked) > IN_FLIGHT:
                yield from answered(*asked.popleft())
        while asked:
            yield from answered(*asked.popleft())


def requests(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """The rows of each request."""
    batch, size = [], 0
    for row in rows:
        length = len(row.picture or b"")
        if batch and (len(batch) == REQUEST_ROWS or size + length > REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def answered(rows: list[Row], future) -> Iterator[tuple[Row, numpy.ndarray | None]]:
    """The rows of a request with what was answered."""
    outcomes = iter(future.result() if future else ())
    for row in rows:
        embedding = None
        if row.error is None:
            outcome = next(outcomes)
            row.error, embedding = (outcome, None) if isinstance(outcome, str) else (None, outcome)
        row.picture = None
        yield row, embedding


def write(job: Job, number: int, rows: Iterator[tuple[Row, numpy.ndarray | None]]) -> tuple[int, int]:
    """Writes a part, which gets its name when it is whole; rows and errors in it."""
    system, out = sources.filesystem(job.out)
    draft = f"{out}/_drafts/{uuid.uuid4().hex}.parquet"
    count = errors = 0
    schema = job.schema()
    with (
        system.open_output_stream(draft) as file,
        pyarrow.parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name != "embedding"],
            use_byte_stream_split=["embedding.list.element"],
            write_statistics=[name for name in schema.names if name != "embedding"],
        ) as writer,
    ):
        while group := list(itertools.islice(rows, GROUP_ROWS)):
            writer.write_table(table(schema, job.dim, group))
            count += len(group)
            errors += sum(embedding is None for _, embedding in group)
        writer.add_key_value_metadata({"clipserve.errors": str(errors)})
    system.move(draft, f"{out}/{job.part(number)}")
    return count, errors


def table(schema: pa.Schema, dim: int, rows: list[tuple[Row, numpy.ndarray | None]]) -> pa.Table:
    """Rows as a table."""
    missing = numpy.array([embedding is None for _, embedding in rows])
    # What stands in memory in place of a null is not written.
    zeros = numpy.zeros(dim, numpy.float32)
    values = numpy.concatenate([zeros if embedding is None else embedding for _, embedding in rows])
    kind = schema.field("embedding").type
    columns = {"embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind, mask=pa.array(missing))}
    for name in schema.names:
        if name != "embedding":
            columns[name] = pa.array([getattr(row, name) for row, _ in rows], pa.string())
    return pa.table([columns[name] for name in schema.names], schema)


class Parser(argparse.ArgumentParser):
    """Ends with 64 for a wrong command line, as `clipserve embed` does: 2 is another thing."""

    def error(self, message: str):
        self.exit(64, f"{self.format_usage()}{self.prog}: {message}\n")


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=".tar and .parquet files, patterns, folders, URIs")
    add("--out", required=True, metavar="DIR", help="the folder to fill: a new one, or that of the same command, which then goes on")
    add("--clipserve", default="clipserve", metavar="FILE", help="the binary on every node [%(default)s]")
    add("--part-rows", type=int, default=10_000, metavar="N", help="rows of a part from Parquet, about; a tar is one [%(default)s]")
    add("--image-column", metavar="NAME", help="the column of the pictures in Parquet")
    own, serve = split(sys.argv[1:])
    args = parser.parse_args(own)

    units = sources.plan(args.sources, args.image_column, args.part_rows)
    # Workers have these modules by value: nodes need no copy of this folder.
    for module in (sources, service):
        ray.cloudpickle.register_pickle_by_value(module)
    # What workers and services log is in Ray's own files; here it would drown the summary.
    ray.init(log_to_driver=False)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    servers = Servers.options(scheduling_strategy=here).remote([args.clipserve], serve)
    try:
        info = ray.get(ray.get(servers.of.remote(nodes[0])).info.remote())
    except ray.exceptions.RayActorError as error:
        # Its last line is the reason, behind the places that it came through.
        raise SystemExit(str(error).strip().splitlines()[-1]) from None
    job = Job(
        servers=servers,
        out=args.out if "://" in args.out else sources.filesystem(args.out)[1],
        image_column=args.image_column,
        fingerprint=info["model"]["fingerprint"],
        precision=info["precision"],
        dim=info["model"]["dim"],
        limits=Limits(picture=info["limits"]["max_body_bytes"] - 1024, text=info["limits"]["max_text_bytes"]),
        digits=max(5, len(str(len(units) - 1))),
    )
    summary = run(job, units, len(nodes))
    # Before it is said: Ray writes to standard output, too, what it thinks of a lost node.
    ray.shutdown()
    print(json.dumps(summary), flush=True)
    return 2 if summary["errors"] else 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is in front of `--`, and what is behind it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def run(job: Job, units: list[Unit], nodes: int) -> dict:
    """Embeds what is not done yet; what it came to."""
    rows, errors = begin(job, units)
    done = len(rows)
    todo = [asdict(unit) for unit in units if unit.number not in rows]
    total, failed, refusals = sum(rows.values()), errors, 0
    print(f"{len(units)} parts, {done} of them done; {nodes} nodes; {job.fingerprint[:19]} in {job.precision}", file=sys.stderr, flush=True)
    started = last = time.monotonic()
    new = 0
    if todo:
        ray.data.DataContext.get_current().enable_progress_bars = False
        # A block for each unit: Ray does a whole block again when a node is lost.
        dataset = ray.data.from_items(todo, override_num_blocks=len(todo))
        reports = dataset.map(
            EmbedUnit,
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=min(WORKERS_PER_NODE * nodes, len(todo))),
            num_cpus=WORKER_CPUS,
        )
        for report in reports.iter_rows():
            done, new, failed, refusals = done + 1, new + report["rows"], failed + report["errors"], refusals + report["refusals"]
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                rate = new / (last - started)
                print(f"{done} of {len(units)} parts, {total + new:,} rows, {rate:.1f}/s, {failed:,} errors", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    system, out = sources.filesystem(job.out)
    system.delete_dir(f"{out}/_drafts")
    summary = {"parts": len(units), "rows": total + new, "errors": failed, "embedded_now": new}
    return summary | {"seconds": round(seconds, 3), "refusals": refusals}


def begin(job: Job, units: list[Unit]) -> tuple[dict[int, int], int]:
    """Makes the folders, or looks at what an earlier run has done: rows by part, and errors in all of them.

    Raises SystemExit where the folder is that of another command, of another model, or of sources that have changed.
    """
    system, out = sources.filesystem(job.out)
    cut = hashlib.sha256(json.dumps([astuple(unit) for unit in units]).encode()).hexdigest()
    asked = {"units": cut, "fingerprint": job.fingerprint, "precision": job.precision, "image_column": job.image_column}
    for folder in ("embeddings", "_drafts"):
        system.create_dir(f"{out}/{folder}")
    record = f"{out}/run.json"
    if system.get_file_info(record).is_file:
        with system.open_input_stream(record) as file:
            known = json.loads(file.read())
        if known != asked:
            names = {"units": "the sources or --part-rows"}
            other = [names.get(key, key) for key in asked if known.get(key) != asked[key]]
            raise SystemExit(f"{job.out}: it holds a run in which {', '.join(other)} were others; give another --out")
    else:
        with system.open_output_stream(record) as file:
            file.write(json.dumps(asked).encode())
    there = system.get_file_info(pyarrow.fs.FileSelector(f"{out}/embeddings"))
    there = {f"embeddings/{info.base_name}" for info in there}
    rows, errors = {}, 0
    for unit in units:
        if job.part(unit.number) in there:
            metadata = pyarrow.parquet.read_metadata(f"{out}/{job.part(unit.number)}", filesystem=system)
            rows[unit.number] = metadata.num_rows
            errors += int(metadata.metadata[b"clipserve.errors"])
    return rows, errors


if __name__ == "__main__":
    sys.exit(main())
