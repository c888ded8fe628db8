"""The parts of train.py: data, rasters, augment, model, loop, evaluate, export."""
