"""The service as its clients' tests see it: a real process with the model in the box, on a free port.

Owns starting and ending it, its log, asking its own routes, and `busy`, which refuses first. Does not own any client
(test_<client>.py).

Invariants: a process that was started here is gone when the tests are, however they end; what the service logged while a
test failed stands in that test's report; a refusal of `busy` was made by the service itself.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOGS = ROOT / "target" / "clients"
MODEL = ROOT / "onnx" / "emoji-clip"
SMALL_MODEL = ROOT / "tests" / "fixtures" / "tiny-clip"

# Other names of the model, by which clients of other services call it.
ALIASES = "ViT-B-32__openai,clip"

# From the start of a process to its readiness, in seconds, on a machine that does a lot besides.
START = 120

# Headers that are of one connection.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


def binary() -> pathlib.Path:
    """The binary: `CLIPSERVE`, else where cargo puts a debug build."""
    built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "clipserve"
    return pathlib.Path(os.environ.get("CLIPSERVE", built)).absolute()


def end_with_the_tests() -> None:
    """Runs in the child: the kernel ends it when the tests are gone, even if nobody could say goodbye."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Process:
    """A running clipserve, ready."""

    def __init__(self, model: pathlib.Path, name: str, settings: tuple[str, ...]):
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{name}.log"
        everything = (
            "server.listen=127.0.0.1:0",
            "server.shutdown_delay=0ms",
            "telemetry.log_format=json",
            f"model.path={model}",
            f"model.cache_dir={LOGS / 'cache'}",
            f"model.aliases={ALIASES}",
            *settings,
        )
        command = [str(binary()), "serve", *(argument for setting in everything for argument in ("--set", setting))]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, preexec_fn=end_with_the_tests
            )
        try:
            self.url = f"http://{self._address()}"
        except BaseException:
            self.stop()
            raise

    def _address(self) -> str:
        """Waits until it is ready."""
        address, until = None, time.monotonic() + START
        with self.log.open(encoding="utf-8") as log:
            while time.monotonic() < until and self.child.poll() is None:
                line = log.readline()
                if not line.endswith("\n"):
                    time.sleep(0.01)
                    continue
                fields = json.loads(line) if line.startswith("{") else {}
                fields |= fields.get("fields", {})
                if fields.get("message") == "listening":
                    address = fields["address"]
                if fields.get("message") == "ready":
                    return address
        raise RuntimeError(f"clipserve did not start:\n{self.log.read_text(encoding='utf-8')}")

    def stop(self) -> None:
        """Ends it: by a drain, else at once."""
        self.child.terminate()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Service:
    """The service, its own routes, and what its clients are to be compared with."""

    def __init__(self, process: Process, key: str | None = None):
        self._process = process
        self._busy: Busy | None = None
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.url = process.url
        model = self._ask("/info")["model"]
        self.model: str = model["name"]
        self.dim: int = model["dim"]
        examples = sorted((ROOT / "onnx" / "examples").glob("*.png"))
        photos = [ROOT / "tests" / "fixtures" / "images" / name for name in ("cat_420.jpg", "cat_lossy.webp")]
        self.pictures: list[pathlib.Path] = examples + photos

    def _ask(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=self._headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def _embed(self, path: str, body: dict) -> np.ndarray:
        embeddings = self._ask(path, body | {"encoding_format": "base64"})["embeddings"]
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in embeddings])

    def texts(self, texts: list[str]) -> np.ndarray:
        """The embeddings of `texts` by our own route: f32 `[n, dim]`, of length 1, to the bit."""
        return self._embed("/embed/text", {"texts": list(texts)})

    def images(self, pictures: list[pathlib.Path]) -> np.ndarray:
        """The embeddings of the files `pictures` by our own route: f32 `[n, dim]`, of length 1, to the bit."""
        encoded = [base64.b64encode(pathlib.Path(picture).read_bytes()).decode() for picture in pictures]
        return self._embed("/embed/image", {"images": encoded})

    @property
    def busy(self) -> str:
        """The address of a stand-in that refuses each request once and passes its repetition on."""
        return self._stand_in().url

    @property
    def refused(self) -> list[str]:
        """The paths of all requests that the stand-in has refused."""
        return self._stand_in().refused

    @property
    def relayed(self) -> list[str]:
        """The paths of all requests that it has passed on."""
        return self._stand_in().relayed

    def _stand_in(self) -> Busy:
        if self._busy is None:
            self._busy = Busy(self.url)
        return self._busy

    def stop(self) -> None:
        """Ends all of it."""
        try:
            if self._busy is not None:
                self._busy.stop()
        finally:
            self._process.stop()


