"""The folder in which the page's commands run: pictures in one Parquet file, `clipserve` on the path, a running service, and what the
commands at the head of the page have made.

Owns what the page may take for granted. Does not own its blocks (page.py).
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy
import pyarrow as pa
import pyarrow.parquet
import pytest

import page

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "onnx" / "emoji-clip"
CLIPSERVE = pathlib.Path(os.environ.get("CLIPSERVE", ROOT / "target" / "release" / "clipserve")).absolute()
# Pictures made as those of `make bench-recall` are.
sys.path.insert(0, str(ROOT / "benches" / "recall"))

PICTURES, CAPTIONS, SEED = 2_000, 200, 1


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> pathlib.Path:
    """The folder, with pictures.parquet."""
    import inputs

    folder = tmp_path_factory.mktemp("work")
    pictures = list(inputs.pictures(PICTURES, SEED))
    ids = [f"drawing-{number:04}" for number in range(PICTURES)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": data, "path": f"{id}.png"} for id, data in zip([*ids, "broken"], [*pictures, pictures[0][:99]])]
    pyarrow.parquet.write_table(pa.table({"id": [*ids, "broken"], "image": pa.array(cells, kind)}), folder / "pictures.parquet")
    (folder / "bin").mkdir()
    (folder / "bin" / "clipserve").symlink_to(CLIPSERVE)
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    os.environ["CLIPSERVE__MODEL__PATH"] = str(MODEL)
    os.environ["CLIPSERVE__MODEL__CACHE_DIR"] = str(folder / "cache")
    return folder


@pytest.fixture(scope="session")
def embedded(work) -> pathlib.Path:
    """The folder, with what the page's first commands make."""
    for block in page.sections()[""]:
        if block.language == "sh":
            shell(block, work)
    return work


@pytest.fixture(scope="session")
def service(work):
    """A running service."""
    from service import Service

    with Service(str(CLIPSERVE), None) as service:
        yield service


@pytest.fixture(scope="session")
def captions() -> list[str]:
    """The queries."""
    import inputs

    return inputs.captions(CAPTIONS, SEED)


@pytest.fixture(scope="session")
def truth(embedded, service, captions) -> list[set[str]]:
    """The ten nearest pictures of each caption, by the cosine of f32."""
    table = pa.concat_tables(map(pyarrow.parquet.read_table, sorted((embedded / "f32" / "embeddings").iterdir())))
    table = table.filter(table["embedding"].is_valid())
    stored = numpy.stack(table["embedding"].to_numpy(zero_copy_only=False))
    nearest = numpy.argsort(-(service.texts(captions)["float"] @ stored.T), axis=1)[:, :10]
    ids = table["id"].to_pylist()
    return [{ids[row] for row in rows} for rows in nearest]


def shell(block: page.Block, folder: pathlib.Path) -> str:
    """Runs a block of the shell; what it printed."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.place}:\n{done.stdout}{done.stderr}"
    return done.stdout


def run(block: page.Block, names: dict, service) -> None:
    """Runs a block of Python, with the running service in place of the page's address."""
    text = block.text.replace(page.ADDRESS, service.url.removeprefix("http://"))
    exec(compile("\n" * block.line + text, block.page, "exec"), names)  # noqa: S102, the page is ours
