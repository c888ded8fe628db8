"""The folder of `--format npy` is served by `clip-retrieval back` over the index of `clip-retrieval index`, as it is."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import re
import subprocess
import urllib.request

import numpy
import pytest

from conftest import SEED

BACK = pathlib.Path(__file__).parent / "clip_retrieval" / "back.py"
# In parts of ten: numbers of one and of two digits, whose order by name is not that by number unless they are padded.
SAMPLES, PART, BROKEN = 125, 10, 37


@pytest.fixture(scope="module")
def samples(work) -> list[tuple[str, str, bytes]]:
    """Path, caption and picture of each file that can be read, in the order of the paths; one more, in the middle, is broken."""
    import inputs

    made = list(zip(inputs.pictures(SAMPLES, SEED), inputs.captions(SAMPLES, SEED)))
    whole = []
    for number, (picture, caption) in enumerate(made):
        path = f"photos/{'ab'[number // 60]}/{number:03}.png" if number < 120 else f"photos/{number:03} é.png"
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_bytes(picture if number != BROKEN else picture[:99])
        (work / path).with_suffix(".txt").write_text(caption, encoding="utf-8")
        if number != BROKEN:
            whole.append((path, caption, picture))
    return sorted(whole)


@pytest.fixture(scope="module")
def arrays(work, samples) -> pathlib.Path:
    """What `clipserve embed` makes of them."""
    options = ["--out", "served", "--format", "npy", "--dtype", "f16", "--modality", "both", "--part-rows", str(PART)]
    done = subprocess.run(["clipserve", "embed", "photos", *options], cwd=work, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(list((work / "served" / "img_emb").iterdir())) == -(-SAMPLES // PART)
    return work / "served"


@contextlib.contextmanager
def back(arrays: pathlib.Path, index: pathlib.Path, *options: str):
    """The address of a running `clip-retrieval back`, in the folder that paths are relative to."""
    python = pathlib.Path(os.environ["CLIP_RETRIEVAL"]) / "bin" / "python"
    log = index / "log"
    command = [python, "-u", BACK, arrays, index, *options]
    with log.open("w") as file, subprocess.Popen(command, cwd=arrays.parent, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            found = None
            while not found:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                assert process.returncode is None, log.read_text()
                found = re.search(r"Running on http://127\.0\.0\.1:(\d+)", log.read_text())
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def ask(address: str, **body) -> list[dict]:
    """What it answers to a query."""
    body = {"indice_name": "photos", "modality": "image", "num_images": 10, **body}
    request = urllib.request.Request(f"{address}/knn-service", json.dumps(body).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


@pytest.mark.parametrize("options", [(), ("hdf5",)], ids=["metadata from Parquet", "metadata from HDF5"])
def test_back_answers_the_nearest_pictures_in_their_order(options, arrays, samples, service, tmp_path):
    pictures = service.pictures([picture for _, _, picture in samples])["float16"].astype("f4")
    captions = service.texts([caption for _, caption, _ in samples])["float16"].astype("f4")
    (query,) = service.texts(["cat face"])["float"]
    (own,) = service.pictures([samples[100][2]])["float"]
    with back(arrays, tmp_path, *options) as address:
        assert json.load(urllib.request.urlopen(f"{address}/indices-list")) == ["photos"]
        by_text = ask(address, embedding_input=query.tolist())
        by_picture = ask(address, embedding_input=own.tolist(), num_images=1)
        texts = ask(address, embedding_input=query.tolist(), modality="text")
        # Made of the metadata where it is asked to.
        assert (tmp_path / "metadata.hdf5").exists() == bool(options)
    assert [row["image_path"] for row in by_picture] == [samples[100][0]]
    for rows, stored in [(by_text, pictures), (texts, captions)]:
        similarities = stored @ query
        nearest = numpy.argsort(-similarities)[:10].tolist()
        assert [row["id"] for row in rows] == nearest
        assert [row["similarity"] for row in rows] == pytest.approx(similarities[nearest].tolist(), abs=1e-4)
        for row in rows:
            path, caption, _ = samples[row["id"]]
            assert (row["image_path"], row["caption"]) == (path, caption)
            # It opens the path that it was given.
            assert base64.b64decode(row["image"]).startswith(b"\xff\xd8"), row
