"""How well a run does, seen from inside one step of every `run.log_every_steps`: no other step pays for it.

communication   share of the step's time in DeepSpeed's collectives, the main rank's, waiting for slower ranks included.
                In this step each is waited for, so that none hides behind computing: with `overlap_comm` an upper bound
                for the other steps. Over gloo what ZeRO stage 3 gathers is missing. None with one rank.
update_ratio    |change of the weights by this step| / |weights|. Near 1e-3 as a rule (Karpathy, CS231n, "Neural
                Networks Part 3": ratio of weights to updates); far above, the learning rate is too high. None where the
                step was skipped.
dead            share of the weights that have stopped learning: the root of Adam's mean squared gradient is below
                Adam's eps. A unit that is dead as Lu et al. 2019 (arXiv 1903.06733) mean it, constant and without a
                gradient, counts by all its weights. So may attention's key biases, to which softmax is blind.
exploding       share of what the blocks put out, averaged over blocks, that is not finite or beyond fp16's largest
                number, 65504, so that whoever reads the encoder in fp16 gets infinities.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fer_scale.pretrain.engine import Engine, Slice
from fer_scale.pretrain.mae import MaskedAutoencoder
from fer_scale.pretrain.world import World, timed_collectives

_CHUNK = 1 << 24  # weights at a time: what is computed of them takes no more memory than that


def sums(s: Slice) -> Tensor:
    """[4]: squared norm of the last change, squared norm of the weights, how many are dead, how many there are."""
    total = torch.zeros(4, dtype=torch.float64, device=s.w.device)
    for w, m, v in zip(*(x.detach().flatten().split(_CHUNK) for x in (s.w, s.m, s.v)), strict=True):
        spread = (v / (1 - s.betas[1] ** s.step)).sqrt_()
        learned = m / (1 - s.betas[0] ** s.step) / (spread + s.eps) * s.lr
        decay = s.lr * s.weight_decay
        change = learned + (w + learned) * (decay / (1 - decay))  # the decay is of the weights before; no sign matters
        total[0] += change.square().sum()
        total[1] += w.square().sum()
        total[2] += (spread < s.eps).sum()
        total[3] += len(w)
    return total


@contextmanager
def seen(engine: Engine, us: World, wanted: bool) -> Iterator[dict[str, Any]]:
    """What lies inside is one step; if wanted, its values are there afterwards. All ranks must want it together."""
    values: dict[str, Any] = {}
    model = engine.module
    if not wanted:
        yield values
        return
    assert isinstance(model, MaskedAutoencoder)
    before, began = engine.adam_step, time.monotonic()
    model.beyond = beyond = list[Tensor]()
    with timed_collectives() as spent:
        yield values
    took, model.beyond, after = time.monotonic() - began, None, engine.adam_step

    total = sum(map(sums, engine.slices()), torch.zeros(4, dtype=torch.float64, device=us.device))
    changed, squares, dead, count, exploding = us.sum(*total, torch.stack(beyond).mean())
    padding = count - engine.numel_trained  # of ZeRO's parts, where nothing is learned
    if us.ranks > 1:
        values["communication"] = round(sum(spent) / took, 4)
    values["update_ratio"] = (changed / squares) ** 0.5 if after > before else None
    values["dead"] = (dead - padding) / engine.numel_trained if after else None
    values["exploding"] = exploding / us.ranks
