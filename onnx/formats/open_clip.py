"""Checkpoints by open_clip and by OpenAI's own code: the fixtures of tests/fixtures/export, and random ones against the libraries.

Owns making them as those libraries save them and what the libraries compute for them. Wants: pip install open_clip_torch==3.3.0 and one
package with OpenAI's code (clip-anytorch==2.6.0, or that of github.com/openai/CLIP).
"""

import json
import pathlib
import subprocess
import tempfile

import numpy as np
import torch

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Between them every field that changes the arithmetic and is honoured differs from its default.
FIXTURES = {
    "open-clip": dict(
        file="open_clip_model.safetensors", dtype=torch.float32, preprocess=dict(mean=[0.5, 0.4, 0.3], std=[0.5, 0.6, 0.7]),
        model=dict(embed_dim=12,
                   vision_cfg=dict(width=16, head_width=8, layers=2, mlp_ratio=2.7, image_size=17, patch_size=5, norm_kwargs=dict(eps=1e-3),
                                   final_ln_after_pool=True, block_type="custom"),
                   text_cfg=dict(context_length=13, vocab_size=90, width=12, heads=2, layers=1, mlp_ratio=1.7,
                                 act_kwargs=dict(approximate="tanh")))),
    "open-clip-custom-quick-gelu": dict(
        file="open_clip_pytorch_model.bin", dtype=torch.float16, preprocess={},
        model=dict(embed_dim=16, quick_gelu=True, custom_text=True, init_logit_scale=1.5, nonscalar_logit_scale=True,
                   vision_cfg=dict(width=16, head_width=8, layers=1, image_size=[18, 18], patch_size=6, ls_init_value=1e-4,
                                   patch_dropout=0.5, pos_embed_type="sin_cos_2d"),
                   text_cfg=dict(context_length=16, vocab_size=90, width=15, heads=3, layers=2, mlp_ratio=2, ls_init_value=1e-4,
                                 pool_type="eos", eos_id=60))),
}
OPENAI = dict(embed_dim=16, image_resolution=12, vision_layers=1, vision_width=64, vision_patch_size=4, context_length=12, vocab_size=50,
              transformer_width=64, transformer_heads=1, transformer_layers=1)


def randomise(model):
    """Weights in which every parameter matters."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("logit_scale"):
                continue
            noise = torch.randn(p.shape)
            if "ln_" in name or "gamma" in name:
                p.copy_(1 + 0.3 * noise if name.endswith(("weight", "gamma")) else 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.2 * noise)
            elif "embedding" in name:
                p.copy_(0.5 * noise)
            elif name.endswith(("proj", "projection")):
                p.copy_(1.3 * noise * p.shape[0] ** -0.5)
            else:
                p.copy_(1.3 * noise * p[0].numel() ** -0.5)


def build(config):
    """open_clip's model, as its factory builds it."""
    import open_clip
    config = json.loads(json.dumps(config))
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    model = kind(**config).eval()
    randomise(model)
    return model


def save(model, spec, folder):
    """As open_clip's `save_for_hf` does, without the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(spec["dtype"]).contiguous() for name, tensor in model.state_dict().items()}
    if spec["file"].endswith(".safetensors"):
        from safetensors.torch import save_file
        save_file(tensors, folder / spec["file"])
    else:
        torch.save(tensors, folder / spec["file"])
    preprocess = dict(mean=MEAN, std=STD, interpolation="bicubic", resize_mode="shortest") | spec["preprocess"]
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=spec["model"], preprocess_cfg=preprocess), indent=2) + "\n")
    # What is stored is what is computed with.
    model.to(spec["dtype"]).float()
    return preprocess


def build_openai(sizes):
    """OpenAI's model in f16 as they published it, the text's blocks in the storages of the pictures' where they are of one size."""
    from clip.model import CLIP, convert_weights
    model = CLIP(**sizes).eval()
    randomise(model)
    convert_weights(model)
    for ours, theirs in zip(model.transformer.resblocks, model.visual.transformer.resblocks):
        if ours.ln_1.weight.shape == theirs.ln_1.weight.shape:
            ours.mlp.c_fc.weight, ours.mlp.c_proj.weight = theirs.mlp.c_fc.weight, theirs.mlp.c_proj.weight
            ours.attn.in_proj_weight, ours.attn.out_proj.weight = theirs.attn.in_proj_weight, theirs.attn.out_proj.weight
    return model


