"""Both sides, asked for the same files at once. A file that kills a side, or keeps it for longer than PATIENCE, is an answer; the side is
then started again."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading

import numpy

# Seconds, of a machine that does other things as well.
PATIENCE = 60
# As `limits.max_pixels` is by default.
MAX_PIXELS = 50_000_000


@dataclasses.dataclass
class Answer:
    """What one side says of one file; `pixels` where it was read, and what Pillow could tell of it."""

    outcome: str
    reason: str = ""
    pixels: numpy.ndarray | None = None
    format: str = ""
    mode: str = ""
    kind: str = ""
    size: tuple = (0, 0)
    seconds: float = 0.0

    @property
    def read(self):
        return self.outcome == "read"


class Program:
    """A side that answers a path at a time."""

    def __init__(self, command):
        self.command = command
        self.process = None

    def ask(self, path):
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        slow = threading.Event()
        timer = threading.Timer(PATIENCE, lambda: (slow.set(), self.process.kill()))
        timer.start()
        try:
            self.process.stdin.write(os.fsencode(path) + b"\n")
            self.process.stdin.flush()
            return self.answer()
        except (EOFError, BrokenPipeError):
            code, self.process = self.process.wait(), None
            return Answer("died", f"took more than {PATIENCE} seconds" if slow.is_set() else f"ended with {code}")
        finally:
            timer.cancel()

    def answer(self):
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        said = json.loads(line)
        width, height = said.pop("width", 0), said.pop("height", 0)
        rgb = self.process.stdout.read(width * height * 3)
        if len(rgb) < width * height * 3:
            raise EOFError
        pixels = numpy.frombuffer(rgb, numpy.uint8).reshape(height, width, 3) if said["outcome"] == "read" else None
        return Answer(pixels=pixels, **{name: value for name, value in said.items() if value is not None})

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


class Sides:
    """Pillow's and ours: as many pairs as there are processors, each asked by one thread at a time."""

    def __init__(self, ours, what):
        arguments = [what, str(MAX_PIXELS)]
        reference = [sys.executable, "-B", str(pathlib.Path(__file__).with_name("reference.py"))]
        self.pairs = [(Program(reference + arguments), Program([*ours, *arguments])) for _ in range(os.cpu_count() or 1)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pair in self.pairs:
            for program in pair:
                program.close()

    def compare(self, paths, of):
        """`of(path, theirs, ours)` for each path, in their order; made where the pixels are still at hand."""
        free = queue.SimpleQueue()
        for pair in self.pairs:
            free.put(pair)

        def one(path):
            theirs, ours = pair = free.get()
            try:
                return of(path, theirs.ask(path), ours.ask(path))
            finally:
                free.put(pair)

        with concurrent.futures.ThreadPoolExecutor(len(self.pairs)) as pool:
            yield from pool.map(one, paths)