class Full:
    """A small service with one place for requests, which is taken while it is asked: all that it says is a refusal.

    What is refused by it has the shape of the path's first owner, as every request that nobody has read yet.
    """

    def __init__(self):
        settings = (
            "limits.max_inflight_requests=1",
            "cache.max_bytes=0",
            # A text waits so long for others to be computed with.
            "batch.text.max_queue_delay=10s",
        )
        self._process = Process(SMALL_MODEL, "full", settings)
        self._address = self._process.url.removeprefix("http://")
        self._one_at_a_time = threading.Lock()
        self._held = 0

    def refuse(self, method: str, path: str, headers: dict, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The refusal of a request: status, headers, body."""
        with self._one_at_a_time:
            holder = self._hold()
            try:
                return ask(self._address, method, path, headers, body)
            finally:
                holder.close()
                # The one that asks for the metrics.
                self._until("clipserve_http_requests_in_flight", 1)

    def _hold(self) -> socket.socket:
        """Takes the place, by a connection that holds it until it is closed."""
        host, port = self._address.split(":")
        holder = socket.create_connection((host, int(port)))
        body = b'{"texts": "held"}'
        head = f"POST /embed/text HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        holder.sendall(head.encode() + body)
        self._held += 1
        # Whoever has come that far has the place.
        self._until('clipserve_stage_duration_seconds_count{stage="tokenize"}', self._held)
        return holder

    def _until(self, series: str, value: int) -> None:
        """Waits until a metric has this value."""
        until = time.monotonic() + START
        while time.monotonic() < until:
            _, _, metrics = ask(self._address, "GET", "/metrics", {}, b"")
            if f"\n{series} {value}\n" in metrics.decode():
                return
            time.sleep(0.002)
        raise RuntimeError(f"{series} has not become {value}")

    def stop(self) -> None:
        """Ends it."""
        self._process.stop()


class Busy:
    """Between a client and the service: of equal requests the first is refused and the next one passed on."""

    def __init__(self, url: str):
        self.refused: list[str] = []
        self.relayed: list[str] = []
        self._service = url.removeprefix("http://")
        self._full = Full()
        self._known: set[tuple[str, str, bytes]] = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, headers: dict, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The refusal of a request, or the answer to its repetition."""
        key = (method, path, body)
        with self._lock:
            is_new = key not in self._known
            (self._known.add if is_new else self._known.remove)(key)
            (self.refused if is_new else self.relayed).append(path)
        if is_new:
            return self._full.refuse(method, path, headers, body)
        return ask(self._service, method, path, headers, body)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        busy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, headers, answer = busy.answer(self.command, self.path, dict(self.headers.items()), body)
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_HEAD = do

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._full.stop()


def ask(
    address: str, method: str, path: str, headers: dict, body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of one answer, the headers of the connection left out on both sides."""
    connection = http.client.HTTPConnection(address)
    try:
        kept = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
        connection.request(method, path, body=body or None, headers=kept)
        answer = connection.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        return answer.status, kept, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="session")
def start():
    """Starts further services, each with `section.key=value` of its own; all of them end with the tests."""
    services: list[Service] = []

    def start(*settings: str, name: str | None = None, key: str | None = None) -> Service:
        keyed = (f"server.api_key={key}",) if key else ()
        process = Process(MODEL, name or f"service-{len(services)}", (*settings, *keyed))
        try:
            services.append(Service(process, key))
        except BaseException:
            process.stop()
            raise
        return services[-1]

    yield start
    for service in services:
        service.stop()


@pytest.fixture(scope="session")
def service(start) -> Service:
    """The service, with the model in the box."""
    return start(name="service")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Remembers where each log stood before the test."""
    item.logs_before = {log: log.stat().st_size for log in LOGS.glob("*.log")}
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows with a failure what the services have logged since the test began."""
    report = yield
    if report.failed:
        for log in sorted(LOGS.glob("*.log")):
            before = item.logs_before.get(log, 0)
            with log.open("rb") as file:
                # A log that is shorter now is a new one.
                file.seek(before if before <= log.stat().st_size else 0)
                text = file.read().decode(errors="replace")
            if text:
                report.sections.append((f"log of {log.stem}", text))
    return report
