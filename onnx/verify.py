"""Compares our ONNX export and our service with transformers' CLIPModel, and makes the fixtures that CI compares without Python.

    verify.py compare CHECKPOINT --images DIR [--texts FILE.json] [--clipserve BINARY] [--url http://HOST:PORT]
        CHECKPOINT is a folder or a hub id. --clipserve exports it with that binary and runs the graphs; --url asks a service
        that is serving it, for embeddings and for every other output; one of the two is needed. Prints, per path and modality,
        the distance to transformers relative to its norm; fails above 1e-5 (1e-4 for the service's image embeddings, whose
        pictures went through our decoders).
    verify.py made-up OUT --tokenizer DIR
        Writes the CLIPModel checkpoints among those of `fixtures`, but with a real tokenizer's vocabulary and three channels, so
        that `compare` can run on them through the whole service.
    verify.py fixtures OUT
        Writes the made-up checkpoints of tests/fixtures/export with what transformers computes for them.
    verify.py pickles OUT
        Writes the weights of two of those in OUT as torch.save does, into OUT/pickles.
    verify.py open-clip OUT [--clipserve BINARY --random N --seed S]
        Writes the checkpoints of open_clip and of OpenAI's code of tests/fixtures/export with what those libraries compute. With
        --clipserve makes N random ones of each, lets that binary export them and compares instead (OUT is then not written).
    verify.py frameworks OUT
        Writes made-up checkpoints by the TensorFlow and Flax classes with what those compute, into OUT/frameworks.
    verify.py compare-frameworks --clipserve BINARY [--seeds N]
        Random models of each of those classes, saved in every way, exported with that binary, against the class itself; prints
        the output that is farthest away, and fails above 1e-5. These two want what formats/frameworks.py says.
    verify.py pipelines OUT --checkpoint DIR --images DIR --clipserve BINARY
        Makes models of sentence-transformers (with transformers 4) or MetaCLIP 2 (with 5), and pipelines of diffusers, in OUT, serves each
        with that binary and compares its answers with those of the library. Wants what formats/pipelines.py says.

Wants: pip install torch transformers pillow numpy safetensors, and onnxruntime for --clipserve. The project itself needs none.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import torch
import transformers
from transformers import CLIPConfig, CLIPModel
from transformers.activations import ACT2FN

from made_up import pictures, text_config, token_ids, vision_config

if "selu" not in ACT2FN:  # named in CLIPConfig's documentation, absent from the table
    ACT2FN["selu"] = torch.nn.SELU


# ---------------------------------------------------------------------------------------------------------------- fixtures

# Every field that changes the arithmetic differs between these and from the defaults; `save` says how the weights are stored.
FIXTURES = {
    # eos_token_id 2 pools at the highest id; the picture is not a whole number of patches; GELU by erf, ReLU.
    "gelu-relu-old-eos": dict(
        cls="CLIPModel", dtype=torch.float32, projection_dim=20, logit_scale_init_value=3.25,
        text=text_config(hidden_act="relu", eos_token_id=2, layer_norm_eps=1e-3, num_attention_heads=6, max_position_embeddings=13),
        vision=vision_config(hidden_act="gelu", layer_norm_eps=1e-2, image_size=30, patch_size=7, num_hidden_layers=1),
        preprocessor=dict(rescale_factor=1 / 128, image_mean=[0.9, 1.0, 1.1], image_std=[0.5, 0.6, 0.7])),
    # The first of several end tokens, with higher ids around; one channel; BF16 in shards; a missing preprocessor step.
    "selu-gelu-new-shards": dict(
        cls="CLIPModel", dtype=torch.bfloat16, shards="30KB", projection_dim=12, logit_scale_init_value=1.5,
        text=text_config(hidden_act="selu", eos_token_id=90, hidden_size=20, num_attention_heads=2, num_hidden_layers=3, vocab_size=101),
        vision=vision_config(hidden_act="gelu_new", num_channels=1, image_size=16, patch_size=4, hidden_size=28, num_attention_heads=7),
        preprocessor=dict(do_normalize=False)),
    # A single block in each tower, a single head, wide MLP, many channels; F16.
    "one-block-four-channels": dict(
        cls="CLIPModel", dtype=torch.float16, projection_dim=40, logit_scale_init_value=4.6052,
        text=text_config(hidden_act="gelu_new", num_hidden_layers=1, num_attention_heads=1, intermediate_size=130),
        vision=vision_config(hidden_act="selu", num_hidden_layers=1, num_channels=4, image_size=20, patch_size=20, num_attention_heads=1),
        preprocessor=dict(do_rescale=False, image_mean=[100, 110, 120, 130], image_std=[50, 60, 70, 80])),
    "text-with-projection": dict(cls="CLIPTextModelWithProjection", dtype=torch.float16,
                                 text=text_config(hidden_act="gelu", projection_dim=9, eos_token_id=7)),
    # The layout of old versions: the configuration of a whole CLIPModel around it.
    "vision-with-projection-nested": dict(cls="CLIPVisionModelWithProjection", dtype=torch.float32, nested=True,
                                          vision=vision_config(hidden_act="relu", projection_dim=10, layer_norm_eps=1e-3), preprocessor={}),
    # As transformers 5 stores it, without a prefix.
    "text-bare": dict(cls="CLIPTextModel", dtype=torch.float32, text=text_config(hidden_act="quick_gelu", num_hidden_layers=3)),
    # CLIP under other names; an end token of 2 is what it says, whatever is larger.
    "metaclip-2": dict(
        cls="MetaClip2Model", dtype=torch.float32, projection_dim=14, logit_scale_init_value=2.5,
        text=text_config(hidden_act="quick_gelu", eos_token_id=2, vocab_size=90, bos_token_id=0),
        vision=vision_config(hidden_act="gelu", image_size=16), preprocessor={}),
    # As transformers 4 stores it, with the prefix and the buffer of positions.
    "vision-prefixed": dict(cls="CLIPVisionModel", dtype=torch.bfloat16, prefix="vision_model.", vision=vision_config(num_attention_heads=2)),
}


def randomise(model):
    """Weights with which embeddings of different inputs differ, and in which every parameter matters."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("logit_scale"):
                continue
            noise = torch.randn(p.shape)
            if "norm" in name:
                p.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.2 * noise)
            elif "embedding" in name:
                p.copy_(noise * (p[0].numel() ** -0.5 if "patch" in name else 0.5))
            else:
                p.copy_(1.3 * noise * p.shape[-1] ** -0.5)


