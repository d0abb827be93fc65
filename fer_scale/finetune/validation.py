"""How good the teacher is on a split's list `valid` while it learns: for people to see, nothing is chosen by it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fer_scale.config import ConfigError
from fer_scale.finetune import apply, finish, fold, metrics, targets
from fer_scale.finetune.pool import SLOT_PX, Pool
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.start import Start
from fer_scale.finetune.steps import Input
from fer_scale.finetune.table import Table


class _Asked(Exception):
    """The run is to end."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The faces of the list and their classes; they are read anew each time, and take no memory between."""

    pool: Pool
    as_input: Input
    classes: NDArray[np.int64]  # [N], -1 for an expression that the model does not know
    names: list[str]
    grey: bool  # as the published model will see them

    def figures(self, model: nn.Module, device: torch.device, asked: Callable[[], int]) -> dict[str, Any] | None:
        """valid_accuracy, valid_uar and valid_recall of each expression, as `fer-scale evaluate` measures them.

        Faces that cannot be read are left out, and an expression without a face has the recall None. `model` is in
        evaluation mode, and as it was afterwards: nothing is drawn at random. None where no face counts, or where the
        run is `asked` to end meanwhile: a save that must be done in seconds comes before a figure.
        """
        assert not model.training, "asking would leave it in evaluation mode"

        def tick(done: int, total: int) -> None:
            if asked():
                raise _Asked

        if self.grey:
            fold.grey(model := copy.deepcopy(model))
        try:
            answers = apply.ask(model, self.pool, self.as_input, device, tick)
        except _Asked:
            return None
        counted = (self.classes >= 0) & answers.sound
        if not counted.any():
            return None
        predicted = answers.logits.argmax(dim=1).numpy()
        matrix = metrics.confusion(self.classes[counted], predicted[counted], len(self.names))
        found = [None if np.isnan(share) else float(share) for share in metrics.recall(matrix)]
        return {
            "valid_accuracy": float(metrics.accuracy(matrix)),
            "valid_uar": float(metrics.uar(matrix)),
            "valid_recall": dict(zip(self.names, found, strict=True)),
        }


def of_run(recipe: Finetune, laid: Table, begun: Start) -> Validation | None:
    """What the run is measured on by run.evaluate_every_steps; None where that is 0.

    Raises ConfigError where the split has no list for it.
    """
    if not recipe.run.evaluate_every_steps:
        return None
    if not laid.split.lists["valid"]:
        raise ConfigError(
            f"run.evaluate_every_steps: the split {laid.split.path} has no list valid to measure on\n"
            "draw one with `fer-scale split --valid`, or leave it out with run.evaluate_every_steps=0"
        )
    pool = Pool(laid.shard_set, laid.split.lists["valid"], slot_px=SLOT_PX, crop_of=recipe.augment.crop_of)
    as_input = Input(begun.image_px, begun.mean, begun.std, recipe.model.crop_pct)
    classes = targets.classes(pool.known(), laid.names)
    return Validation(pool, as_input, classes, laid.names, finish.sees_grey(begun, laid, recipe))
