"""index.py autofaiss|clip-retrieval ARRAYS OUT: builds an index of a folder of `--format npy` and looks for every row in it."""

import importlib.metadata
import importlib.util
import pathlib
import sys

import faiss
import numpy
import pandas

tool, arrays, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
files = sorted((arrays / "img_emb").iterdir())
vectors = numpy.concatenate([numpy.load(file) for file in files])
metadata = pandas.concat(pandas.read_parquet(file) for file in sorted((arrays / "metadata").iterdir()))
assert len(metadata) == len(vectors), "the metadata are those of the rows"
memory = {"max_index_memory_usage": "1G", "current_memory_available": "2G", "nb_cores": 1}
if tool == "autofaiss":
    import autofaiss

    path = out / "knn.index"
    autofaiss.build_index(str(arrays / "img_emb"), index_path=str(path), index_infos_path=str(out / "infos.json"), **memory)
else:
    # The module alone: the package imports a web server and torch, which an index needs nothing of.
    file = next(file for file in importlib.metadata.files("clip-retrieval") if file.name == "clip_index.py")
    spec = importlib.util.spec_from_file_location("clip_index", file.locate())
    clip_index = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clip_index)
    clip_index.clip_index(str(arrays), str(out), **memory)
    path = out / "image.index"
index = faiss.read_index(str(path))
assert index.ntotal == len(vectors)
found = index.search(vectors.astype("f4"), 1)[1][:, 0]
# Two drawings may have the same embedding.
same = (vectors[found] == vectors).all(axis=1)
print(f"{index.ntotal} rows, {'all' if same.all() else same.sum()} found")