def arrays(prefix, out):
    stack = lambda t: torch.stack(tuple(t)).numpy()
    return {f"{prefix}.pooler_output": out.pooler_output.numpy(), f"{prefix}.last_hidden_state": out.last_hidden_state.numpy(),
            f"{prefix}.hidden_states": stack(out.hidden_states), f"{prefix}.attentions": stack(out.attentions)}


def make_fixture(name, spec, out):
    torch.manual_seed(len(name))
    rng = np.random.default_rng(len(name))
    family = "MetaClip2" if spec["cls"].startswith("MetaClip2") else "CLIP"
    of_family = lambda kind: getattr(transformers, f"{family}{kind}Config")
    text = of_family("Text")(**spec["text"]) if "text" in spec else None
    vision = of_family("Vision")(**spec["vision"]) if "vision" in spec else None
    if spec["cls"] == f"{family}Model":
        config = of_family("")(text_config=spec["text"], vision_config=spec["vision"], projection_dim=spec["projection_dim"],
                               logit_scale_init_value=spec["logit_scale_init_value"])
    else:
        config = text or vision
    config._attn_implementation = "eager"
    model = getattr(transformers, spec["cls"])(config).eval()
    randomise(model)
    model.to(spec["dtype"])
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size=spec.get("shards", "1GB"))
    model.float()  # the stored values, computed in f32

    golden = {}
    kwargs = dict(output_hidden_states=True, output_attentions=True)
    with torch.no_grad():
        if vision:
            pixels, x = pictures(rng, vision, spec.get("preprocessor", {}))
            tower = getattr(model, "vision_model", model)
            o = tower(pixel_values=torch.from_numpy(x), **kwargs)
            golden |= {"pixel_values": pixels} | arrays("image", o)
            if hasattr(model, "visual_projection"):
                golden["image_embeds"] = model.visual_projection(o.pooler_output).numpy()
        if text:
            ids, mask = token_ids(rng, text)
            tower = getattr(model, "text_model", model)
            o = tower(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **kwargs)
            golden |= {"input_ids": ids, "attention_mask": mask} | arrays("text", o)
            if hasattr(model, "text_projection"):
                golden["text_embeds"] = model.text_projection(o.pooler_output).numpy()
        if hasattr(model, "logit_scale"):
            golden["logit_scale"] = model.logit_scale.exp().reshape(1).numpy()
    np.savez_compressed(folder / "golden.npz", **golden)
    if "preprocessor" in spec:
        (folder / "preprocessor_config.json").write_text(json.dumps(spec["preprocessor"], indent=2) + "\n")
    if spec.get("nested"):
        flat = json.loads((folder / "config.json").read_text())
        nested = {"architectures": flat.pop("architectures"), "model_type": "clip", "projection_dim": 512, "text_config": {}, "vision_config": flat}
        (folder / "config.json").write_text(json.dumps(nested, indent=2) + "\n")
    if prefix := spec.get("prefix"):
        from safetensors.torch import load_file, save_file
        tensors = {prefix + k: v for k, v in load_file(folder / "model.safetensors").items()}
        positions = vision.image_size // vision.patch_size
        tensors[prefix + "embeddings.position_ids"] = torch.arange(positions * positions + 1)[None]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, " + ", ".join(f"{k} {v.shape}" for k, v in golden.items() if k.endswith("embeds")))


