"""clipserve: CLIP embeddings over HTTP. The program lies in this folder; `clipserve` and `python -m clipserve` become it."""
