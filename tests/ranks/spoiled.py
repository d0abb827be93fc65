"""fer-scale, but before the checkpoint of step 6 one value of Adam's memory of rank SPOILED is not finite any more."""

import os
import sys
from typing import Any

from fer_scale.__main__ import main
from fer_scale.pretrain import saving
from fer_scale.pretrain.saving import Saver

begin = Saver.begin


def spoiled(self: Saver, progress: dict[str, Any]) -> None:
    if progress["step"] == 6 and self._us.rank == int(os.environ["SPOILED"]):
        memory = list(self._engine._adamw.state.values())[-1]
        memory["exp_avg_sq"].view(-1)[0] = float("nan")
    begin(self, progress)


if __name__ == "__main__":  # readers import this file again
    assert saving._WORTH_A_WRITER
    saving._WORTH_A_WRITER = 1 << 16  # two ranks write, as of a model that is worth it
    Saver.begin = spoiled  # type: ignore[method-assign]
    sys.exit(main())
