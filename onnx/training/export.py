"""Writes the Hugging Face checkpoint and measures it through transformers alone."""
import json
import shutil
from pathlib import Path

import torch
from PIL import Image

from . import evaluate, model as clip, rasters


def save(model, cfg, tokenizer_folder: Path, out: Path):
    """config.json, model.safetensors (F16), the tokenizer's and the preprocessor's files."""
    from safetensors.torch import save_file
    out.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().to(torch.float16).contiguous() for n, p in model.state_dict().items()
               if not n.endswith("position_ids")}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    t, v = cfg.text_config, cfg.vision_config
    common = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim",
              "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range", "initializer_factor")
    text = {"model_type": "clip_text_model", **{k: getattr(t, k) for k in (
        "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", *common)}}
    vision = {"model_type": "clip_vision_model", **{k: getattr(v, k) for k in (
        "image_size", "patch_size", "num_channels", *common)}}
    _write(out / "config.json", {
        "architectures": ["CLIPModel"], "model_type": "clip", "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "projection_dim": cfg.projection_dim, "torch_dtype": "float16",
        "text_config": text, "vision_config": vision})
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        shutil.copyfile(tokenizer_folder / name, out / name)
    special = lambda s: {"content": s, "lstrip": False, "normalized": s == clip.BOS, "rstrip": False, "single_word": False}
    _write(out / "special_tokens_map.json", {
        "bos_token": special(clip.BOS), "eos_token": special(clip.EOS), "pad_token": clip.EOS, "unk_token": special(clip.EOS)})
    _write(out / "tokenizer_config.json", {
        "add_prefix_space": False, "bos_token": clip.BOS, "eos_token": clip.EOS, "pad_token": clip.EOS,
        "unk_token": clip.EOS, "clean_up_tokenization_spaces": False, "do_lower_case": True, "errors": "replace",
        "model_max_length": clip.CONTEXT, "tokenizer_class": "CLIPTokenizer",
        "added_tokens_decoder": {str(clip.VOCABULARY - 2 + i): {**special(s), "special": True}
                                 for i, s in enumerate((clip.BOS, clip.EOS))}})
    _write(out / "preprocessor_config.json", {
        "crop_size": {"height": v.image_size, "width": v.image_size}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "CLIPImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": v.image_size}})


def _write(path: Path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def on_white(image: Image.Image) -> Image.Image:
    """Opaque: CLIP's preprocessing drops alpha and would show whatever colour lies under it."""
    page = Image.new("RGBA", image.size, (255, 255, 255, 255))
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("RGB")


class Served:
    """The checkpoint as a user loads it: CLIPModel and CLIPProcessor, nothing of ours."""

    def __init__(self, folder: Path):
        from transformers import CLIPModel, CLIPProcessor
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = CLIPProcessor.from_pretrained(folder)

    @torch.no_grad()
    def texts(self, labels, templates=("{}",)):
        out = []
        for at in range(0, len(labels), 256):
            total = 0
            for t in templates:
                ids = self.processor.tokenizer([t.format(n) for n in labels[at:at + 256]], padding=True,
                                               truncation=True, return_tensors="pt")
                y = self.model.text_projection(self.model.text_model(**ids).pooler_output)
                total = total + torch.nn.functional.normalize(y, dim=-1)
            out.append(torch.nn.functional.normalize(total, dim=-1))
        return torch.cat(out)

    @torch.no_grad()
    def images(self, pictures):
        out = []
        for at in range(0, len(pictures), 64):
            x = self.processor.image_processor(pictures[at:at + 64], return_tensors="pt")["pixel_values"]
            y = self.model.visual_projection(self.model.vision_model(pixel_values=x).pooler_output)
            out.append(torch.nn.functional.normalize(y, dim=-1))
        return torch.cat(out)


def final(folder: Path, names, pictures, ok, held_out, examples: Path):
    """Every figure of the model card, from 288-pixel pictures through CLIPProcessor and CLIPModel."""
    served = Served(folder)
    labels = [c.name for c in names.concepts[: names.emoji]]
    plain = served.texts(labels)
    templated = served.texts(labels, evaluate.EVERYDAY_TEMPLATES)
    result = {"names": len(labels)}
    for style in held_out:
        rows, concept = evaluate.first_of(pictures, ok, style, names.emoji)
        image = served.images([on_white(rasters.render(pictures[i].kind, pictures[i].ref, 288)) for i in rows])
        flags = torch.tensor([names.concepts[int(c)].group == 9 for c in concept])
        entry = {"pictures": len(rows), "plain name": evaluate.recall(image, concept, plain),
                 "five templates": evaluate.recall(image, concept, templated)}
        if flags.any():
            entry["without flags"] = {"pictures": int((~flags).sum()), **evaluate.recall(image[~flags], concept[~flags], plain)}
        # The other way round: the right picture for a name, among the style's pictures.
        order = plain[concept] @ image.T
        place = (order > order.diagonal()[:, None]).sum(1)
        entry["name to picture"] = {f"R@{k}": round(100 * (place < k).float().mean().item(), 2) for k in (1, 5, 10)}
        at = {int(c): i for i, c in enumerate(concept)}
        ids = [labels.index(n) for n in evaluate.EVERYDAY]
        have = [k for k, i in enumerate(ids) if i in at]
        pics = image[[at[ids[k]] for k in have]]
        everyday = {"pictures": len(have), "names": len(ids)}
        for key, t in [("plain name", ("{}",)), *[(t, (t,)) for t in evaluate.EVERYDAY_TEMPLATES],
                       ("five templates", evaluate.EVERYDAY_TEMPLATES)]:
            guess = (pics @ served.texts(evaluate.EVERYDAY, t).T).argmax(1)
            right = guess == torch.tensor(have)
            everyday[key] = round(100 * right.float().mean().item(), 1)
            if key == "plain name":
                everyday["wrong"] = {evaluate.EVERYDAY[k]: evaluate.EVERYDAY[int(guess[j])]
                                     for j, k in enumerate(have) if not right[j]}
        entry["everyday"] = everyday
        result[style] = entry
    if (examples / "expected.json").exists():
        result["examples"] = check_examples(served, examples, labels)
    return result


@torch.no_grad()
def check_examples(served, examples: Path, labels, expected=None):
    """For each drawing the rank of its own name: among the examples', the everyday and all names."""
    expected = expected or json.loads((examples / "expected.json").read_text("utf-8"))
    image = served.images([Image.open(examples / f).convert("RGB") for f in expected])
    pools = {"examples": sorted(set(expected.values())),
             "everyday": evaluate.EVERYDAY + sorted(set(expected.values()) - set(evaluate.EVERYDAY)), "all": labels}
    out = {f: {"name": n} for f, n in expected.items()}
    for pool, words in pools.items():
        for key, t in (("plain", "{}"), ("a picture of a", "a picture of a {}")):
            score = 100 * image @ served.texts(words, (t,)).T
            for row, (f, n) in enumerate(expected.items()):
                own = score[row, words.index(n)]
                out[f][f"rank, {pool}, {key}"] = (score[row] > own).sum().item() + 1
                if pool != "all":
                    scaled = (served.model.logit_scale.exp() / 100 * score[row]).softmax(-1)
                    out[f][f"share, {pool}, {key}"] = round(scaled[words.index(n)].item(), 3)
    return out
