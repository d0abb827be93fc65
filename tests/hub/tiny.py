"""A model small enough for any test."""

from pathlib import Path

import torch

from fer_scale import artifact, encoder


def encoder_folder(folder: Path, seed: int = 0) -> Path:
    """A published encoder of 64x2x2 for 32 px faces in 8 px patches, with a card; another seed gives other weights."""
    torch.manual_seed(seed)
    model = encoder.build("64x2x2", image_px=32, patch_px=8)
    args = encoder.model_args("64x2x2", image_px=32, patch_px=8)
    config = encoder.make_config(model, args, image_px=32, mean=(0.5,) * 3, std=(0.25,) * 3, licence="mit", block={})
    encoder.write(folder, model.state_dict(), config)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Tiny\n")
    artifact.seal(folder)
    return folder
