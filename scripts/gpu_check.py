"""What gpu-check.sh measures: each command is a part of its page, in Markdown on stdout. Python 3.8 and nothing beside it.

    gpu_check.py libraries [FOLDER ...]                 what the provider loads, and where it is
    gpu_check.py goldens                                what transformers computed, and drawings by their names
    gpu_check.py speed ViT-B/32|ViT-L/14 [--blocks N]   a checkpoint of that size: what the CPU computes, and speeds

Exits 10 when a value is farther from what it must be than it may. A part that cannot be had ends with one line on stderr and 1.
"""

import argparse
import base64
import contextlib
import glob
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures"
PICTURES = {"640x480": FIXTURES / "images/photo_640x480.jpg", "crop": ROOT / "benches/crop_224x224.jpg"}
CONNECTIONS = (1, 32, 256)

# The tests' own bounds (tests/it/reference.rs, towers.rs), as parts of the reference's norm.
TOLERANCE = {"f32": 1e-5, "f16": 5e-3}
# The one picture whose decoders may differ by a level or two.
LOSSY, LOSSY_TOLERANCE = "cat_lossy.webp", 2e-2

WRONG = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="clipserve")
    parser.add_argument("--load", help="the benchmarks' program, whose load generator asks")
    parser.add_argument("--runtime", type=pathlib.Path, help="ONNX Runtime's folder")
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--work", type=pathlib.Path, help="folder for checkpoints, graphs, logs, and where the libraries are")
    parser.add_argument("--seconds", type=float, default=3, help="of each load, after as long as a third of them")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("libraries").add_argument("folder", nargs="*", help="where to look first")
    commands.add_parser("goldens")
    of_size = commands.add_parser("speed")
    of_size.add_argument("size", choices=SIZES)
    of_size.add_argument("--blocks", type=int, help="of each tower, instead of the size's own number")
    options = parser.parse_args()
    # Ends the services too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the time was up"))
    return {"libraries": libraries, "goldens": goldens, "speed": speed}[options.command](options)


# --------------------------------------------------------------------------------------------------------------- libraries

# What the CUDA provider opens by itself when it first needs it, so that no ELF names it: the patch embedding is a convolution, which
# is cuDNN's, and cuDNN compiles kernels. And what those open in turn, beside themselves.
OPENED = {"libcudnn.so.9": "libcudnn_*.so.9", "libnvrtc.so.13": "libnvrtc-builtins.so.13*"}


# Where systems have CUDA; the driver of a container too.
PLACES = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/usr/local/nvidia/lib64", "/usr/lib/*-linux-gnu", "/usr/lib64")


def libraries(options):
    """Names each library, and leaves the folders where the loader is to look to the services."""
    providers = {name: options.runtime / f"libonnxruntime_providers_{name.lower()}.so" for name in ("CUDA", "TensorRT")}
    for provider in providers.values():
        if not provider.exists():
            sys.exit(f"{provider} is not there")
    folders, rows = list(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))), {}
    known = usual_libraries([*options.folder, *folders])

    def find(provider):
        # Each that is found may want others.
        while True:
            found = {**{name: known.get(name) for name in OPENED}, **loaded(provider, folders)}
            wanted = [name for name, place in found.items() if name in known and (name in OPENED or not place)]
            more = [folder for folder in dict.fromkeys(known[name].parent for name in wanted) if str(folder) not in folders]
            if not more:
                return found
            folders.extend(map(str, more))

    for purpose, provider in providers.items():
        found = find(provider)
        if purpose == "CUDA" and None in found.values():
            known = {**libraries_anywhere(), **known}
            found = find(provider)
        for name, others in OPENED.items():
            found.update((path.name, path) for path in (known[name].parent.glob(others) if name in known else ()))
        for name, place in found.items():
            rows.setdefault(name, (purpose, place))
    (options.work / "library_path").write_text(":".join(folders))

    print("| library | for | MB | where |\n|---|---|---:|---|")
    for name, (purpose, place) in rows.items():
        print(f"| {name} | {purpose} |", f"{os.stat(place).st_size / 1e6:.1f} | {place} |" if place else "| not on this machine |")
    needed = [os.stat(place).st_size for purpose, place in rows.values() if purpose == "CUDA" and place]
    print(f"\nCUDA's {len(needed)} that are here: {sum(needed) / 1e6:.0f} MB.")
    missing = [name for name, (purpose, place) in rows.items() if purpose == "CUDA" and not place]
    sys.exit(f"{', '.join(missing)}: not on this machine" if missing else 0)


def usual_libraries(folders):
    """NVIDIA's libraries by name, of `folders`, of Python's packages and of the system; the first of a name counts."""
    roots = [*folders, *sys.path[1:]]
    places = roots + [f"{root}/{packages}" for root in roots for packages in ("nvidia/*/lib", "tensorrt_libs")] + list(PLACES)
    known = {}
    for path in (pathlib.Path(path) for place in places for path in sorted(glob.glob(f"{place}/lib[cn][uv]*.so.*"))):
        known.setdefault(path.name, path)
    return known


