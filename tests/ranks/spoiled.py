"""fer-scale, but before the checkpoint of step 6 rank SPOILED has one value spoilt.

Of Adam's memory, which is then not finite, or with BIT=1 of the weights that its model computes with: their last bit.
"""

import os
import sys
from typing import Any

import torch

from fer_scale.__main__ import main
from fer_scale.pretrain import saving
from fer_scale.pretrain.saving import Saver

begin = Saver.begin


def spoiled(self: Saver, progress: dict[str, Any]) -> None:
    if progress["step"] == 6 and self._us.rank == int(os.environ["SPOILED"]):
        if "BIT" in os.environ:
            list(self._engine.module.parameters())[-1].data.view(-1)[:1].view(torch.int32).bitwise_xor_(1)
            return begin(self, progress)
        memory = list(self._engine._adamw.state.values())[-1]
        memory["exp_avg_sq"].view(-1)[0] = float("nan")
    begin(self, progress)


if __name__ == "__main__":  # readers import this file again
    assert saving._WORTH_A_WRITER
    saving._WORTH_A_WRITER = 1 << 16  # two ranks write, as of a model that is worth it
    Saver.begin = spoiled  # type: ignore[method-assign]
    sys.exit(main())
