"""fer-scale, but the loss of one sample is NaN the first time it is computed in a step: POISON is the sample's key.

A real gradient that is not finite, on whichever rank and micro-batch the sample falls.
"""

import os
import sys

import torch

from fer_scale.__main__ import main
from fer_scale.pretrain.mae import MaskedAutoencoder

poison = int(os.environ["POISON"])
forward = MaskedAutoencoder.forward


def poisoned(self: MaskedAutoencoder, images: torch.Tensor, keys_B: torch.Tensor) -> torch.Tensor:
    return forward(self, images, keys_B) * torch.where(keys_B == poison, float("nan"), 1.0)


if __name__ == "__main__":  # readers import this file again
    MaskedAutoencoder.forward = poisoned  # type: ignore[method-assign]
    sys.exit(main())