def libraries_anywhere():
    """The same of the whole disk, as far as it can be searched in 15 s. Stubs are for linking, and `compat` is another kernel module's driver."""
    command = ["timeout", "15", "find", "/", "(", "-name", "stubs", "-o", "-name", "compat", "-o", "-path", "/proc", "-o", "-path", "/sys", ")",
               "-prune", "-o", "-name", "lib[cn][uv]*.so.*", "-print"]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode().splitlines()
    return {path.name: path for path in map(pathlib.Path, reversed(found))}


def loaded(library, folders):
    """Where the loader finds each NVIDIA library that `library` needs, by its ELF's entries and by theirs; None where it does not."""
    environment = dict(os.environ, LD_LIBRARY_PATH=":".join(folders))
    lines = subprocess.run(["ldd", library], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode().splitlines()
    pairs = (line.split() for line in lines if line.lstrip().startswith(("libcu", "libnv")))
    return {name: None if place == "not" else place for name, _, place, *_ in pairs}


# ------------------------------------------------------------------------------------------------------------- checkpoints

# Width, blocks and heads of the towers, the side of a patch, and the width of the shared space.
SIZES = {
    "ViT-B/32": dict(vision=(768, 12, 12), text=(512, 12, 8), patch=32, shared=512),
    "ViT-L/14": dict(vision=(1024, 24, 16), text=(768, 12, 12), patch=14, shared=768),
}


def checkpoint(options):
    """The folder of a checkpoint with random weights, made where it is not there yet: transformers' layout, in f16."""
    folder = options.work / options.size.replace("/", "-")
    if folder.exists():
        return folder
    size, towers, started = SIZES[options.size], {}, time.time()
    for name in ("text", "vision"):
        width, blocks, heads = size[name]
        blocks = options.blocks or blocks
        towers[f"{name}_config"] = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=blocks,
                                        num_attention_heads=heads, projection_dim=size["shared"])
    towers["vision_config"]["patch_size"] = size["patch"]
    config = dict(architectures=["CLIPModel"], model_type="clip", projection_dim=size["shared"], **towers)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(config))
    for file in (FIXTURES / "tiny-clip").glob("*"):
        if file.is_file() and file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, partial)
    weights = partial / "model.safetensors"
    write_safetensors(weights, tensors(config))
    print(f"{weights.stat().st_size / 1e6:.0f} MB of random weights were made in {time.time() - started:.1f} s.\n")
    return partial.rename(folder)


