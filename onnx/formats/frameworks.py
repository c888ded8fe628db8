"""Checkpoints by the TensorFlow and Flax classes of transformers, which had them up to version 4, and what those classes compute.

Wants: pip install "transformers<5" torch tensorflow-cpu tf-keras jax flax numpy safetensors, and onnxruntime for `compare`.
"""

import json
import os
import pathlib
import subprocess
import tempfile

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import transformers
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from made_up import pictures, text_config, token_ids, vision_config

TENSORFLOW = ["TFCLIPModel", "TFCLIPTextModel", "TFCLIPVisionModel"]
FLAX = ["FlaxCLIPModel", "FlaxCLIPTextModel", "FlaxCLIPTextModelWithProjection", "FlaxCLIPVisionModel"]
SMALL_TEXT = dict(hidden_size=12, intermediate_size=20, num_attention_heads=2, vocab_size=40, bos_token_id=38, eos_token_id=39,
                  max_position_embeddings=12, projection_dim=10)
SMALL_VISION = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, image_size=13, patch_size=4, num_hidden_layers=1, projection_dim=10)
# `files`: how the same weights are saved, the first beside the configuration and the others in folders of that name.
FIXTURES = {
    "tf": dict(cls="TFCLIPModel", files=["h5", "safetensors-shards"], projection_dim=10, logit_scale_init_value=2.25,
               text=text_config(**SMALL_TEXT | dict(hidden_act="gelu", eos_token_id=2, num_hidden_layers=1, layer_norm_eps=1e-3)),
               vision=vision_config(**SMALL_VISION | dict(hidden_act="quick_gelu")), preprocessor=dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.3, 0.2, 0.4])),
    "tf-text": dict(cls="TFCLIPTextModel", files=["shards"], text=text_config(**SMALL_TEXT | dict(hidden_act="gelu_new", num_hidden_layers=1, eos_token_id=7))),
    "tf-vision": dict(cls="TFCLIPVisionModel", files=["safetensors"], vision=vision_config(**SMALL_VISION | dict(hidden_act="relu", num_channels=1)),
                      preprocessor=dict(do_normalize=False)),
    "flax": dict(cls="FlaxCLIPModel", files=["msgpack", "shards"], projection_dim=10, logit_scale_init_value=1.75,
                 text=text_config(**SMALL_TEXT | dict(hidden_act="quick_gelu", eos_token_id=30, layer_norm_eps=1e-4)),
                 vision=vision_config(**SMALL_VISION | dict(hidden_act="gelu")), preprocessor=dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.3, 0.2, 0.4])),
    "flax-text": dict(cls="FlaxCLIPTextModel", files=["msgpack"], dtype="fp16", text=text_config(**SMALL_TEXT | dict(hidden_act="gelu_new", eos_token_id=2))),
    "flax-text-with-projection": dict(cls="FlaxCLIPTextModelWithProjection", files=["msgpack"], dtype="bf16",
                                      text=text_config(**SMALL_TEXT | dict(hidden_act="gelu"))),
    "flax-vision": dict(cls="FlaxCLIPVisionModel", files=["safetensors"], vision=vision_config(**SMALL_VISION | dict(hidden_act="relu", num_channels=4)),
                        preprocessor=dict(do_rescale=False, image_mean=[100, 110, 120, 130], image_std=[50, 60, 70, 80])),
}


def made_up_weight(rng, name, shape):
    """Weights with which outputs of different inputs differ, and in which every parameter matters; kernels are inputs first."""
    noise = rng.standard_normal(shape).astype(np.float32)
    if "norm" in name:
        return 1 + 0.3 * noise if name.endswith(("scale", "gamma")) else 0.2 * noise
    if name.endswith(("bias", "beta")):
        return 0.2 * noise
    if "patch" in name:
        return noise * np.float32(np.prod(shape[:-1])) ** -0.5
    return 0.5 * noise if "embedding" in name else 1.3 * noise * np.float32(shape[0]) ** -0.5


class TensorFlow:
    """A TFCLIP... with made-up weights."""

    suffix = dict(h5={}, shards=dict(max_shard_size="4KB"), safetensors=dict(safe_serialization=True))
    suffix["safetensors-shards"] = suffix["shards"] | suffix["safetensors"]

    def __init__(self, cls, config, rng, dtype):
        import tensorflow
        self.tensor = tensorflow.constant
        self.model = getattr(transformers, cls)(config)
        self.model.build_in_name_scope()
        for weight in self.model.weights:
            name = weight.name.removesuffix(":0")
            if not name.endswith("logit_scale"):
                weight.assign(made_up_weight(rng, name, weight.shape))

    def save(self, folder, way):
        self.model.save_pretrained(folder, **self.suffix[way])

    def __call__(self, **inputs):
        return self.model(**{k: self.tensor(v) for k, v in inputs.items()}, output_hidden_states=True, output_attentions=True)

    def features(self, kind, **inputs):
        return getattr(self.model, f"get_{kind}_features")(**{k: self.tensor(v) for k, v in inputs.items()})

    def logit_scale(self):
        return next(np.exp(weight.numpy()) for weight in self.model.weights if "logit_scale" in weight.name)


