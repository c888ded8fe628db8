"""The CLIP to train: a plain transformers CLIPModel, its tokenizer, and a forward pass of our own.

The forward pass uses the very parameters of the CLIPModel and computes the same function;
it differs by dropping patches and layers at random in training, by running q, k and v as one
matrix product, and by padding texts only to the longest of the batch.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

CONTEXT = 24
VOCABULARY = 3072
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def config(side, patch, width=192, layers=6, text_layers=3, heads=3):
    from transformers import CLIPConfig
    special = dict(bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1)
    return CLIPConfig(
        text_config=dict(vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width,
                         num_hidden_layers=text_layers, num_attention_heads=heads, projection_dim=width,
                         max_position_embeddings=CONTEXT, hidden_act="quick_gelu", **special),
        vision_config=dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                           num_attention_heads=heads, projection_dim=width, image_size=side, patch_size=patch,
                           hidden_act="quick_gelu"),
        projection_dim=width, logit_scale_init_value=math.log(1 / 0.07))


def build(cfg):
    """A CLIPModel with initial weights that suit a small vision transformer and little data."""
    from transformers import CLIPModel
    model = CLIPModel(cfg)
    vision = model.vision_model
    width = cfg.vision_config.hidden_size
    n = cfg.vision_config.image_size // cfg.vision_config.patch_size
    with torch.no_grad():
        # Positions start as 2-D sines, so that near patches look alike from the first step on.
        omega = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
        y, x = torch.meshgrid(torch.arange(n).float(), torch.arange(n).float(), indexing="ij")
        waves = [f(p.reshape(-1, 1) * omega) for p in (x, y) for f in (torch.sin, torch.cos)]
        vision.embeddings.position_embedding.weight[1:] = 0.5 * torch.cat(waves, 1)
        vision.embeddings.position_embedding.weight[0] = 0
        # "Mimetic" attention: q k' near the identity (a patch looks at its like and its
        # neighbours), v o near minus the identity, as trained transformers turn out to be.
        for layer in vision.encoder.layers:
            a = layer.self_attn
            d = width // a.num_heads
            for h in range(a.num_heads):
                m = 0.7 * (torch.randn(width, width) / math.sqrt(width) + torch.eye(width))
                u, s, v = torch.linalg.svd(m)
                root = s[:d].sqrt()
                a.q_proj.weight[h * d:(h + 1) * d] = (u[:, :d] * root).T
                a.k_proj.weight[h * d:(h + 1) * d] = (v.T[:, :d] * root).T
            m = 0.4 * (torch.randn(width, width) / math.sqrt(width) - torch.eye(width))
            u, s, v = torch.linalg.svd(m)
            a.v_proj.weight.copy_((u * s.sqrt()).T)
            a.out_proj.weight.copy_((s.sqrt()[:, None] * v).T)
    return model


@torch.no_grad()
def whiten(model, pixels):
    """Patches start as their whitened principal components: decorrelated, none of them lost in another."""
    e = model.vision_model.embeddings
    p, width = e.patch_size, e.embed_dim
    patches = F.unfold(pixels, p, stride=p).transpose(1, 2).reshape(-1, 3 * p * p)
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values[-width:].flip(0), vectors[:, -width:].flip(1)
    w = (vectors / (values + 0.02 * values[0] / width * 10).sqrt()).T * 0.7
    # Turned at random: no single coordinate carries all of the brightness.
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1)))
    e.patch_embedding.weight.copy_((turn @ w).view_as(e.patch_embedding.weight))


def _layer(l, x, mask=None):
    a, (b, n, d) = l.self_attn, x.shape
    y = l.layer_norm1(x)
    w = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
    bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias])
    q, k, v = F.linear(y, w, bias).view(b, n, 3, a.num_heads, -1).permute(2, 0, 3, 1, 4)
    # Written out: on the CPU the fused attention's backward pass is the slower one by far.
    p = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        p = p + mask
    y = (p.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(b, n, d)
    x = x + a.out_proj(y)
    y = l.mlp.fc1(l.layer_norm2(x))
    return x + l.mlp.fc2(y * torch.sigmoid(1.702 * y))


def image_features(model, pixels, drop=0.0, layer_drop=0.0, g=None):
    """Unit vectors of normalised pixels; drop: share of the patches to leave out."""
    v = model.vision_model
    e = v.embeddings
    x = F.conv2d(pixels, e.patch_embedding.weight, stride=e.patch_size).flatten(2).transpose(1, 2)
    x = x + e.position_embedding.weight[1:]
    if drop > 0:
        keep = torch.rand(x.shape[:2], generator=g).argsort(1)[:, : round(x.shape[1] * (1 - drop))]
        x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
    first = (e.class_embedding + e.position_embedding.weight[0]).expand(len(x), 1, -1)
    x = v.pre_layrnorm(torch.cat([first, x], 1))
    for i, l in enumerate(v.encoder.layers):
        if layer_drop and torch.rand(1, generator=g) < layer_drop * i / len(v.encoder.layers):
            continue
        x = _layer(l, x)
    return F.normalize(model.visual_projection(v.post_layernorm(x[:, 0])).float(), dim=-1)


def text_features(model, ids, ends):
    """Unit vectors of padded token ids; ends: the position of each text's end token."""
    t = model.text_model
    x = t.embeddings.token_embedding(ids) + t.embeddings.position_embedding.weight[: ids.shape[1]]
    mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
    for l in t.encoder.layers:
        x = _layer(l, x, mask)
    x = t.final_layer_norm(x[torch.arange(len(x)), ends])
    return F.normalize(model.text_projection(x).float(), dim=-1)


