"""How long the exports of several checkpoints take, and their memory, in turn on one machine.

    speed.py BINARY ROUNDS CHECKPOINT...

Prints medians, and the speed beside the first one as the median of the rounds' own ratios. Wants Python alone.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def export(binary, checkpoint, out):
    """Seconds of the clock, seconds of the CPU, largest resident memory in MiB."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    process = subprocess.Popen([binary, "export", checkpoint, out], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{checkpoint} cannot be exported")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(binary, rounds, *checkpoints):
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
        taken = [[export(binary, checkpoint, f"{folder}/out") for checkpoint in checkpoints] for _ in range(int(rounds))]
    for index, checkpoint in enumerate(checkpoints):
        clock, cpu, memory = (statistics.median(values) for values in zip(*(row[index] for row in taken)))
        speed = statistics.median(row[0][0] / row[index][0] for row in taken)
        print(f"{checkpoint}: {clock:.2f} s, {cpu:.2f} s of the CPU, {memory:.0f} MiB, {speed:.2f} of the first one's speed")


if __name__ == "__main__":
    main(*sys.argv[1:])