class Flax:
    """A FlaxCLIP... with made-up weights, stored in `dtype`."""

    suffix = dict(msgpack={}, shards=dict(max_shard_size="8KB"), safetensors=dict(safe_serialization=True))

    def __init__(self, cls, config, rng, dtype):
        import jax
        image = getattr(config, "vision_config", config)
        side = [getattr(image, "image_size", 0)] * 2
        picture = (1, *side, getattr(image, "num_channels", 0))
        shape = {"FlaxCLIPModel": ((1, 1), picture), "FlaxCLIPVisionModel": picture}.get(cls, (1, 1))
        self.model = getattr(transformers, cls)(config, input_shape=shape)
        named = lambda path: "/".join(part.key for part in path)
        weight = lambda path, old: old if named(path).endswith("logit_scale") else jax.numpy.asarray(made_up_weight(rng, named(path), old.shape))
        params = jax.tree_util.tree_map_with_path(weight, self.model.params)
        self.model.params = getattr(self.model, f"to_{dtype}")(params) if dtype else params

    def save(self, folder, way):
        self.model.save_pretrained(folder, **self.suffix[way])

    def __call__(self, **inputs):
        return self.model(**inputs, output_hidden_states=True, output_attentions=True)

    def features(self, kind, **inputs):
        return getattr(self.model, f"get_{kind}_features")(**inputs)

    def logit_scale(self):
        import jax
        return np.array(jax.numpy.exp(self.model.params["logit_scale"]), np.float32).reshape(1)


def made_up(cls, rng, text=None, vision=None, projection_dim=None, logit_scale_init_value=None, dtype=None, **_):
    """A model of this class, its inputs, and all that it computes of them."""
    if text and vision:
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection_dim, logit_scale_init_value=logit_scale_init_value)
    else:
        config = CLIPTextConfig(**text) if text else CLIPVisionConfig(**vision)
    return (TensorFlow if cls in TENSORFLOW else Flax)(cls, config, rng, dtype), config


def computed(model, config, rng, preprocessor):
    """The arrays of a golden.npz: what goes in, and what comes out."""
    array = lambda value: np.array(value, dtype=np.float32)
    golden, inputs = {}, {}
    vision, text = getattr(config, "vision_config", config), getattr(config, "text_config", config)
    if hasattr(vision, "image_size"):
        golden["pixel_values"], inputs["pixel_values"] = pictures(rng, vision, preprocessor)
    if hasattr(text, "vocab_size"):
        ids, mask = token_ids(rng, text)
        golden |= dict(input_ids=ids, attention_mask=mask)
        inputs |= dict(input_ids=ids, attention_mask=mask)
    out = model(**inputs)
    whole = isinstance(config, CLIPConfig)
    sides = dict(image=out.vision_model_output, text=out.text_model_output) if whole else dict(image=out) if "pixel_values" in inputs else dict(text=out)
    for side, values in sides.items():
        for name in ("pooler_output", "last_hidden_state", "text_embeds"):
            if values.get(name) is not None:
                golden[name if name == "text_embeds" else f"{side}.{name}"] = array(values[name])
        for name in ("hidden_states", "attentions"):
            golden[f"{side}.{name}"] = np.stack([array(value) for value in values[name]])
    if whole:
        golden["image_embeds"] = array(model.features("image", pixel_values=inputs["pixel_values"]))
        golden["text_embeds"] = array(model.features("text", input_ids=ids, attention_mask=mask))
        golden["logits_per_image"] = array(out.logits_per_image)
        golden["logit_scale"] = model.logit_scale()
    return golden


def save(model, folder, way, preprocessor):
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder, way)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def fixtures(out):
    out.mkdir(parents=True, exist_ok=True)
    odd_files(out)
    for name, spec in FIXTURES.items():
        rng = np.random.default_rng(len(name))
        model, config = made_up(rng=rng, **spec)
        folder = out / name
        first, *others = spec["files"]
        save(model, folder, first, spec.get("preprocessor"))
        np.savez_compressed(folder / "golden.npz", **computed(model, config, rng, spec.get("preprocessor", {})))
        for way in others:
            save(model, folder / way, way, None)
            (folder / way / "config.json").unlink()
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{name}: {size / 1000:.0f} kB")


def odd_files(out):
    """HDF5 as Keras does not write it, and some may: in chunks, compressed, of other types; and with a link, which is refused."""
    import h5py
    rows = np.arange(600, dtype=np.float32).reshape(20, 30)
    with h5py.File(out / "odd.h5", "w") as file:
        group = file.create_group("model")
        group.create_dataset("packed", data=rows, chunks=(7, 9), compression="gzip", shuffle=True, fletcher32=True)
        group.create_dataset("big_endian", data=rows[0].astype(">f4"))
        group.create_dataset("half", data=rows[0].astype(np.float16))
        group.create_dataset("double", data=rows[0].astype(np.float64))
        group.create_dataset("scalar", data=np.float32(3))
        group.create_dataset("unwritten", shape=(2, 2), dtype=np.float32)
        group.attrs["weight_names"] = [b"packed"] * 100
    with h5py.File(out / "link.h5", "w") as file:
        file["weight"] = rows[0]
        file["other"] = h5py.SoftLink("/weight")


