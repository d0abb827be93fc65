"""A classifier over a pool of faces, each picture seen as it is in use."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_scale.finetune import views
from fer_scale.finetune.pool import Pool
from fer_scale.finetune.steps import Input
from fer_scale.log import Ticker

_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Answers:
    logits: Tensor  # float32 [N, K], on the CPU
    sound: NDArray[np.bool_]  # [N] False for a face that could not be read: its logits are those of another one
    bad: list[str]  # these faces, each with its place and reason
    mirrored: Tensor | None = None  # logits as above, of each picture's mirror image


@torch.no_grad()
def ask(
    model: nn.Module, pool: Pool, as_input: Input, device: torch.device, tick: Ticker, *, mirror: bool = False
) -> Answers:
    """What `model` says to each face of the pool; with `mirror` also to its mirror image."""
    model.to(device).eval()
    logits, mirrored, sound = [], [], []
    bad: list[str] = []
    for start in range(0, len(pool), _AT_ONCE):
        ids = np.arange(start, min(start + _AT_ONCE, len(pool)))
        batch = pool.batch(ids)
        pictures = views.middle(batch.pixels.to(device), batch.sizes, as_input.px, as_input.crop_pct)
        logits.append(model(as_input(pictures)).float().cpu())
        if mirror:
            mirrored.append(model(as_input(pictures.flip(-1))).float().cpu())
        sound.append(batch.ids == ids)
        bad += batch.bad
        tick(int(ids[-1]) + 1, len(pool))
    return Answers(torch.cat(logits), np.concatenate(sound), bad, torch.cat(mirrored) if mirror else None)