def tensors(config):
    """Name, shape, mean and deviation of every tensor of CLIPModel; as large as `src/export/synthetic.rs` makes them."""
    yield "logit_scale", (), 2.6592, 0
    for tower, projection in (("text", "text_projection"), ("vision", "visual_projection")):
        c, of = config[f"{tower}_config"], f"{tower}_model."
        width, inner, blocks = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
        spread = width ** -0.5
        yield f"{projection}.weight", (c["projection_dim"], width), 0, spread
        if tower == "text":
            yield of + "embeddings.token_embedding.weight", (49408, width), 0, 0.02
            yield of + "embeddings.position_embedding.weight", (77, width), 0, 0.02
        else:
            yield of + "embeddings.class_embedding", (width,), 0, spread
            yield of + "embeddings.patch_embedding.weight", (width, 3, c["patch_size"], c["patch_size"]), 0, 0.02
            yield of + "embeddings.position_embedding.weight", ((224 // c["patch_size"]) ** 2 + 1, width), 0, 0.02
        # The name is misspelt in transformers.
        norms = ["final_layer_norm"] if tower == "text" else ["pre_layrnorm", "post_layernorm"]
        norms += [f"encoder.layers.{block}.layer_norm{which}" for block in range(blocks) for which in (1, 2)]
        for norm in norms:
            yield f"{of}{norm}.weight", (width,), 1, 0
            yield f"{of}{norm}.bias", (width,), 0, 0
        for block in range(blocks):
            layers = [(f"self_attn.{which}_proj", width, width, spread) for which in ("q", "k", "v", "out")]
            layers += [("mlp.fc1", inner, width, spread * 0.5 ** 0.5), ("mlp.fc2", width, inner, spread * (2 * blocks) ** -0.5)]
            for layer, rows, columns, deviation in layers:
                yield f"{of}encoder.layers.{block}.{layer}.weight", (rows, columns), 0, deviation
                yield f"{of}encoder.layers.{block}.{layer}.bias", (rows,), 0, 0


def write_safetensors(path, tensors):
    """Weights are cut out of one pool of random numbers, each tensor from a place of its own: a thousand times as fast as a number each."""
    tensors, header, end = list(tensors), {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _, _ in tensors:
        start, end = end, end + 2 * count(shape)
        header[name] = dict(dtype="F16", shape=shape, data_offsets=(start, end))
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    # Of deviation one; as many as a prime, so that no two rows of a matrix are the same.
    generator, pools = random.Random(0), {}
    numbers = [generator.uniform(-3 ** 0.5, 3 ** 0.5) for _ in range(262139)]
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, shape, mean, deviation in tensors:
            key = (mean, deviation)
            if key not in pools:
                pools[key] = struct.pack(f"<{len(numbers)}e", *(mean + deviation * number for number in numbers))
            pool, left = pools[key], 2 * count(shape)
            start = 2 * (zlib.crc32(name.encode()) % len(numbers))
            while left:
                left -= file.write(pool[start:start + left])
                start = 0


def count(shape):
    total = 1
    for size in shape:
        total *= size
    return total


# ----------------------------------------------------------------------------------------------------------------- service


class Service:
    """clipserve as config/cuda.toml has it, on a free port; leaving the `with` block stops it."""

    def __init__(self, options, model, provider, precision, config=ROOT / "config/cuda.toml"):
        self.log = open(options.work / "service.log", "w+")
        command = [options.binary, "serve", "--listen", "127.0.0.1:0", "--model", model, "--provider", provider,
                   "--precision", precision, "--cache-dir", options.work / "cache", "--log-format", "text",
                   "--set", "cache.max_bytes=0", "--set", f"engine.library={next(options.runtime.glob('libonnxruntime.so.*'))}"]
        command += ["--config", config] if config else []
        environment = dict(os.environ)
        if (options.work / "library_path").exists():
            environment["LD_LIBRARY_PATH"] = (options.work / "library_path").read_text()
        self.started = time.time()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env=environment)

    def __enter__(self):
        try:
            while not any(line.rstrip().endswith("ready") for line in self.lines()):
                if self.process.poll() is not None:
                    sys.exit(f"exit code {self.process.returncode}, last line: " + "".join(self.lines()[-1:]))
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        self.ready = time.time() - self.started
        self.address = next(line.rsplit("address=")[1].split()[0] for line in self.lines() if "address=" in line)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        # Without the time of day.
        lines = (line.partition(" ")[2].strip() for line in self.lines())
        for line in dict.fromkeys(line for line in lines if line.startswith(("WARN", "ERROR"))):
            print(f"\n    {line}")

    def lines(self):
        return pathlib.Path(self.log.name).read_text(errors="replace").splitlines()

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=120)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, content, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {text[:300]}")
        return text

    def embed(self, kind, items):
        """Embeddings of pictures' bytes ("image") or of texts ("text"), not normalised, of one request."""
        encoded = [base64.b64encode(item).decode() for item in items] if kind == "image" else list(items)
        return json.loads(self.ask(f"/embed/{kind}", {f"{kind}s": encoded, "normalize": False}))["embeddings"]

    def counters(self):
        """What /metrics counts of stages and batches, and the processor time so far."""
        values = {}
        for line in self.ask("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(("clipserve_stage_duration", "clipserve_batch_size")) and "bucket" not in name:
                values[name] = float(value)
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        values["cpu"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        values["clock"] = time.time()
        return values


# ------------------------------------------------------------------------------------------------------------------ values


class Checks:
    """A table of what was compared, and whether all of it holds."""

    def __init__(self):
        self.hold = True
        print("| what | how many | farthest | bound | |\n|---|---:|---:|---:|---|")

    def row(self, what, distances, bound):
        worst = max(distances)
        holds = worst <= bound
        self.hold &= holds
        print(f"| {what} | {len(distances)} | {worst:.1e} | {bound:.0e} | {'holds' if holds else '**does not hold**'} |")

    def independence(self, service, kind, items, bound):
        """Each item alone, and then all in one request, in three orders."""
        alone = [service.embed(kind, [item])[0] for item in items]
        distances, same = [], 0
        for turn in range(3):
            order = [(place * 5 + turn) % len(items) for place in range(len(items))]
            rows = service.embed(kind, [items[place] for place in order])
            distances += [distance(row, alone[place]) for row, place in zip(rows, order)]
            same += sum(row == alone[place] for row, place in zip(rows, order))
        self.row(f"{kind}s alone and among others ({same} of them to the bit)", distances, bound)


def distance(actual, expected):
    """The largest difference of two embeddings, as part of the second's norm."""
    return max(abs(a - b) for a, b in zip(actual, expected)) / sum(b * b for b in expected) ** 0.5


def golden(name):
    return json.loads((FIXTURES / "golden" / name).read_text())


def picture(name):
    return (FIXTURES / "images" / name).read_bytes()


def goldens(options):
    bound = TOLERANCE[options.precision]
    with Service(options, FIXTURES / "tiny-clip", options.provider, options.precision) as service:
        checks = Checks()
        expected = {name: image["image_embeds_raw"] for name, image in golden("images.json")["images"].items()
                    if "image_embeds_raw" in image}
        rows = dict(zip(expected, service.embed("image", map(picture, expected))))
        distances = {name: distance(rows[name], expected[name]) for name in expected}
        lossy = distances.pop(LOSSY)
        checks.row("pictures against transformers", distances.values(), bound)
        checks.row("a lossy WebP against transformers", [lossy], max(bound, LOSSY_TOLERANCE))
        texts = golden("texts.json")["texts"]
        rows = service.embed("text", [text["text"] for text in texts])
        distances = [distance(row, text["text_embeds_raw"]) for row, text in zip(rows, texts)]
        checks.row("texts against transformers", distances, bound)
        similarity = golden("similarity.json")
        asked = dict(images=[base64.b64encode(picture(name)).decode() for name in similarity["images"]], texts=similarity["texts"])
        rows = json.loads(service.ask("/similarity", asked))["logits_per_image"]
        pairs = zip(similarity["images"], rows, similarity["logits_per_image"])
        distances = [max(abs(a - b) for a, b in zip(row, known)) for name, row, known in pairs if name != LOSSY]
        # Both sides may be off by the bound, and the logits are a hundred times as large.
        checks.row("logits against transformers, a picture each", distances, 2 * bound * similarity["logit_scale_exp"])
        checks.independence(service, "image", [picture(name) for name in expected], bound)
        checks.independence(service, "text", [text["text"] for text in texts], bound)
    with Service(options, ROOT / "onnx/emoji-clip", options.provider, options.precision) as service:
        drawings = json.loads((ROOT / "onnx/examples/expected.json").read_text())
        asked = dict(images=[base64.b64encode((ROOT / "onnx/examples" / file).read_bytes()).decode() for file in drawings],
                     texts=list(drawings.values()))
        rows = json.loads(service.ask("/similarity", asked))["logits_per_image"]
        right = sum(row.index(max(row)) == place for place, row in enumerate(rows))
    print(f"\nThe model in the box ranks its own name first for {right} of {len(drawings)} drawings.")
    return 0 if checks.hold and right == len(drawings) else WRONG


# ------------------------------------------------------------------------------------------------------------------ speeds


def speed(options):
    bound = TOLERANCE[options.precision]
    names = ["astronaut.png", "cat_420.jpg", "coffee_cmyk.jpg", "logo_rgba.png", "photo_640x480.jpg", "rocket.jpg", "wide_1000x335.png"]
    items = {"image": [picture(name) for name in names], "text": [text["text"] for text in golden("texts.json")["texts"]]}
    folder = checkpoint(options)
    expected = on_the_cpu(options, folder, items)
    with Service(options, folder, options.provider, options.precision) as service:
        print(f"Ready after {service.ready:.1f} s, exporting and warming up included.\n")
        checks = Checks()
        for kind in items:
            rows = service.embed(kind, items[kind])
            checks.row(f"{kind}s against the CPU provider in f32", list(map(distance, rows, expected[kind])), bound)
            checks.independence(service, kind, items[kind], bound)
        print("\n| picture | connections | images/s | p50 ms | p99 ms | refused or failed | generator CPU | GPU % | GPU MB | cores | images a run "
              "| runs, % of the time | decode ms | resize ms | run ms | share of decode |\n|---|" + "---:|" * 15)
        complaints = [measure(options, service, name, connections) for name in PICTURES for connections in CONNECTIONS]
    complaints = [complaint for complaint in complaints if complaint]
    print("".join(f"\n* {complaint}" for complaint in complaints))
    if not checks.hold:
        return WRONG
    sys.exit("; ".join(complaints) or 0)


def on_the_cpu(options, folder, items):
    """The embeddings that the CPU provider computes in f32, computed once for each checkpoint."""
    kept = folder / "cpu.json"
    if not kept.exists():
        with Service(options, folder, "cpu", "f32", config=None) as service:
            kept.write_text(json.dumps({kind: service.embed(kind, items[kind]) for kind in items}))
    return json.loads(kept.read_text())


def measure(options, service, name, connections):
    """One row: what the clients saw, what the GPU did meanwhile, and what an image took in each stage. Returns what went wrong."""
    warm_up = options.seconds / 3
    command = [options.load, "load", "--url", f"http://{service.address}", "--connections", str(connections), "--picture", PICTURES[name],
               "--seconds", str(options.seconds), "--warm-up", str(warm_up)]
    before = service.counters()
    with Gpu(warm_up) as gpu:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    after = service.counters()
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in ran.stdout.splitlines() if line.startswith("|")]
    if ran.returncode or len(table) != 3:
        return f"{name}, {connections} connections: no load: {(ran.stderr.strip() or ran.stdout.strip())[-300:]}"
    seen = dict(zip(table[0], table[2]))
    spent = {key: after[key] - before.get(key, 0) for key in after}
    stages = {stage: spent[f'clipserve_stage_duration_seconds_sum{{stage="{stage}"}}'] for stage in ("decode", "resize", "image_inference")}
    images = spent['clipserve_stage_duration_seconds_count{stage="decode"}']
    per_run = images / spent['clipserve_batch_size_count{modality="image"}']
    cells = [name, connections, seen["answers/s"], seen["p50 ms"], seen["p99"], int(seen["429"]) + int(seen["failed"]),
             seen["generator CPU"], *gpu.figures(),
             f"{spent['cpu'] / spent['clock']:.1f}", f"{per_run:.1f}", f"{100 * stages['image_inference'] / spent['clock']:.0f}",
             *(f"{1e3 * seconds / images:.2f}" for seconds in stages.values()), f"{100 * stages['decode'] / sum(stages.values()):.0f} %"]
    print("|", " | ".join(map(str, cells)), "|")
    failures = [line.strip() for line in ran.stdout.splitlines() if "first failure" in line]
    return f"{name}, {connections} connections: {failures[0]}" if failures else None


class Gpu:
    """What nvidia-smi says of the first GPU, five times a second; of the first `warm_up` seconds nothing."""

    def __init__(self, warm_up):
        self.skipped = int(warm_up * 5)
        self.samples = []

    def __enter__(self):
        # Line by line: what waits in a buffer is lost when it is stopped.
        command = ["stdbuf", "--output=L", "nvidia-smi", "--id=0", "--query-gpu=utilization.gpu,memory.used",
                   "--format=csv,noheader,nounits", "--loop-ms=200"]
        there = shutil.which("nvidia-smi")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True) if there else None
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            lines = self.process.communicate()[0].splitlines()
            self.samples = [line.split(", ") for line in lines if line.count(", ") == 1 and "[" not in line][self.skipped:]

    def figures(self):
        """The mean utilisation in percent, and the most memory in MB."""
        if not self.samples:
            return "-", "-"
        return f"{sum(float(busy) for busy, _ in self.samples) / len(self.samples):.0f}", max(int(memory) for _, memory in self.samples)


if __name__ == "__main__":
    sys.exit(main())