# ---------------------------------------------------------------- tokenizer

def train_tokenizer(texts, folder: Path):
    """A BPE tokenizer in CLIP's own scheme: vocab.json, merges.txt, tokenizer.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    split = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")

    def dress(tok):
        tok.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(split, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tok.decoder = decoders.ByteLevel()
        return tok

    # The trainer finds the merges; the vocabulary is then laid out as CLIP's is:
    # 256 bytes, the same with </w>, the merges in order, the two special tokens.
    raw = dress(Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix="</w>")))
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY + 512, show_progress=False, min_frequency=2,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  end_of_word_suffix="</w>", special_tokens=[EOS])
    raw.train_from_iterator(texts, trainer)
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in json.loads(raw.to_str())["model"]["merges"]]
    vocab = _bytes_to_unicode()
    vocab += [c + "</w>" for c in vocab]
    kept = []
    for pair in merges:
        if len(vocab) < VOCABULARY - 2 and "".join(pair) not in vocab:  # two merges may spell one token
            kept.append(pair)
            vocab.append("".join(pair))
    if len(vocab) != VOCABULARY - 2:
        raise ValueError(f"only {len(vocab)} tokens: too little text")
    vocab += [BOS, EOS]
    ids = {t: i for i, t in enumerate(vocab)}
    tok = dress(Tokenizer(models.BPE(vocab=ids, merges=kept, unk_token=EOS, end_of_word_suffix="</w>",
                                     continuing_subword_prefix="", fuse_unk=False)))
    from tokenizers import AddedToken
    tok.add_special_tokens([AddedToken(BOS, special=True, normalized=True), AddedToken(EOS, special=True, normalized=False)])
    tok.post_processor = processors.RobertaProcessing((EOS, ids[EOS]), (BOS, ids[BOS]), False, False)
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in kept), "utf-8")
    return tok


def _bytes_to_unicode():
    """The 256 characters that stand for bytes, in the order of CLIP's and GPT-2's vocabularies."""
    bs = [*range(33, 127), *range(161, 173), *range(174, 256)]
    cs = bs[:]
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + len(cs) - 188)
    return [chr(c) for c in cs]


class Texts:
    """Token ids of captions, padded to the longest of the batch and remembered."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def __call__(self, captions):
        rows = []
        for c in captions:
            row = self.known.get(c)
            if row is None:
                row = self.tokenizer.encode(c).ids
                if len(row) > CONTEXT:
                    row = row[: CONTEXT - 1] + [VOCABULARY - 1]
                self.known[c] = row
            rows.append(row)
        ids = torch.full((len(rows), max(map(len, rows))), VOCABULARY - 1)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids, torch.tensor([len(r) - 1 for r in rows])