def make_servable(name, spec, tokenizer, out):
    """A fixture's configuration as a checkpoint that a service can load: real vocabulary, RGB."""
    torch.manual_seed(len(name))
    eos = 2 if spec["text"].get("eos_token_id") == 2 else 49407
    text = spec["text"] | dict(vocab_size=49408, eos_token_id=eos)
    vision = spec["vision"] | dict(num_channels=3)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=spec["projection_dim"],
                                 logit_scale_init_value=spec["logit_scale_init_value"])).eval()
    randomise(model)
    model.to(spec["dtype"])
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size="4MB" if "shards" in spec else "1GB")
    side = vision["image_size"]
    preprocessor = {k: v[:3] if isinstance(v, list) else v for k, v in spec["preprocessor"].items()}
    preprocessor |= dict(image_processor_type="CLIPImageProcessor", size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    for file in tokenizer.iterdir():
        if "token" in file.name or file.name in ("vocab.json", "merges.txt"):
            (folder / file.name).write_bytes(file.read_bytes())
    print(folder)


def make_pickles(out):
    """The same weights by `torch.save`: as a training script leaves them, as versions before 1.6 did, and in shards."""
    from safetensors.torch import load_file
    folder = out / "pickles"
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(out / "gelu-relu-old-eos" / "model.safetensors")
    torch.save(weights, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    tar_of(weights, folder / "tar.bin")
    # Of one number, in a file of two kilobytes.
    torch.save({"text_model.a": torch.zeros(1).expand(1 << 20, 64)}, folder / "expanded.bin")
    # Two tensors of one storage, one that is not contiguous, a parameter, and what is beside the weights.
    shared = torch.cat([weights["logit_scale"].reshape(1), weights["text_model.final_layer_norm.bias"]])
    weights["logit_scale"], weights["text_model.final_layer_norm.bias"] = shared[0], shared[1:]
    weights["visual_projection.weight"] = weights["visual_projection.weight"].t().contiguous().t()
    weights["text_projection.weight"] = torch.nn.Parameter(weights["text_projection.weight"])
    optimizer = {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.98)}]}
    wrapped = {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in weights.items()}, "optimizer": optimizer}
    torch.save(wrapped, folder / "wrapped.bin")
    source = out / "selu-gelu-new-shards"
    index = json.loads((source / "model.safetensors.index.json").read_text())
    for file in sorted(set(index["weight_map"].values())):
        torch.save(load_file(source / file), folder / as_pickle(file))
    index["weight_map"] = {name: as_pickle(file) for name, file in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


def tar_of(weights, path):
    """As PyTorch before 0.1.10 saved them, which reads in torch.load to this day; no version that runs today writes it."""
    import pickle
    import struct
    import tarfile
    table = lambda rows: pickle.dumps(len(weights), 2) + b"".join(rows)
    storages, tensors = [], []
    for key, tensor in enumerate(weights.values()):
        storages.append(pickle.dumps((key, "cpu", torch.FloatStorage), 2) + struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        stride = tensor.contiguous().stride()
        tensors.append(pickle.dumps((1000 + key, key, torch.FloatTensor), 2)
                       + struct.pack(f"<i4x{2 * tensor.dim() + 1}q", tensor.dim(), *tensor.shape, *stride, 0))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return str(1000 + value.key) if isinstance(value, Tensor) else None

    class Tensor:
        def __init__(self, key):
            self.key = key

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({name: Tensor(key) for key, name in enumerate(weights)})
    sys_info = pickle.dumps(dict(protocol_version=1000, little_endian=True), 2)
    members = dict(sys_info=sys_info, pickle=buffer.getvalue(), tensors=table(tensors), storages=table(storages) + pickle.dumps([], 2))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    loaded = torch.load(path, weights_only=False)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items()) and len(loaded) == len(weights)


def as_pickle(shard):
    return shard.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")


# ----------------------------------------------------------------------------------------------------------------- compare

def features(value):
    return (value if torch.is_tensor(value) else value.pooler_output).numpy()


def post(url, body, content_type):
    request = urllib.request.Request(url, data=body, headers={"content-type": content_type})
    with urllib.request.urlopen(request) as answer:
        return np.array(json.load(answer)["embeddings"], dtype=np.float32)


OUTPUTS = ["pooler_output", "last_hidden_state", "hidden_states", "attentions"]


def post_outputs(url, body, content_type):
    headers = {"content-type": content_type, "accept": "application/x-npz"}
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers)) as answer:
        return np.load(io.BytesIO(answer.read()))