def anything(cls, rng):
    """A configuration of this class that nobody chose."""
    pick = lambda *values: values[rng.integers(len(values))]
    acts = ["gelu", "gelu_new", "quick_gelu", "relu"] + (["gelu_fast"] if cls in TENSORFLOW else ["gelu_pytorch_tanh"])

    def tower():
        heads = pick(1, 2, 3, 4, 6)
        return dict(num_attention_heads=heads, hidden_size=heads * pick(4, 8, 12, 16), intermediate_size=int(rng.integers(8, 200)),
                    num_hidden_layers=int(rng.integers(1, 5)), hidden_act=pick(*acts), layer_norm_eps=pick(1e-6, 1e-5, 1e-4, 1e-2),
                    projection_dim=int(rng.integers(4, 40)))

    spec = dict(projection_dim=int(rng.integers(4, 40)), logit_scale_init_value=float(rng.uniform(0, 4.6)))
    if "Text" not in cls:
        patch = int(rng.integers(3, 12))
        channels = pick(1, 3, 3, 4)
        spec["vision"] = vision_config(**tower() | dict(patch_size=patch, image_size=patch * pick(1, 2, 3) + int(rng.integers(patch)), num_channels=channels))
        spec["preprocessor"] = dict(image_mean=rng.uniform(0.2, 0.7, channels).tolist(), image_std=rng.uniform(0.1, 0.6, channels).tolist())
    if "Vision" not in cls:
        vocabulary = int(rng.integers(30, 400))
        spec["text"] = text_config(**tower() | dict(vocab_size=vocabulary, eos_token_id=pick(2, vocabulary - 1, 17), max_position_embeddings=int(rng.integers(6, 40))))
    if cls in FLAX:
        spec["dtype"] = pick(None, None, "bf16", "fp16")
    return spec


def compare(clipserve, seeds):
    """Random models of every class: saved in every way, exported and run, against the class itself. True when all are within 1e-5."""
    print(f"{'class':<32} {'saved as':<20} {'worst output':<26} {'distance':>10}")
    worst_of_all = 0
    for cls in TENSORFLOW + FLAX:
        for seed in range(seeds):
            rng = np.random.default_rng(1000 + seed)
            spec = anything(cls, rng)
            model, config = made_up(cls, rng, **spec)
            golden = computed(model, config, rng, spec.get("preprocessor", {}))
            ways = list(model.suffix)
            with tempfile.TemporaryDirectory() as folder:
                way, source, out = ways[seed % len(ways)], pathlib.Path(folder) / "source", pathlib.Path(folder) / "out"
                save(model, source, way, spec.get("preprocessor"))
                subprocess.run([clipserve, "export", source, out], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                name, distance = worst(out, golden)
            worst_of_all = max(worst_of_all, distance)
            print(f"{cls:<32} {way + (' ' + spec['dtype'] if spec.get('dtype') else ''):<20} {name:<26} {distance:>10.1e}", flush=True)
    return worst_of_all <= 1e-5


def worst(exported, golden):
    """The output that is farthest from the golden one in any row, and how far, relative to the norm."""
    import onnxruntime
    distances = {}

    def check(name, ours, theirs, axis=0):
        flat = lambda value: np.moveaxis(value.astype(np.float64), axis, 0).reshape(value.shape[axis], -1)
        distances[name] = (np.linalg.norm(flat(ours) - flat(theirs), axis=1) / np.linalg.norm(flat(theirs), axis=1)).max()

    embeds = {}
    for side, tower, inputs in (("image", "vision", ["pixel_values"]), ("text", "text", ["input_ids", "attention_mask"])):
        if inputs[0] not in golden:
            continue
        for kind in ("model", "outputs"):
            path = exported / "onnx" / f"{tower}_{kind}.onnx"
            if not path.exists():
                assert kind == "model" and f"{side}_embeds" not in golden, path
                continue
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            feed = {i.name: golden[i.name] for i in session.get_inputs()}
            ours = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed)))
            if f"{side}_embeds" in golden:
                embeds[side] = ours[f"{side}_embeds"]
                check(f"{side}_embeds of {kind}", embeds[side], golden[f"{side}_embeds"])
            if kind == "outputs":
                for name in ("pooler_output", "last_hidden_state"):
                    if f"{side}.{name}" in golden:
                        check(f"{side}.{name}", ours[name], golden[f"{side}.{name}"])
                for name in ("hidden_states", "attentions"):
                    theirs = golden[f"{side}.{name}"]
                    check(f"{side}.{name}", np.stack([ours[f"{name}.{i}"] for i in range(len(theirs))]), theirs, axis=1)
    if "logits_per_image" in golden:
        unit = lambda value: value / np.linalg.norm(value, axis=1, keepdims=True)
        check("logits_per_image", unit(embeds["image"]) @ unit(embeds["text"]).T * golden["logit_scale"], golden["logits_per_image"])
    return max(distances.items(), key=lambda item: item[1])
