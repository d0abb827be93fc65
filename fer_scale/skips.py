"""Steps whose loss or gradient is not finite: they were skipped on all ranks; here they are told, and ended in the end.

There is no silent roll-back: weights and moments are as before the step, the samples are named, and the run goes on
with the next batch, until `run.max_skipped` steps in a row had to be skipped.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import disk, log
from fer_scale.peers import Peers
from shards.errors import UserError

_FILES = 100  # of one start: a run that skips now and then for weeks shall not fill its disk


@dataclass
class Skips:
    """How many steps in a row have been skipped by now, `most` being allowed. All ranks have the same."""

    most: int
    folder: Path  # of this start
    in_a_row: int = 0
    files: int = 0

    def seen(
        self, grad_norm: float, loss: Tensor, step: int, us: Peers, samples: Iterable[str]
    ) -> dict[str, Any] | None:
        """What there is to tell of a step, on the main rank; None where it was taken. All ranks must call it.

        `grad_norm` is over all ranks; `loss` and the names of the `samples`, read only where needed, are this rank's.
        """
        if math.isfinite(grad_norm):
            self.in_a_row = 0
            return None
        self.in_a_row += 1
        told = us.collect((us.name, math.isfinite(loss.item()), list(samples)))
        wrong = [(name, mine) for name, finite, mine in told if not finite]
        facts: dict[str, Any] = {"step": step, "ranks": [name for name, _ in wrong]}
        lines = [f"{name}  {sample}" for name, mine in wrong or [(n, s) for n, _, s in told] for sample in mine]
        facts |= {"samples": len(lines), "file": self._kept(step, lines) if us.is_main else None}
        return facts

    def _kept(self, step: int, lines: list[str]) -> str | None:
        if self.files >= _FILES:
            return None
        self.files += 1
        file = self.folder / f"skipped-{step:08d}.txt"
        try:
            disk.put(file, "".join(f"{line}\n" for line in lines))
        except OSError:  # no reason to end a run
            return None
        return str(file)

    def say(self, facts: dict[str, Any]) -> None:
        """A line for the person who waits; after the first few in a row only every tenth."""
        if self.in_a_row > 3 and self.in_a_row % 10:
            return
        what = f"the loss on {', '.join(facts['ranks'])}" if facts["ranks"] else "the gradient, and no loss,"
        where = f": {facts['file']}" if facts["file"] else ""
        log.say(f"step {facts['step']} skipped: {what} is not finite; its {facts['samples']} samples{where}")

    def refuse_more(self, step: int, lr: float, lr_key: str, clip_key: str) -> None:
        """End the run where nothing has been learned for too long; `lr`, its key and `clip_key` are the recipe's."""
        if self.in_a_row >= self.most:
            raise UserError(
                f"{self.in_a_row} steps in a row were skipped, up to step {step}: loss or gradient is not finite, "
                "nothing is learned any more.\nThe same command goes on from the newest checkpoint, of before. "
                f"Try a lower learning rate (now {lr:g}) by --change {lr_key}=..., a lower {clip_key} or "
                f"run.precision=fp32, and look at the samples: {self.folder}/skipped-*.txt"
            )
