"""What deploy/ray/service.py makes of each kind of answer, from a stand-in for the service."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy
import pytest

import conftest  # noqa: F401, puts deploy/ray on the path
import service

EMBEDDING = numpy.array([0.6, 0.8], "<f4")


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the client would have waited, each time."""
    waits: list[float] = []
    monkeypatch.setattr(service.time, "sleep", waits.append)
    return waits


@pytest.fixture
def serve():
    """Starts a stand-in that answers a request for these pictures by `answer(pictures)`: status, headers, content."""
    servers = []

    def serve(answer) -> service.Client:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                boundary = b"--" + self.headers["content-type"].split("boundary=")[1].encode()
                parts = [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in body.split(boundary)[1:-1]]
                status, headers, content = answer(parts)
                if status is None:
                    self.close_connection = True
                    return
                content = json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return service.Client(lambda: f"127.0.0.1:{server.server_port}")

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def good(pictures, bad=()):
    """The service's answer, in which the pictures `bad` have errors."""
    rows = [None if picture in bad else base64.b64encode(EMBEDDING.tobytes()).decode() for picture in pictures]
    errors = [{"index": at, "code": "invalid_image", "message": "it is bad"} for at, row in enumerate(rows) if row is None]
    return 200, {}, {"embeddings": rows, "errors": errors}


def refused(status, message="no", **headers):
    return status, headers, {"error": {"code": "x", "message": message}}


def test_a_bad_picture_has_its_own_reason(serve, waits):
    first, second, third = serve(lambda pictures: good(pictures, [b"b"])).embed([b"a", b"b", b"c"])
    assert (first == EMBEDDING).all() and second == "it is bad" and (third == EMBEDDING).all()
    assert waits == []


def test_a_refusal_is_waited_out_as_long_as_it_says_and_not_by_all_alike(serve, waits):
    left = [refused(429, **{"retry-after": "3"})] * 20
    client = serve(lambda pictures: left.pop() if left else good(pictures))
    assert (client.embed([b"a"])[0] == EMBEDDING).all()
    assert client.refusals == len(waits) == 20
    assert all(3 <= wait <= 4.5 for wait in waits) and len(set(waits)) > 10


def test_a_service_that_is_lost_or_fails_is_asked_again(serve, waits):
    left = [(None, {}, {}), refused(503)]
    outcome = serve(lambda pictures: left.pop() if left else good(pictures)).embed([b"a"])
    assert (outcome[0] == EMBEDDING).all() and len(waits) == 2


@pytest.mark.parametrize("answer", [refused(500, "it broke"), refused(413, "it broke"), (None, {}, {})])
def test_what_ends_a_request_is_the_error_of_the_one_picture_that_does_it(serve, waits, answer):
    client = serve(lambda pictures: answer if b"bad" in pictures else good(pictures))
    outcomes = client.embed([b"a", b"bad", b"c"])
    assert [isinstance(outcome, str) for outcome in outcomes] == [False, True, False]
    assert "it broke" in outcomes[1] or answer[0] is None


def test_a_service_that_fails_for_everything_ends_the_run(serve, waits):
    client = serve(lambda pictures: refused(500))
    with pytest.raises(RuntimeError, match="has failed for 64 pictures in a row"):
        client.embed([b"a"] * 70)
    client = serve(lambda pictures: refused(422))
    assert client.embed([b"a"] * 70) == ["no (422)"] * 70


@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 0.0]])
def test_what_a_database_would_lose_is_no_embedding(serve, waits, values):
    row = base64.b64encode(numpy.array(values, "<f4").tobytes()).decode()
    assert serve(lambda _: (200, {}, {"embeddings": [row], "errors": []})).embed([b"a"]) == ["the model's embedding of it has no direction"]
