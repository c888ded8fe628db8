"""A constant load on a service, and what became of each request: load.py URL --rate R --seconds S [--pictures SHARE]

One line of JSON a request on standard output, as it ends: when it began (seconds, the wall's clock), how long it took, its kind, its
status (0 where there was no connection, -1 where there was no whole answer) and the model that answered. Requests begin by the clock,
whatever became of those before, at most LIMIT at a time; each has a connection of its own and is sent once, so nothing is hidden by a
client that tries again. SIGTERM begins no more and waits for those that run. No two ask for the same, so no cache answers. Python's
standard library alone.
"""

import argparse
import asyncio
import base64
import json
import random
import signal
import struct
import time
import urllib.parse
import zlib

LIMIT = 512
CONNECTING = 5.0  # seconds, as below
PATIENCE = 60.0
SIDE = 96  # a picture of noise has some 27 kB then, more than a balancer keeps in one buffer


def picture():
    rows = b"".join(b"\0" + random.randbytes(SIDE * 3) for _ in range(SIDE))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    coded = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(coded)).decode()


def request(host, kind):
    if kind == "picture":
        path, inputs = "/embed/image", {"images": picture()}
    else:
        path, inputs = "/embed/text", {"texts": f"a drawing of {random.random()}"}
    body = json.dumps({**inputs, "dimensions": 4}).encode()
    head = (f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", f"content-length: {len(body)}", "connection: close")
    return "\r\n".join((*head, "", "")).encode() + body


async def ask(url, kind):
    """Its status, and the model that answered."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(url.hostname, url.port or 80), CONNECTING)
    except (OSError, asyncio.TimeoutError):
        return 0, None
    try:
        writer.write(request(url.netloc, kind))
        answer = await reader.read()
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        if len(body) != length:
            return -1, None
        return status, json.loads(body)["model"] if status == 200 else body[:200].decode(errors="replace")
    except (OSError, ValueError, IndexError, StopIteration):
        return -1, None
    finally:
        writer.close()


async def one(url, kind):
    began = time.time()
    try:
        status, said = await asyncio.wait_for(ask(url, kind), PATIENCE)
    except asyncio.TimeoutError:
        status, said = -1, f"nothing within {PATIENCE} s"
    print(json.dumps({"began": began, "took": time.time() - began, "kind": kind, "status": status, "said": said}), flush=True)


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", type=urllib.parse.urlsplit)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pictures", type=float, default=0.2, help="their share among texts [0.2]")
    arguments = parser.parse_args()
    started, running, ended = time.monotonic(), set(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    for number in range(int(arguments.rate * arguments.seconds)):
        await asyncio.sleep(started + number / arguments.rate - time.monotonic())
        if ended.is_set():
            break
        if len(running) >= LIMIT:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        kind = "picture" if random.random() < arguments.pictures else "text"
        task = asyncio.create_task(one(arguments.url, kind))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)


asyncio.run(main())
