#!/usr/bin/env bash
# voyageai 0.5.0 repeats a 429 only if its JSON body has `detail`, and takes 501 and 529 for success (seen 2026-11-28; voyageai 0.5.0).
#
# Expected: with max_retries=2 the status decides: 429 and 5xx are sent again, after Retry-After, and end in one of the package's own
# errors, whose `headers` are the answer's.
# Behaviour:
#   429 with {"detail": …}          sent again, RateLimitError
#   429 with {"error": …} or {}     not sent again, APIError without the answer's headers, so Retry-After is lost too. The first of
#                                   these is OpenAI's shape, which gateways in front have as well.
#   500                             not sent again; 502, 503 and 504 are
#   501, 505 to 599 with JSON       counted as an answer: what the caller gets is AttributeError: data, no VoyageError
#   Retry-After: 9                  not read by anything: the next try comes after one to two seconds
# And max_retries counts all tries: 2 is one repetition.
#
# Output seen:
#   429 {"detail": "slow down"}   2 requests, RateLimitError, headers kept
#   429 {"error": "slow down"}    1 request,  APIError, headers lost
#   500 {"detail": "slow down"}   1 request,  ServerError, headers kept
#   503 {"detail": "slow down"}   2 requests, ServiceUnavailableError, headers kept
#   529 {"detail": "slow down"}   1 request,  AttributeError, headers lost
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet voyageai==0.5.0

"$work/venv/bin/python" - <<'PY'
import http.server
import json
import threading
import time

import voyageai

answer = {}
requests = []


class Stub(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        requests.append(time.monotonic())
        body = json.dumps(answer["body"]).encode()
        self.send_response(answer["status"])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "9")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = voyageai.Client(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=2)

expected = [
    (429, "detail", 2, "RateLimitError", True),
    (429, "error", 1, "APIError", False),
    (500, "detail", 1, "ServerError", True),
    (503, "detail", 2, "ServiceUnavailableError", True),
    (529, "detail", 1, "AttributeError", False),
]
for status, member, sent, kind, kept in expected:
    answer.update(status=status, body={member: "slow down"})
    requests.clear()
    try:
        client.embed(["a cat"], model="voyage-3")
        raise SystemExit(f"{status} is no error at all now")
    except Exception as error:
        got_kind, got_kept = type(error).__name__, "retry-after" in getattr(error, "headers", {})
    many = f"{len(requests)} request" + ("s," if len(requests) > 1 else ", ")
    print(f"{status} {json.dumps(answer['body']):25} {many} {got_kind}, headers {'kept' if got_kept else 'lost'}")
    assert (len(requests), got_kind, got_kept) == (sent, kind, kept), f"{status} with {member} has changed"
    if len(requests) == 2:
        assert requests[1] - requests[0] < 5, "Retry-After is read now"
PY
