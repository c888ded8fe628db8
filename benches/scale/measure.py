#!/usr/bin/env python3
"""What one node embeds a second: `clipserve embed`, and deploy/ray/embed.py on a cluster of this node alone, over the same pictures.

    make bench-scale
    make bench-scale ARGS="--pictures 500 --only embed:f32 ray:bf16"

Makes pictures of 640x480 and a checkpoint of ViT-B/32's sizes in target/bench/scale, and prints a table: pictures a second from the first
row to the last, and of `clipserve embed` the CPU time of a picture in all threads, and what decoding and resizing it took by the clock.
What else runs on the machine lowers the first and raises the last; the CPU time it changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import inputs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "target" / "bench" / "scale"
PRECISIONS = {"f32": ["--precision", "f32"], "bf16": ["--precision", "bf16"], "int8": ["--precision", "int8", "--provider", "openvino"]}
# How many pictures have come so far.
RESIZED = 'clipserve_stage_duration_seconds_count{stage="resize"}'
# Bytes of a row of the output: 512 values of f32, packed to 0.846 of themselves (docs/scale.md).
ROW = 4 * 512 * 0.846
ALL = [f"{tool}:{precision}" for precision in PRECISIONS for tool in ("embed", "ray")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clipserve", default="target/release/clipserve", help="the binary")
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--only", nargs="+", default=ALL, choices=ALL, metavar="WHAT", help=f"some of {' '.join(ALL)}")
    args = parser.parse_args()
    binary = str(pathlib.Path(args.clipserve).absolute())
    PLACE.mkdir(parents=True, exist_ok=True)
    table, model = PLACE / f"pictures-{args.pictures}.parquet", PLACE / "vit-b-32"
    inputs.pictures(table, args.pictures, 250)
    inputs.checkpoint(model)
    size = table.stat().st_size / args.pictures
    print(f"{args.pictures} pictures of 640x480, {size / 1000:.1f} kB each; {os.cpu_count()} cores, {cpu()}\n")
    print("| | pictures/s | CPU time of a picture, ms | decode + resize, ms |\n|---|---:|---:|---:|", flush=True)
    rates = {}
    for what in args.only:
        tool, precision = what.split(":")
        settings = ["--model", str(model), "--cache-dir", str(PLACE / "cache"), *PRECISIONS[precision]]
        out = PLACE / "out"
        # Once for a few, so that the graphs are there.
        few = PLACE / "few.parquet"
        inputs.pictures(few, 8, 8)
        embed(binary, few, out, settings)
        if tool == "embed":
            rates[precision], time_of_cpus, decode = embed(binary, table, out, settings)
            print(f"| `clipserve embed`, {precision} | {rates[precision]:.1f} | {time_of_cpus} | {decode} |", flush=True)
        else:
            print(f"| `deploy/ray/embed.py`, {precision} | {over_ray(binary, table, out, settings):.1f} | | |", flush=True)
    if rates:
        print("\nComputed from these, by the formulas of docs/scale.md:\n")
        compute(rates, size)


def compute(rates: dict[str, float], size: float) -> None:
    """What more such machines would do, if nothing else stopped them."""
    print("| machines | precision | pictures/s | 100 million take | read by each, MB/s | read by all, MB/s | written by all, MB/s |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for machines in (1, 10, 100):
        for precision, rate in rates.items():
            total = machines * rate
            read, written = rate * size / 1e6, total * ROW / 1e6
            days = 1e8 / total / 86400
            print(f"| {machines} | {precision} | {total:,.0f} | {days:.1f} days | {read:.1f} | {machines * read:.0f} | {written:.2f} |")


def embed(binary: str, table: pathlib.Path, out: pathlib.Path, settings: list[str]) -> tuple[float, str, str]:
    """Rate, and of a picture the CPU time and that of preprocessing."""
    shutil.rmtree(out, ignore_errors=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [binary, "embed", table, "--out", out, *settings, "--metrics-listen", address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics: list[tuple[float, str]] = []
    scraping = threading.Thread(target=scrape, args=(address, process, metrics), daemon=True)
    scraping.start()
    said = process.stdout.read()
    process.wait()
    scraping.join()
    rate = re.search(r"([\d.]+) items/s", said)
    if process.returncode != 0 or not rate:
        raise SystemExit(f"{' '.join(map(str, command))}: {said}")
    return float(rate[1]), cpu_time(metrics), decoding(metrics[-1][1]) if metrics else ""


def scrape(address: str, process: subprocess.Popen, metrics: list[tuple[float, str]]) -> None:
    """Collects CPU time and metrics while the process lasts, from the first picture on."""
    while process.poll() is None:
        try:
            now = urllib.request.urlopen(f"http://{address}/metrics", timeout=2).read().decode()
            user, system = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except (urllib.error.URLError, OSError):
            now = ""
        if value(now, RESIZED):
            metrics.append(((int(user) + int(system)) / os.sysconf("SC_CLK_TCK"), now))
        time.sleep(0.5)


def value(metrics: str, series: str) -> float:
    """Of a series; 0 where it is not there."""
    return next((float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{series} ")), 0.0)


def cpu_time(metrics: list[tuple[float, str]]) -> str:
    """CPU time of a picture in ms, from what was done between the first scraping and the last."""
    if len(metrics) < 2:
        return ""
    (before, first), (after, last) = metrics[0], metrics[-1]
    count = value(last, RESIZED) - value(first, RESIZED)
    return f"{1000 * (after - before) / count:.1f}" if count else ""


def decoding(metrics: str) -> str:
    """Of the stages in front of the encoder, a picture's mean in ms."""
    found = []
    for stage in ("decode", "resize"):
        total, count = (value(metrics, f'clipserve_stage_duration_seconds_{kind}{{stage="{stage}"}}') for kind in ("sum", "count"))
        found.append(f"{1000 * total / count:.1f}" if count else "")
    return " + ".join(found)


def over_ray(binary: str, table: pathlib.Path, out: pathlib.Path, settings: list[str]) -> float:
    """The same over Ray; the rate is that of its own summary."""
    shutil.rmtree(out, ignore_errors=True)
    script = ROOT / "deploy" / "ray" / "embed.py"
    command = [sys.executable, script, table, "--out", out, "--clipserve", binary, "--part-rows", "250", "--", *settings]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    summary = json.loads(done.stdout.splitlines()[-1])
    return summary["embedded_now"] / summary["seconds"]


def cpu() -> str:
    """The processor."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    name, model = re.search(r"model name\s*: (.*)", info), re.search(r"model\s*: (\d+)", info)
    flags = set(info.split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags]
    return f"{name[1] if name else 'unknown'} (model {model[1] if model else '?'}; {' '.join(known)})"


if __name__ == "__main__":
    main()