def rows(output):
    """One row an item: what comes for each block is a tuple in transformers and has the blocks first in our answer."""
    array = np.stack([o.numpy() for o in output], axis=1) if isinstance(output, tuple) else output.numpy()
    return array.reshape(len(array), -1)


def report_outputs(url, model, processor, tokenizer, files, texts, limit):
    """Every other output of the service, for a few pictures and texts, padding included; and padding that is attended to."""
    from PIL import Image, ImageOps
    ok = True
    ours_of = lambda archive, name: np.moveaxis(archive[name], 0, 1) if name in ("hidden_states", "attentions") else archive[name]
    flat = lambda array: array.reshape(len(array), -1)
    with torch.no_grad():
        for file in files[:3]:
            picture = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            theirs = model.vision_model(pixel_values=pixels, output_hidden_states=True, output_attentions=True)
            ours = post_outputs(f"{url}/embed/image?outputs={','.join(OUTPUTS)}", file.read_bytes(), "application/octet-stream")
            for name in OUTPUTS:
                ok &= report(name, "image", flat(ours_of(ours, name)), rows(theirs[name]), limit)
        for padding, masked in (("longest", True), ("max_length", True), ("max_length", False)):
            tokens = tokenizer(texts, padding=padding, truncation=True, max_length=model.config.text_config.max_position_embeddings, return_tensors="pt")
            mask = dict(attention_mask=tokens["attention_mask"]) if masked else {}
            theirs = model.text_model(input_ids=tokens["input_ids"], output_hidden_states=True, output_attentions=True, **mask)
            body = dict(texts=texts, outputs=OUTPUTS, padding=padding, attention_mask=masked)
            ours = post_outputs(f"{url}/embed/text", json.dumps(body).encode(), "application/json")
            for name in OUTPUTS:
                label = f"{name}, {padding}{'' if masked else ', no mask'}"
                ok &= report(label, "text", flat(ours_of(ours, name)), rows(theirs[name]), limit)
    return ok


def report(path, modality, ours, theirs, limit):
    distance = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    ok = bool(distance.max() <= limit)
    print(f"{path:<38} {modality:<6} {len(ours):>5} {np.median(distance):>10.1e} {distance.max():>10.1e} {1 - cosine.min():>10.1e} "
          f"{limit:>8.0e}  {'ok' if ok else 'FAIL'}")
    return ok


