"""Steps that are done again from their start: in smaller parts where memory is short, or with less scale in fp16.

A step is a function of (weights, teacher, seed, step), so that nothing is lost: the same faces, drawn alike. All
processes find out together, where they meet at the end of the step: one that is short of memory comes there too.
"""

import dataclasses
from types import TracebackType

import torch

from fer_scale import log, memory
from fer_scale.finetune.begin import Run, TrainingError
from fer_scale.finetune.start import cuts_matter


class Again(Exception):
    """The step has to be done again; raised on all processes."""


class TooLarge(Again):
    """A process is short of memory."""


class Room:
    """`with room:` ends quietly where memory is too short for what is done there; then `short` says how it showed."""

    def __init__(self) -> None:
        self.short = ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not memory.is_short(error):
            return False
        self.short = str(error).strip().splitlines()[0] if str(error).strip() else "MemoryError"
        return True


def halve(run: Run, said: str) -> None:
    """Let the run go on with half as many pictures a forward pass; TrainingError where that cannot be.

    The mathematics is that of the whole batch, however it is cut. `said` is how the lack showed, where it was here.
    """
    recipe = run.recipe
    semi = recipe.semi.batch * max(1, recipe.semi.unlabeled_ratio) if recipe.semi.steps else 0
    largest = -(-max(recipe.supervised.batch, semi) // run.here.ranks)
    micro = min(recipe.batch.micro, largest) // 2
    if cuts_matter(run.student):
        raise TrainingError(
            f"{run.start.architecture} does not fit into memory with {largest} pictures at once, and cannot see fewer: "
            "its batch norm sees how a batch is cut. Lower supervised.batch, semi.batch or semi.unlabeled_ratio, or "
            "take an architecture without batch norm"
        )
    if micro < 2:
        raise TrainingError(
            f"memory is too short for two pictures at once ({said or 'on another process'}): "
            "take a smaller encoder, or a smaller model.image_px"
        )
    if run.here.device.type == "cuda":
        torch.cuda.empty_cache()
    cut = dataclasses.replace(recipe.batch, micro=micro)
    run.recipe = dataclasses.replace(recipe, batch=cut)
    run.journal.event("smaller", step=run.step + 1, micro=micro, said=said)
    if run.here.is_main:
        log.say(
            f"step {run.step + 1}: memory is too short; from here on {micro} pictures a forward pass, with the same "
            f"result (batch.micro={micro} begins so)"
        )
