"""Configurations and inputs for made-up models, whatever library computes them."""

import numpy as np


def text_config(**over):
    base = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, vocab_size=120, bos_token_id=118,
                eos_token_id=119, pad_token_id=1, max_position_embeddings=20, projection_dim=16)
    return base | over


def vision_config(**over):
    base = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=8,
                num_channels=3, projection_dim=16)
    return base | over


def token_ids(rng, cfg):
    """Three texts of different lengths, padded, with their mask; what follows the end token must not matter."""
    length = min(cfg.max_position_embeddings, 11)
    old = cfg.eos_token_id == 2 and cfg.model_type == "clip_text_model"
    eos = cfg.vocab_size - 1 if old else cfg.eos_token_id
    ids = rng.integers(3, cfg.vocab_size - 1, (3, length))
    ids[ids == eos] = 3
    mask = np.zeros_like(ids)
    for row, end in zip(range(3), (length - 1, 4, 1)):
        ids[row, end] = eos
        ids[row, end + 1:] = 0 if old else [0, eos, 0][row]
        mask[row, :end + 1] = 1
    return ids.astype(np.int64), mask.astype(np.int64)


def pictures(rng, cfg, preprocessor):
    """Three pictures of bytes, and the same as a model takes them, [3, channels, side, side]."""
    p = dict(rescale_factor=1 / 255, image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
    p |= preprocessor
    pixels = rng.integers(0, 256, (3, cfg.image_size, cfg.image_size, cfg.num_channels)).astype(np.uint8)
    x = pixels.astype(np.float32)
    x = x * np.float32(p["rescale_factor"]) if p.get("do_rescale", True) else x
    if p.get("do_normalize", True):
        x = (x - np.array(p["image_mean"], np.float32)) / np.array(p["image_std"], np.float32)
    return pixels, np.ascontiguousarray(x.transpose(0, 3, 1, 2))