def save_openai(model, sizes, path, scripted=True):
    """As they were published: traced, with three sizes among the buffers. Or the weights alone, as who tunes them saves them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not scripted:
        torch.save(dict(epoch=1, model_state_dict=model.state_dict()), path)
        return
    for name, size in [("input_resolution", sizes["image_resolution"]), ("context_length", sizes["context_length"]), ("vocab_size", sizes["vocab_size"])]:
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(size))
    side = sizes["image_resolution"]
    pixels, ids = torch.zeros(1, 3, side, side), torch.zeros(1, sizes["context_length"], dtype=torch.int64)
    torch.jit.trace(model, (pixels, ids), check_trace=False).save(path)


def token_ids(rng, length, vocab, eos):
    """Three texts that end at different places; with `eos` at its first, else at the highest id."""
    ids = rng.integers(1, vocab - 1, (3, length))
    for row, end in zip(ids, (length - 1, length // 2, 2)):
        row[row == eos] = 1
        row[end] = vocab - 1 if eos is None else eos
        row[end + 1:] = 0 if eos is None else vocab - 1
    return ids


def golden(model, rng, side, context, vocab, preprocess, eos=None):
    """Inputs, and what the library computes for them in f32."""
    pixels = rng.integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    x = (torch.from_numpy(pixels).float() / 255 - torch.tensor(preprocess["mean"])) / torch.tensor(preprocess["std"])
    ids = token_ids(rng, context, vocab, eos)
    with torch.no_grad():
        image, text = model.encode_image(x.permute(0, 3, 1, 2)), model.encode_text(torch.from_numpy(ids))
        scale = model.logit_scale.exp().reshape(1)
        logits = scale * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T
    return dict(pixel_values=pixels, input_ids=ids, image_embeds=image.numpy(), text_embeds=text.numpy(), logit_scale=scale.numpy(),
                logits_per_image=logits.numpy())


def golden_of_open_clip(model, spec, preprocess, rng):
    text, side = spec["model"]["text_cfg"], spec["model"]["vision_cfg"]["image_size"]
    eos = text["eos_id"] if text.get("pool_type") == "eos" else None
    return golden(model, rng, side[0] if isinstance(side, list) else side, text["context_length"], text["vocab_size"], preprocess, eos)


def golden_of_openai(path, sizes, rng):
    """By OpenAI's own loading of the file."""
    import clip
    try:
        state = torch.jit.load(path).state_dict()
    except RuntimeError:
        state = torch.load(path)["model_state_dict"]
    model = clip.model.build_model(state).float()
    return golden(model, rng, sizes["image_resolution"], sizes["context_length"], sizes["vocab_size"], dict(mean=MEAN, std=STD))


def make_fixtures(out):
    for name, spec in FIXTURES.items():
        torch.manual_seed(len(name))
        model = build(spec["model"])
        preprocess = save(model, spec, out / name)
        values = golden_of_open_clip(model, spec, preprocess, np.random.default_rng(len(name)))
        np.savez_compressed(out / name / "golden.npz", **values)
    torch.manual_seed(6)
    path = out / "openai" / "ViT-tiny.pt"
    save_openai(build_openai(OPENAI), OPENAI, path)
    np.savez_compressed(path.with_name("golden.npz"), **golden_of_openai(path, OPENAI, np.random.default_rng(6)))
    for folder in [*FIXTURES, "openai"]:
        print(folder, ", ".join(f"{f.name} {f.stat().st_size / 1000:.0f} kB" for f in sorted((out / folder).iterdir())))


# ----------------------------------------------------------------------------------------------------------------- compare

def random_width(rng):
    """Of an embedding. One of a single number may be nearly nothing, and then every rounding is large beside it."""
    return int(rng.integers(4, 40))


