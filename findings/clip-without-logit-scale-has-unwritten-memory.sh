#!/usr/bin/env bash
# transformers 5.24.0: CLIPModel.from_pretrained without `logit_scale` in the weights leaves memory there that nobody wrote (seen 2026-11-28;
# transformers 5.24.0, torch 2.15.0; 4.57.6 does the same).
#
# Expected: the parameter that is missing has the value that the model's own constructor gives it, config.logit_scale_init_value.
# Behaviour: models are made without memory and get it from torch.empty; `_init_weights` then fills what is missing, and CLIP's knows
# nothing of logit_scale. So the temperature is whatever was there, another one at every load: exp() of it was 1.0, or infinite, and
# logits_per_image and the probabilities with it. That the key is missing is told, that its value is no value is not. Checkpoints without it
# are made by whoever keeps only the towers and projections. The way out: model.logit_scale.data.fill_(..) after loading.
#
# Output seen (the loaded numbers vary):
#   made from the configuration: 1.5
#   loaded: [1.2579320118850355e+17, -4.4814848951832574e-17, 1.1800866861495728e-38], missing ['logit_scale']
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work/model" <<'PY'
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
config = CLIPConfig(
    text_config=tower | dict(vocab_size=100),
    vision_config=tower | dict(image_size=32, patch_size=16),
    projection_dim=16,
    logit_scale_init_value=1.5,
)
folder = pathlib.Path(sys.argv[1])
made = CLIPModel(config)
made.save_pretrained(folder)
weights = load_file(folder / "model.safetensors")
del weights["logit_scale"]
save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

loaded = []
for fill in (7.0, 8.0, 9.0):
    # What a process has had in its memory before.
    junk = [torch.full((1,), fill) for _ in range(50)]
    del junk
    model, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    loaded.append(model.logit_scale.item())
print(f"made from the configuration: {made.logit_scale.item()}")
print(f"loaded: {loaded}, missing {sorted(report['missing_keys'])}")
assert made.logit_scale.item() == 1.5 and sorted(report["missing_keys"]) == ["logit_scale"]
assert 1.5 not in loaded, "the missing parameter has its initial value now"
PY
