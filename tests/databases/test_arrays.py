"""The folder of `--format npy` goes through autofaiss and clip-retrieval's own command that makes an index."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

import page
from conftest import shell

INDEX = pathlib.Path(__file__).parent / "autofaiss" / "index.py"


@pytest.fixture(scope="module")
def arrays(embedded) -> pathlib.Path:
    """What the page's command makes."""
    (block,) = page.sections()["Into autofaiss and clip-retrieval"]
    if not (embedded / "arrays").exists():
        shell(block, embedded)
    return embedded / "arrays"


@pytest.mark.parametrize("tool", ["autofaiss", "clip-retrieval"])
def test_an_index_is_built_and_finds_every_picture(arrays, tool, tmp_path):
    python = pathlib.Path(os.environ["AUTOFAISS"]) / "bin" / "python"
    done = subprocess.run([python, INDEX, tool, arrays, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "2000 rows, all found", done.stdout