def random_spec(rng):
    pick = lambda *values: values[rng.integers(len(values))]
    some = lambda chance, **fields: fields if rng.random() < chance else {}
    head, heads = pick(4, 8, 12, 64), int(rng.integers(1, 4))
    patch = int(rng.integers(3, 12))
    quick = pick(True, False)
    tower = lambda: (some(0.4, mlp_ratio=pick(2, 3.5, 4.9231)) | some(0.3, ls_init_value=0.1) | some(0.3, norm_kwargs=dict(eps=pick(1e-6, 1e-2)))
                     | some(0.3, block_type=pick("custom", "default"))
                     | (some(0.3, act_kwargs=dict(approximate=pick("tanh", "none"))) if not quick else {}))
    vision = dict(width=head * heads + (0 if head == 64 else pick(0, head * heads)), head_width=head, layers=int(rng.integers(1, 4)),
                  image_size=int(patch * rng.integers(1, 5) + rng.integers(0, patch)), patch_size=patch) | tower()
    vision |= some(0.3, final_ln_after_pool=True) | some(0.3, patch_dropout=0.25)
    text = dict(width=12 * int(rng.integers(1, 5)), heads=pick(1, 2, 3, 4), layers=int(rng.integers(1, 4)), context_length=int(rng.integers(4, 30)),
                vocab_size=int(rng.integers(20, 200))) | tower() | some(0.3, pool_type="eos", eos_id=int(rng.integers(3, 19)))
    model = dict(embed_dim=random_width(rng), vision_cfg=vision, text_cfg=text) | some(0.5, custom_text=True) | some(0.5, nonscalar_logit_scale=True)
    model |= dict(quick_gelu=True) if quick else {}
    preprocess = some(0.5, mean=[0.1, 0.5, 0.9], std=[0.3, 0.5, 0.2])
    return dict(model=model, preprocess=preprocess, dtype=pick(torch.float32, torch.float16, torch.bfloat16),
                file=pick("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))


def random_sizes(rng):
    patch, heads = int(rng.integers(2, 12)), int(rng.integers(1, 4))
    return dict(embed_dim=random_width(rng), image_resolution=patch * int(rng.integers(1, 5)), vision_layers=int(rng.integers(1, 4)),
                vision_width=64 * int(rng.integers(1, 3)), vision_patch_size=patch, context_length=int(rng.integers(4, 30)),
                vocab_size=int(rng.integers(20, 200)), transformer_width=64 * heads, transformer_heads=heads, transformer_layers=int(rng.integers(1, 4)))


def compare(clipserve, count, seed, report):
    """`count` random models of each library, exported by the binary `clipserve`; whether all are within 1e-5 of the library."""
    import onnxruntime
    ok = True
    for index in range(2 * count):
        rng = np.random.default_rng((seed, index))
        torch.manual_seed(index)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            if index % 2:
                sizes, source, scripted = random_sizes(rng), folder / "ViT.pt", index % 4 == 1
                save_openai(build_openai(sizes), sizes, source, scripted)
                expected = golden_of_openai(source, sizes, rng)
                label = f"OpenAI {index} {'traced' if scripted else 'tuned'}"
            else:
                spec, source = random_spec(rng), folder / "source"
                model = build(spec["model"])
                expected = golden_of_open_clip(model, spec, save(model, spec, source), rng)
                label = f"open_clip {index} {spec['file'][-4:]} {str(spec['dtype'])[6:]}"
            subprocess.run([clipserve, "export", source, folder / "out"], check=True, stdout=subprocess.DEVNULL)
            run = lambda tower, feed: onnxruntime.InferenceSession(str(folder / "out/onnx" / f"{tower}_model.onnx"),
                                                                   providers=["CPUExecutionProvider"]).run(None, feed)[0]
            ok &= report(label, "image", run("vision", {"pixel_values": expected["pixel_values"]}), expected["image_embeds"], 1e-5)
            ok &= report(label, "text", run("text", {"input_ids": expected["input_ids"]}), expected["text_embeds"], 1e-5)
    return ok
