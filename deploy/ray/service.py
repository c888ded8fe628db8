"""The service of a node: its process, and asking it for many pictures at a time.

Owns starting and ending `clipserve serve`, and what is done with each kind of answer. Does not own which node has one (embed.py).

Invariants: a process that was started here is gone when its owner is, however that ends; a refusal (429) is waited out as the service
says and costs no attempt; what is wrong with a picture is that picture's own outcome.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable

import numpy

# What a service that nobody else asks is started with, in front of the arguments that are the user's: a request may wait for those in
# front of it, and its answer comes however long that takes.
OWN = ("--set", "limits.max_queue_wait=1m", "--set", "server.request_timeout=10m", "--set", "server.shutdown_delay=0ms")

# How often what is no fault of a picture is tried, and how many such pictures in a row end the run.
ATTEMPTS = 3
FAULTY_IN_A_ROW = 64

# How long a service may refuse a request for want of room before the run is given up, in seconds.
PATIENCE = 600


class Process:
    """A running service on a free port of this machine's own interface, ready."""

    def __init__(self, command: list[str], arguments: list[str]):
        """Raises RuntimeError with the last line that the service said, where it does not start."""
        everything = [*command, "serve", *OWN, *arguments, "--listen", "127.0.0.1:0", "--log-format", "json"]
        try:
            self._child = subprocess.Popen(
                everything, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_end_with_its_owner
            )
        except OSError as error:
            raise RuntimeError(f"{' '.join(command)} does not start: {error}") from None
        address = None
        for last in itertools.chain([b""], self._child.stderr):
            message = _fields(last)
            address = message.get("address", address) if message.get("message") == "listening" else address
            if message.get("message") == "ready":
                break
        else:
            self._child.wait()
            raise RuntimeError(f"clipserve did not start: {last.decode(errors='replace').strip() or 'it said nothing'}")
        self.address = address
        threading.Thread(target=self._pass_on, daemon=True).start()
        with urllib.request.urlopen(f"http://{address}/info") as answer:
            self.info = json.load(answer)

    def _pass_on(self) -> None:
        """Reads the log, which the service would otherwise lose, and passes on what somebody should see."""
        for line in self._child.stderr:
            if _fields(line).get("level", "ERROR") in ("WARN", "ERROR"):
                sys.stderr.write(line.decode(errors="replace"))

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._child.poll() is None

    def stop(self) -> None:
        """Ends it: by a drain, else at once."""
        self._child.terminate()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _end_with_its_owner() -> None:
    """Runs in the child: the kernel ends it when the worker that started it is gone, even by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _fields(line: bytes) -> dict:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields | fields.get("fields", {}) if isinstance(fields, dict) else {}


class _Busy(Exception):
    """The service has no room; asked again after so many seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds


class _Refused(Exception):
    """The request is wrong, so nobody answers it another time."""


class _Faulty(Exception):
    """The service could not, by no fault of the pictures."""


class Client:
    """Asks one service, from any number of threads, with a connection each."""

    def __init__(self, address: Callable[[], str]):
        """`address` says where the service is now; it is asked again when the service was lost, and what it raises ends the run."""
        self._address = address
        self._local = threading.local()
        self._lock = threading.Lock()
        self._faulty = 0
        self.refusals = 0

    def embed(self, pictures: list[bytes]) -> list[numpy.ndarray | str]:
        """The embedding of each, f32 `[dim]` of length 1, or the reason why there is none.

        Raises RuntimeError where the service has no room for ten minutes, or fails for 64 pictures in a row.
        """
        attempts, until = 0, time.monotonic() + PATIENCE
        while True:
            try:
                outcomes = self._ask(pictures)
                with self._lock:
                    self._faulty = 0
                return outcomes
            except _Busy as busy:
                with self._lock:
                    self.refusals += 1
                if time.monotonic() > until:
                    raise RuntimeError(f"the service has refused a request for {PATIENCE} s: it has no room") from None
                # Later by a part that is drawn, or all that were refused together come again together.
                time.sleep(busy.seconds * random.uniform(1, 1.5))
                continue
            except _Refused as error:
                reason, is_faulty = str(error), False
                break
            except (_Faulty, OSError, http.client.HTTPException) as error:
                self._drop()
                reason, is_faulty = " ".join(str(error).split()) or type(error).__name__, True
                attempts += 1
                if attempts == ATTEMPTS:
                    break
                time.sleep(random.uniform(0.1, 0.5) * 2**attempts)
        if len(pictures) > 1:
            # One of them is to blame; which one shows when each goes alone.
            return [outcome for picture in pictures for outcome in self.embed([picture])]
        if is_faulty:
            with self._lock:
                self._faulty += 1
                if self._faulty >= FAULTY_IN_A_ROW:
                    raise RuntimeError(f"the service has failed for {self._faulty} pictures in a row, the last one: {reason}")
        return [reason]

    def _ask(self, pictures: list[bytes]) -> list[numpy.ndarray | str]:
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="image"; filename="x"\r\n\r\n'.encode()
        body = b"".join(piece for picture in pictures for piece in (head, picture, b"\r\n")) + f"--{boundary}--\r\n".encode()
        # A bad picture is null and has its reason; the others are answered, as f32 in base64.
        path = "/embed/image?on_error=partial&encoding_format=base64"
        connection = self._connection()
        connection.request("POST", path, body, {"content-type": f"multipart/form-data; boundary={boundary}"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status == 429:
            raise _Busy(_seconds(answer.getheader("retry-after")))
        try:
            content = json.loads(data)
        except ValueError:
            raise _Faulty(f"the service answered {answer.status} and no JSON") from None
        if answer.status != 200:
            message = f"{content['error']['message']} ({answer.status})"
            raise (_Faulty if answer.status >= 500 else _Refused)(message)
        reasons = {error["index"]: error["message"] for error in content["errors"]}
        rows = content["embeddings"]
        return [_embedding(row) if row is not None else reasons[index] for index, row in enumerate(rows)]

    def _connection(self) -> http.client.HTTPConnection:
        if getattr(self._local, "connection", None) is None:
            # Longer than the service may take for its answer.
            self._local.connection = http.client.HTTPConnection(self._address(), timeout=2 * PATIENCE)
        return self._local.connection

    def _drop(self) -> None:
        """The next request makes a connection of its own."""
        if getattr(self._local, "connection", None) is not None:
            self._local.connection.close()
        self._local.connection = None


def _seconds(retry_after: str | None) -> float:
    """What a refusal says; the service says 1 to 10."""
    try:
        return min(60.0, max(0.1, float(retry_after)))
    except (TypeError, ValueError):
        return 1.0


def _embedding(text: str) -> numpy.ndarray | str:
    row = numpy.frombuffer(base64.b64decode(text), "<f4")
    # What a database would lose or misplace is no embedding.
    return row if numpy.isfinite(row).all() and row.any() else "the model's embedding of it has no direction"
