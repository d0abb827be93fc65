"""fer-scale, but something happens before the first step: BEGINS is what. No pictures are drawn.

blind     rank 1 finds every state file damaged
behind    another start claims the run before a checkpoint is looked for ...
late      ... and just before this one would write to it
"""

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import checkpoint, ending, plots
from fer_scale.__main__ import main
from fer_scale.checkpoint import CheckpointError
from fer_scale.pretrain import pictures, saving, setup

happens, rank = os.environ["BEGINS"], os.environ["RANK"]
table, has_room = setup.table, saving.Saver.has_room


def damaged(folder: Path, name: str) -> dict[str, Tensor]:
    raise CheckpointError(f"{folder / name}: damaged (another sha256 than its manifest's); use another step")


def table_and_a_claim(rec: Any, sets: Any) -> Any:
    if rank == "0":
        ending.claim(rec.run.out)
    return table(rec, sets)


def has_room_and_a_claim(self: saving.Saver) -> None:
    has_room(self)
    if rank == "0":
        ending.claim(self._run.out)


if __name__ == "__main__":
    assert saving._WORTH_A_WRITER and callable(plots.curves) and callable(pictures.reconstructions)
    plots.curves = pictures.reconstructions = lambda *_: None  # type: ignore[assignment]
    saving._WORTH_A_WRITER = 1 << 16  # both ranks write, as of a model that is worth it
    if happens == "blind" and rank == "1":
        assert callable(checkpoint.read_state)
        checkpoint.read_state = damaged
    if happens == "behind":
        setup.table = table_and_a_claim
    if happens == "late":
        saving.Saver.has_room = has_room_and_a_claim  # type: ignore[method-assign]
    sys.exit(main())
