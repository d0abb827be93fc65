"""fer-scale, but rank 1 says something past Python and is killed, or fails, in its third step: DEATH is which."""

import os
import signal
import sys

import torch

from fer_scale.__main__ import main
from fer_scale.pretrain.mae import MaskedAutoencoder

forward = MaskedAutoencoder.forward
steps = 0


def dying(self: MaskedAutoencoder, images: torch.Tensor, keys_B: torch.Tensor) -> torch.Tensor:
    global steps
    steps += 1
    if steps == 3 and os.environ["RANK"] == "1":
        os.write(2, b"the last words of rank 1")
        if os.environ["DEATH"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the failure of rank 1")
    return forward(self, images, keys_B)


if __name__ == "__main__":
    MaskedAutoencoder.forward = dying  # type: ignore[method-assign]
    sys.exit(main())
