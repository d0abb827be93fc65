"""fer-scale, but every forward takes 30 ms more, and from its tenth on those of rank 1 take SLOW ms more than that."""

import os
import sys
import time

import torch

from fer_scale.__main__ import main
from fer_scale.pretrain.mae import MaskedAutoencoder

forward = MaskedAutoencoder.forward
more = float(os.environ["SLOW"]) / 1000 * (os.environ["RANK"] == "1")
steps = 0


def slowed(self: MaskedAutoencoder, images: torch.Tensor, keys_B: torch.Tensor) -> torch.Tensor:
    global steps
    steps += 1
    time.sleep(0.03 + more * (steps >= 10))
    return forward(self, images, keys_B)


if __name__ == "__main__":
    MaskedAutoencoder.forward = slowed  # type: ignore[method-assign]
    sys.exit(main())
