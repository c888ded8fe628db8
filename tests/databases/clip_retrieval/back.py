"""back.py ARRAYS INDEX [hdf5]: `clip-retrieval index` of a folder of `--format npy` into the folder INDEX, and `clip-retrieval back` of
it on a free port, which its log says.

Both are the package's own functions. Owns what is not there of it: torch, some gigabytes, and the model that texts and pictures of a query
are embedded with, which would be fetched from the web. `clip_back` loads it whatever is asked, and has no use for it where a query is an
embedding; so two modules stand in for these, and a query of another kind fails.
"""

import importlib
import importlib.metadata
import json
import pathlib
import sys
import types

arrays, index, *options = sys.argv[1:]


def module(name: str, **names) -> types.ModuleType:
    """A module that is nothing but these names, in place of an installed one."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)
    return sys.modules[name]


# The package itself imports all of its commands, those that need torch among them.
file = next(file for file in importlib.metadata.files("clip-retrieval") if file.name == "clip_back.py")
module("clip_retrieval", __path__=[str(pathlib.Path(file.locate()).parent)])
clip_index = importlib.import_module("clip_retrieval.clip_index").clip_index
clip_back = importlib.import_module("clip_retrieval.clip_back").clip_back

clip_index(arrays, index, max_index_memory_usage="1G", current_memory_available="2G", nb_cores=1)
indices = pathlib.Path(index) / "indices.json"
indices.write_text(json.dumps({"photos": index}))

module("torch", cuda=types.SimpleNamespace(is_available=lambda: False))
module("all_clip", load_clip=lambda *_, **__: (None, None, None))
# What is fetched from the web is left out.
fetched = {"enable_mclip_option": False, "provide_aesthetic_embeddings": False}
clip_back(str(indices), port=0, enable_hdf5="hdf5" in options, **fetched)
