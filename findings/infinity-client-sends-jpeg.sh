#!/usr/bin/env bash
# infinity-client 0.0.78: its vision client sends every picture as a JPEG of quality 75, and refuses pictures with transparency (seen
# 2026-11-28; infinity-client 0.0.78, pillow 13.0.0, requests 2.34.2, numpy 2.4.6).
#
# Expected: image_embed takes a PIL image and sends it without loss, as PNG, or converts what its format cannot hold.
# Behaviour: image.save(format="JPEG") with Pillow's settings, so with quality 75 and colours at half the resolution. The server embeds
# other pixels than the caller has: the same picture given to it as a file has another embedding, and one that came from a JPEG is
# compressed twice. RGBA, LA and palettes, thus most PNG and GIF files, are an OSError. It comes from the future's result(); the request is
# never sent. What helps: picture.convert("RGB") first; for the caller's own pixels, a POST of one's own.
# Also: `pip install infinity-client` brings neither of the three packages that the module imports (numpy, requests, Pillow).
#
# Output seen:
#   declared: attrs, httpx, python-dateutil
#   RGB: sent as data:image/jpeg;base64, pixels off by up to 157
#   RGBA, LA, P: OSError, 0 requests
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet infinity-client==0.0.78 pillow==13.0.0 requests==2.34.2 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
import base64
import http.server
import importlib.metadata
import io
import json
import re
import threading

import numpy
from infinity_client.vision_client import InfinityVisionAPI
from PIL import Image

inputs = []


class Stub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        inputs.extend(request["input"])
        self.answer({"data": [{"index": 0, "embedding": [1.0, 0.0]}], "usage": {"total_tokens": 0}})

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


declared = sorted(re.match(r"[\w-]+", line)[0] for line in importlib.metadata.requires("infinity-client"))
print("declared:", ", ".join(declared))
assert not {"numpy", "requests", "pillow"} & set(declared), "what it imports is declared now"

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = InfinityVisionAPI(url=f"http://127.0.0.1:{server.server_port}", format="float", model="m")

stripes = numpy.zeros((8, 8, 3), numpy.uint8)
stripes[:, 0::2, 2] = 255
stripes[:, 1::2, 0] = 255
picture = Image.fromarray(stripes)

inputs.clear()
client.image_embed("m", [picture]).result()
start, _, rest = inputs[0].partition(",")
sent = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(rest)))).astype(int)
off = int(abs(sent - stripes).max())
print(f"RGB: sent as {start}, pixels off by up to {off}")
assert start == "data:image/jpeg;base64" and off > 100, "pictures are sent in another way"

inputs.clear()
for mode in ("RGBA", "LA", "P"):
    try:
        client.image_embed("m", [picture.convert(mode)]).result()
        raise SystemExit(f"{mode} is sent now")
    except OSError as error:
        assert str(error) == f"cannot write mode {mode} as JPEG", error
print(f"RGBA, LA, P: OSError, {len(inputs)} requests")
assert not inputs, "requests are sent first now"
PY
