"""fer-scale, but in its third step rank 1 hangs: HANG is how.

stopped   the process gets SIGSTOP, as from a scheduler or a person
looping   it computes for ever
locked    a call in C keeps Python's lock for ever, so that no other thread of the rank runs
reading   its readers sleep for ever
"""

import ctypes
import os
import signal
import sys
import time
from typing import Any

import torch

from fer_scale.__main__ import main
from fer_scale.loader import Batch, Faces
from fer_scale.pretrain.mae import MaskedAutoencoder

how, ours = os.environ["HANG"], os.environ["RANK"] == "1"
forward, batch = MaskedAutoencoder.forward, Faces.batch
steps = 0


def hanging(self: MaskedAutoencoder, images: torch.Tensor, keys_B: torch.Tensor) -> torch.Tensor:
    global steps
    steps += 1
    if steps == 3 and how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if steps == 3 and how == "looping":
        while True:
            time.sleep(0.01)
    if steps == 3 and how == "locked":
        ctypes.PyDLL(None).pause()
    return forward(self, images, keys_B)


def stuck(self: Faces, *args: Any, **names: Any) -> Batch:
    global steps
    steps += 1
    if steps == 3:
        time.sleep(10_000)
    return batch(self, *args, **names)


if ours and how == "reading":  # readers import this file again
    Faces.batch = stuck  # type: ignore[method-assign]
if __name__ == "__main__":
    if ours:
        MaskedAutoencoder.forward = hanging  # type: ignore[method-assign]
    sys.exit(main())
