"""The service under measurement: started, asked, stopped."""

import base64
import io
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

import numpy

TYPES = ("float", "float16", "int8", "uint8", "ubinary")


class Service:
    """A process of `clipserve serve` on a free port, for as long as the `with` block lasts."""

    def __init__(self, binary, model):
        arguments = [binary, "serve", "--listen", "127.0.0.1:0"]
        self._arguments = arguments + (["--model", model] if model else [])

    def __enter__(self):
        # It logs to stderr; the first line with an address is that of its listener.
        self._process = subprocess.Popen(self._arguments, stderr=subprocess.PIPE, text=True)
        for line in self._process.stderr:
            found = re.search(r"listening.*address=(\S+)", line)
            if found:
                self.url = f"http://{found[1]}"
                break
        else:
            raise SystemExit("the service did not start: " + " ".join(self._arguments))
        while not self._is_ready():
            if self._process.poll() is not None:
                raise SystemExit("the service ended:\n" + self._process.stderr.read())
            time.sleep(0.1)
        # A log that nobody reads would stop it one day.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()

    def _is_ready(self):
        try:
            return urllib.request.urlopen(self.url + "/readyz").status == 200
        except urllib.error.URLError:
            return False

    def info(self):
        return json.load(urllib.request.urlopen(self.url + "/info"))

    def pictures(self, files):
        """The embeddings of PNG files: an array of each type."""
        return self._embed("image", "images", [base64.b64encode(file).decode() for file in files], 32)

    def texts(self, texts):
        """The embeddings of texts: an array of each type."""
        return self._embed("text", "texts", texts, 256)

    def _embed(self, route, name, items, batch):
        rows = {kind: [] for kind in TYPES}
        for start in range(0, len(items), batch):
            # Computed for the first type; the service's cache has it for the others.
            for kind in TYPES:
                body = {name: items[start : start + batch], "embedding_type": kind}
                headers = {"content-type": "application/json", "accept": "application/x-npy"}
                request = urllib.request.Request(f"{self.url}/embed/{route}", json.dumps(body).encode(), headers)
                rows[kind].append(numpy.load(io.BytesIO(urllib.request.urlopen(request).read())))
        return {kind: numpy.concatenate(parts) for kind, parts in rows.items()}
