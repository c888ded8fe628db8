"""Folders around a CLIP, as sentence-transformers, diffusers and transformers save them, through the whole service.

Owns making them with those libraries, and asking a service for what the library computes from the same texts and pictures: tokenizer, image
processor and towers are found where each library leaves them. Wants: pip install sentence-transformers diffusers pillow.
"""

import io
import json
import pathlib
import re
import subprocess
import urllib.request

import numpy as np
import torch

TEXTS = ["a photo of a cat", "Two dogs, on a beach!", "東京の夜", ""]


def towers(seed, side):
    """A text tower without projection, one with, and a vision tower with; small, of CLIP's vocabulary."""
    from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection)
    torch.manual_seed(seed)
    text = lambda **over: CLIPTextConfig(**(dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, projection_dim=16) | over))
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=side, patch_size=8, projection_dim=16)
    models = CLIPTextModel(text()), CLIPTextModelWithProjection(text(hidden_act="gelu")), CLIPVisionModelWithProjection(vision)
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    return [model.eval() for model in models]


def image_processor(side):
    """On Pillow in either version: the default of transformers 5 is torchvision's, whose pictures differ by a level."""
    import transformers
    make = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    return make(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def diffusers_pipelines(tokenizer_dir, out, side=32):
    """StableDiffusionPipeline with an image encoder, StableDiffusionXLPipeline with two text encoders."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir)
    processor = image_processor(side)
    text, text_2, vision = towers(11, side)
    unet = lambda width, **more: UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, norm_num_groups=8, attention_head_dim=8, cross_attention_dim=width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more)
    vae = AutoencoderKL(block_out_channels=[32], norm_num_groups=8)
    common = dict(vae=vae, scheduler=DDIMScheduler(), tokenizer=tokenizer, text_encoder=text)
    StableDiffusionPipeline(**common, unet=unet(32), safety_checker=None, requires_safety_checker=False, feature_extractor=processor,
                            image_encoder=vision).save_pretrained(out / "diffusers")
    xl = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80, use_linear_projection=True)
    StableDiffusionXLPipeline(**common, unet=unet(64, **xl), text_encoder_2=text_2, tokenizer_2=tokenizer).save_pretrained(out / "diffusers-xl")
    pooled = lambda model, key: model(**tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt"))[key].numpy()
    pixels = lambda pictures: processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        first, second = pooled(text, "pooler_output"), pooled(text_2, "text_embeds")
    return [
        (["--model", out / "diffusers"], "pooler_output", first, lambda p: vision(pixels(p)).image_embeds.numpy()),
        (["--text-model", out / "diffusers-xl"], "pooler_output", first, None),
        (["--text-model", out / "diffusers-xl" / "text_encoder_2"], "text_embeds", second, None),
    ]


def sentence_transformers_model(checkpoint, out):
    """As versions since 3.1 save it, and with the module in a folder of its own, as those before."""
    from sentence_transformers import SentenceTransformer, models
    model = SentenceTransformer(modules=[models.CLIPModel(str(checkpoint))], device="cpu")
    model.save(str(out / "sentence-transformers"))
    old = out / "sentence-transformers-old"
    (old / "0_CLIPModel").mkdir(parents=True, exist_ok=True)
    for file in (out / "sentence-transformers").iterdir():
        if file.is_file():
            whole = file.name in ("modules.json", "config_sentence_transformers.json", "README.md")
            (old / file.name if whole else old / "0_CLIPModel" / file.name).write_bytes(file.read_bytes())
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_CLIPModel"
    (old / "modules.json").write_text(json.dumps(modules))
    texts, images = model.encode(TEXTS), lambda pictures: model.encode(pictures)
    return [(["--model", folder], "text_embeds", texts, images) for folder in (out / "sentence-transformers", old)]


def metaclip_2(out, side=32):
    """MetaCLIP 2 with a tokenizer of its kind: pieces with scores in place of merges, and 2 for the end token. Wants transformers 5."""
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import MetaClip2Config, MetaClip2Model, XLMRobertaTokenizer
    pieces = SentencePieceUnigramTokenizer()
    pieces.train_from_iterator([text * 3 for text in TEXTS], vocab_size=90, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>")
    vocab = [(piece, score) for piece, score in json.loads(pieces.to_str())["model"]["vocab"]] + [("<mask>", 0.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocab, model_max_length=20)
    tower = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(13)
    model = MetaClip2Model(MetaClip2Config(projection_dim=16, vision_config=dict(**tower, image_size=side, patch_size=8), text_config=dict(
        **tower, vocab_size=len(tokenizer), max_position_embeddings=20, eos_token_id=tokenizer.eos_token_id))).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    processor = image_processor(side)
    folder = out / "metaclip-2"
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    with torch.no_grad():
        texts = model.get_text_features(**tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")).pooler_output.numpy()
    return [(["--model", folder], "text_embeds", texts, None)]


class Service:
    """`clipserve serve` on a free port, for as long as the block."""

    def __init__(self, binary, arguments, cache):
        self.command = [binary, "serve", "--listen", "127.0.0.1:0", "--cache-dir", str(cache), *map(str, arguments)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        log = []
        for line in self.process.stdout:
            log.append(line)
            if address := re.search(r"listening address=(\S+)", line):
                self.url = f"http://{address[1]}"
            if re.search(r"INFO.* ready$", line.rstrip()):
                return self
        raise RuntimeError("".join(log))

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def ask(self, path, body, content_type):
        request = urllib.request.Request(self.url + path, body, {"content-type": content_type})
        return json.load(urllib.request.urlopen(request))


def compare(binary, checkpoint, images, out, report):
    """Makes all of them in `out` from `checkpoint` and compares; False where one is further off than allowed."""
    import transformers
    from PIL import Image, ImageOps
    files = [file for file in sorted(pathlib.Path(images).iterdir()) if file.suffix in (".jpg", ".png")][:6]
    pictures = [ImageOps.exif_transpose(Image.open(file)).convert("RGB") for file in files]
    out.mkdir(parents=True, exist_ok=True)
    ok = True
    made = metaclip_2(out) if transformers.__version__ >= "5" else sentence_transformers_model(checkpoint, out)
    for arguments, key, texts, embed in diffusers_pipelines(checkpoint, out) + made:
        with Service(binary, arguments, out / "cache") as service:
            label = f"{arguments[0]} {arguments[1].relative_to(out)}"
            wanted = dict(normalize=False) if key == "text_embeds" else dict(outputs=[key])
            answer = service.ask("/embed/text", json.dumps(dict(texts=TEXTS, **wanted)).encode(), "application/json")
            ours = answer["embeddings"] if key == "text_embeds" else answer["outputs"][key]
            ok &= report(label, "text", np.array(ours, dtype=np.float32), texts, 1e-5)
            if embed is None:
                continue
            png = lambda picture: (buffer := io.BytesIO(), picture.save(buffer, "png"))[0].getvalue()
            ours = [service.ask("/embed/image?normalize=false", png(picture), "image/png")["embeddings"][0] for picture in pictures]
            with torch.no_grad():
                ok &= report(label, "image", np.array(ours, dtype=np.float32), np.asarray(embed(pictures)), 1e-5)
    return ok
