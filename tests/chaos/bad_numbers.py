"""fer-scale, but rank 1 meets a number that is not finite in its 5th step; BAD says where.

loss       its loss, and no other rank's        gradient   one value of one gradient; its loss is finite
weight     a bit of the exponent of a weight flips, which it computes with from then on
master     the same, of an fp32 weight that the optimizer steps, in this rank's share
"""

import os
import sys
from collections.abc import Iterator

import torch
from disturbed import as_a_driver

from fer_scale.__main__ import main
from fer_scale.pretrain.engine import Engine, Stepped
from fer_scale.pretrain.mae import MaskedAutoencoder

BAD, STEP = os.environ["BAD"], 5
forward, step = MaskedAutoencoder.forward, Engine.step
steps = 0


def poisoned(grad: torch.Tensor) -> torch.Tensor:
    grad = grad.clone(memory_format=torch.contiguous_format)
    grad.view(-1)[7] = float("nan")
    return grad


def bad_forward(self: MaskedAutoencoder, images: torch.Tensor, keys_B: torch.Tensor) -> torch.Tensor:
    if steps != STEP or BAD not in ("loss", "gradient"):
        return forward(self, images, keys_B)
    if BAD == "loss":
        return forward(self, images, keys_B) * float("nan")
    hook = self.encoder.patch_embed.proj.register_forward_hook(_poison_its_gradient)
    try:
        return forward(self, images, keys_B)
    finally:
        hook.remove()


def _poison_its_gradient(module: torch.nn.Module, given: object, out: torch.Tensor) -> None:
    out.register_hook(poisoned)


def bad_step(self: Engine, micro_batches: Iterator[tuple[torch.Tensor, torch.Tensor]], lr: float) -> Stepped:
    global steps
    steps += 1
    if steps == STEP and BAD == "weight":
        flip(self.module.encoder.blocks[0].mlp.fc1.weight.data)
    if steps == STEP and BAD == "master":
        flip(next(iter(self.slices())).w)
    return step(self, micro_batches, lr)


def flip(weights: torch.Tensor) -> None:
    """The highest bit of an exponent: 0.02 becomes 7e36."""
    flat = weights.view(-1)
    assert weights.dtype == torch.float32 and flat.data_ptr() == weights.data_ptr()
    flat.view(torch.int32)[7] ^= 1 << 30
    print("doom: a bit flips", flat[7].item(), flush=True)


if __name__ == "__main__":
    as_a_driver()
    if os.environ["RANK"] == "1":
        MaskedAutoencoder.forward, Engine.step = bad_forward, bad_step  # type: ignore[method-assign]
    sys.exit(main())