def compare(args):
    from PIL import Image, ImageOps
    from transformers import AutoTokenizer, CLIPImageProcessor

    # Attention probabilities come from the eager form only.
    model = CLIPModel.from_pretrained(args.checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    processor = CLIPImageProcessor.from_pretrained(args.checkpoint)
    bytes_only = CLIPImageProcessor.from_pretrained(args.checkpoint, do_rescale=False, do_normalize=False)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    context = model.config.text_config.max_position_embeddings
    files = [f for f in sorted(pathlib.Path(args.images).iterdir()) if f.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tiff")]
    texts = json.loads(pathlib.Path(args.texts).read_text()) if args.texts else ["a photo of a cat", "a photo of two dogs on a beach", "東京の夜", ""]

    crops, kept, image_embeds, text_embeds, ids = [], [], [], [], []
    with torch.no_grad():
        for file in files:
            picture = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
            try:
                crop = bytes_only(images=picture, return_tensors="np")["pixel_values"][0]
                pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            except Exception as error:  # transformers refuses some shapes that are legal to us
                print(f"skipped {file.name}: {type(error).__name__}", file=sys.stderr)
                continue
            kept.append(file)
            crops.append(np.ascontiguousarray(crop.astype(np.uint8).transpose(1, 2, 0)))
            image_embeds.append(features(model.get_image_features(pixel_values=pixels))[0])
        for text in texts:
            ids.append(np.array([tokenizer(text, truncation=True, max_length=context)["input_ids"]], dtype=np.int64))
            text_embeds.append(features(model.get_text_features(input_ids=torch.from_numpy(ids[-1])))[0])
    image_embeds, text_embeds = np.stack(image_embeds), np.stack(text_embeds)

    print(f"{args.checkpoint}: transformers {transformers.__version__}, distance to it relative to its norm")
    print(f"{'path':<38} {'input':<6} {'n':>5} {'median':>10} {'worst':>10} {'1 - cos':>10} {'limit':>8}")
    ok = True
    if args.clipserve:
        import onnxruntime
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "model"
            subprocess.run([args.clipserve, "export", args.checkpoint, str(out)], check=True)
            run = lambda graph, feed: onnxruntime.InferenceSession(str(out / "onnx" / graph), providers=["CPUExecutionProvider"]).run(None, feed)[0]
            ok &= report("exported graph", "image", run("vision_model.onnx", {"pixel_values": np.stack(crops)}), image_embeds, 1e-5)
            longest = max(i.shape[1] for i in ids)
            padded = np.concatenate([np.pad(i, ((0, 0), (0, longest - i.shape[1])), constant_values=i[0, -1]) for i in ids])
            ok &= report("exported graph", "text", run("text_model.onnx", {"input_ids": padded}), text_embeds, 1e-5)
    if args.url:
        url = args.url.rstrip("/")
        ours = [post(f"{url}/embed/image?normalize=false", f.read_bytes(), "application/octet-stream") for f in kept]
        ok &= report("service", "image", np.concatenate(ours), image_embeds, 1e-4)
        body = json.dumps({"texts": texts, "normalize": False}).encode()
        ok &= report("service", "text", post(f"{url}/embed/text", body, "application/json"), text_embeds, 1e-5)
        ok &= report_outputs(url, model, processor, tokenizer, kept, texts[:8], 1e-5)
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    one = commands.add_parser("compare")
    one.add_argument("checkpoint")
    one.add_argument("--clipserve", help="the clipserve binary")
    one.add_argument("--url", help="a running service")
    one.add_argument("--images", required=True, help="a folder of pictures")
    one.add_argument("--texts", help="a JSON list of strings")
    two = commands.add_parser("fixtures")
    two.add_argument("out", type=pathlib.Path)
    four = commands.add_parser("pickles")
    four.add_argument("out", type=pathlib.Path)
    five = commands.add_parser("open-clip")
    five.add_argument("out", type=pathlib.Path)
    five.add_argument("--clipserve", help="the clipserve binary")
    five.add_argument("--random", type=int, default=10)
    five.add_argument("--seed", type=int, default=0)
    six = commands.add_parser("frameworks")
    six.add_argument("out", type=pathlib.Path)
    seven = commands.add_parser("compare-frameworks")
    seven.add_argument("--clipserve", required=True, help="the clipserve binary")
    seven.add_argument("--seeds", type=int, default=5, help="models of each class")
    eight = commands.add_parser("pipelines")
    eight.add_argument("out", type=pathlib.Path)
    eight.add_argument("--checkpoint", required=True, type=pathlib.Path, help="a CLIPModel with its tokenizer and image processor")
    eight.add_argument("--images", required=True, help="a folder of pictures")
    eight.add_argument("--clipserve", required=True, help="the clipserve binary")
    three = commands.add_parser("made-up")
    three.add_argument("out", type=pathlib.Path)
    three.add_argument("--tokenizer", required=True, type=pathlib.Path, help="a folder with CLIP's tokenizer.json")
    args = parser.parse_args()
    if args.command == "made-up":
        for name, spec in FIXTURES.items():
            if spec["cls"] == "CLIPModel":
                make_servable(name, spec, args.tokenizer, args.out)
    elif args.command == "fixtures":
        for name, spec in FIXTURES.items():
            make_fixture(name, spec, args.out)
    elif args.command == "pickles":
        make_pickles(args.out)
    elif args.command == "open-clip":
        from formats import open_clip
        if not args.clipserve:
            open_clip.make_fixtures(args.out)
        elif not open_clip.compare(args.clipserve, args.random, args.seed, report):
            sys.exit(1)
    elif args.command == "frameworks":
        from formats import frameworks
        frameworks.fixtures(args.out / "frameworks")
    elif args.command == "compare-frameworks":
        from formats import frameworks
        if not frameworks.compare(args.clipserve, args.seeds):
            sys.exit(1)
    elif args.command == "pipelines":
        from formats import pipelines
        if not pipelines.compare(args.clipserve, args.checkpoint, args.images, args.out, report):
            sys.exit(1)
    elif not (args.clipserve or args.url):
        parser.error("compare wants --clipserve, --url or both")
    elif not compare(args):
        sys.exit(1)


if __name__ == "__main__":
    main()
