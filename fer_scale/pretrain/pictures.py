"""What a masked autoencoder makes of some faces, as a picture: a run shows its own, `fer-scale watch` held-out ones."""

from pathlib import Path

import torch
from torch import Tensor

from fer_scale import plots
from fer_scale.pretrain import setup
from fer_scale.pretrain.recipe import Pretrain


def reconstructions(
    rec: Pretrain, weights: dict[str, Tensor], views: Tensor, keys: Tensor, file: Path, step: int
) -> None:
    """Draw normalised faces [B, 3, p, p]: what was there, what the encoder saw, what the decoder made of it.

    With a model of its own, with these weights: at ZeRO stage 3 a forward pass of the one that is trained would wait
    for the other ranks.
    """
    with torch.device("meta"):  # no weights are drawn to be overwritten: seconds of a large model
        module = setup.fresh(rec)
    module.load_state_dict({name: tensor.to(views.device) for name, tensor in weights.items()}, assign=True)
    module.eval()
    masked, filled = module.reconstruct(views, keys)
    mean, std = (views.new_tensor(v)[None, :, None, None] for v in (rec.model.mean, rec.model.std))
    real, seen, made = ((x * std + mean).float() for x in (views, masked, filled))
    plots.reconstructions(real, seen, made, file, step)
