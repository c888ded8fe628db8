"""The peers of `make bench ARGS="bulk"`, loaded once and asked line by line: clip-retrieval's inference and sentence-transformers.

Arguments: the checkpoint's directory, and a folder that may be emptied. Of each line of standard input (`pictures FOLDER`,
`texts FILE`) the answer is a line of standard output that begins with `answer: `; the first such line names the versions.

Nothing is tuned: torch's default threads, the defaults of `clip-retrieval inference` (runs of 256, four processes that decode) and of `encode`
(runs of 32). Of clip-retrieval its own reader, mapper, writer and runner work here; left out is its logger, which waits at the end, and
`all_clip` loads the checkpoint before the clock starts, as its `hf_clip:` does for any folder.
"""

import importlib.metadata
import shutil
import sys
import time
from pathlib import Path

from all_clip import load_clip
from clip_retrieval.clip_inference.mapper import ClipMapper
from clip_retrieval.clip_inference.reader import FilesReader
from clip_retrieval.clip_inference.runner import Runner
from clip_retrieval.clip_inference.writer import NumpyWriter
from sentence_transformers import SentenceTransformer, models

PACKAGES = ["clip-retrieval", "all_clip", "sentence-transformers", "transformers", "torch", "pillow"]
BATCH = 256
PROCESSES = 4

checkpoint, out = sys.argv[1:]
MODEL = f"hf_clip:{checkpoint}"


def load():
    return load_clip(clip_model=MODEL, use_jit=False, warmup_batch_size=BATCH, clip_cache_path=None)


class Silent:
    """In the place of the logger."""

    def start(self):
        pass

    def end(self):
        pass

    def __call__(self, stats):
        pass


def pictures(folder: str) -> float:
    shutil.rmtree(out, ignore_errors=True)
    kinds = {"enable_image": True, "enable_text": False, "enable_metadata": False}

    def reader(sampler):
        _, preprocess, tokenizer = load()
        return FilesReader(sampler, preprocess, tokenizer, folder, BATCH, PROCESSES, **kinds)

    def mapper():
        return ClipMapper(
            **kinds,
            use_mclip=False,
            clip_model=MODEL,
            use_jit=False,
            mclip_model="",
            warmup_batch_size=BATCH,
            clip_cache_path=None,
        )

    def writer(partition):
        return NumpyWriter(partition_id=partition, output_folder=out, output_partition_count=1, **kinds)

    runner = Runner(reader, mapper, writer, lambda partition: Silent(), output_partition_count=1)
    started = time.perf_counter()
    runner(0)
    took = time.perf_counter() - started
    return len(list(Path(folder).iterdir())) / took


def texts(file: str) -> float:
    lines = Path(file).read_text().splitlines()
    started = time.perf_counter()
    sentences.encode(lines)
    return len(lines) / (time.perf_counter() - started)


load()
sentences = SentenceTransformer(modules=[models.CLIPModel(checkpoint)], device="cpu")
sentences.encode(["warm"] * 32)
print("answer:", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES), flush=True)
for line in sys.stdin:
    what, path = line.rstrip("\n").split(" ", 1)
    rate = {"pictures": pictures, "texts": texts}[what](path)
    print("answer:", rate, flush=True)
