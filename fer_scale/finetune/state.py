"""The state of a fine-tuning run in the one portable checkpoint form (fer_scale/checkpoint.py), plus the teacher:

    w.NAME m.NAME v.NAME  f.NAME  b.NAME     the student, as in pre-training
    e.NAME                                   the teacher, every tensor of its state

progress.json holds the step over both stages, the labeler's statistics, the recipe, and what the run was made for.
"""

import shutil
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from fer_scale import checkpoint, config, saves
from fer_scale.checkpoint import CheckpointError
from fer_scale.ending import Attempt
from fer_scale.finetune.pseudo_labels import Statistics
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.recipe import Run as Wanted

# What a run with no step to go can still be given: how its model is made, and that it is to end here.
_AT_ITS_END = ("run.temperature", "model.crop_pct", "semi.steps", "semi.warmup_steps")
_KEYS = {"shard set": "data.shards", "split": "data.split", "start": "model.start_from"}


def tensors(student: nn.Module, teacher: nn.Module, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    """The state, tensor by tensor, where it lies."""
    for name, value in teacher.state_dict().items():
        yield f"e.{name}", value
    for name, p in student.named_parameters():
        yield f"{'w' if p.requires_grad else 'f'}.{name}", p.detach()
        if p.requires_grad:
            moments = optimizer.state.get(p, {})
            yield f"m.{name}", moments.get("exp_avg", torch.zeros_like(p))
            yield f"v.{name}", moments.get("exp_avg_sq", torch.zeros_like(p))
    parameters = dict(student.named_parameters())
    for name, value in student.state_dict().items():
        if name not in parameters:
            yield f"b.{name}", value


def most_kept(recipe: Finetune) -> int:
    """How many checkpoints of a run lie in its folder at one time, at most: one is being written."""
    run, first, for_good = recipe.run, recipe.supervised.steps, 0
    if run.keep_every_steps:
        last = min(first + recipe.semi.steps, run.stop_after_steps or first + recipe.semi.steps)
        every = run.checkpoint_every_steps or last
        saved = {min(first, last), *range(every, last, every), last}
        for_good = len(checkpoint.for_good(saved, run.keep_every_steps))
    return for_good + run.keep_checkpoints + 1


def has_room_to_begin(run: Wanted, size: int) -> None:
    """Refuse to begin where the disk cannot take all that will lie there at one time: `keep_checkpoints` + 1.

    Not what `keep_every_steps` will have kept in the end: there is time to move it. `check` counts it.
    """
    saves.refuse_to_begin(run.out, size, run.keep_checkpoints + 1)


def save(
    run: Wanted, attempt: Attempt, name: str, state: Iterator[tuple[str, Tensor]], progress: dict[str, Any]
) -> dict[str, float]:
    """Write the checkpoint of progress["step"], whole or not at all; its seconds and bytes. The main process `name`."""
    began = time.monotonic()
    place = checkpoint.folder_of(run.out, progress["step"])
    part = checkpoint.part_of(place, attempt.number)
    whole = {key: value.to("cpu", copy=True).contiguous() for key, value in state}
    saves.refuse_without_room(run.out, sum(value.nbytes for value in whole.values()))
    try:
        file = checkpoint.write_part(part, 0, 1, whole)
        kept = checkpoint.finish(part, place, [file], progress, attempt.is_newest)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise saves.not_saved(name, part, error) from error
    if not kept:
        raise attempt.superseded()
    checkpoint.prune(run.out, run.keep_checkpoints, run.keep_every_steps)
    return {"seconds": time.monotonic() - began, "bytes": file["bytes"]}


def restore(state: dict[str, Tensor], student: nn.Module, teacher: nn.Module) -> None:
    """Put the weights of a checkpoint into student and teacher."""
    live = {name[2:]: value for name, value in state.items() if name[:2] in ("w.", "f.", "b.")}
    student.load_state_dict(live)
    teacher.load_state_dict({name[2:]: value for name, value in state.items() if name.startswith("e.")})


def restore_moments(state: dict[str, Tensor], student: nn.Module, optimizer: AdamW, adam_step: int) -> None:
    """Put Adam's memory of a checkpoint into a fresh optimizer of `student`."""
    for name, p in student.named_parameters():
        if p.requires_grad and adam_step:
            optimizer.state[p] = {
                "step": torch.tensor(float(adam_step), device=p.device),
                "exp_avg": state[f"m.{name}"].to(p.device),
                "exp_avg_sq": state[f"v.{name}"].to(p.device),
            }


def statistics_of(progress: dict[str, Any]) -> Statistics:
    """The labeler's statistics that a checkpoint holds, exactly."""
    said = progress["statistics"]
    return Statistics(said["updates"], tuple(said["mean"]), said["top_mean"], said["top_variance"])


def facts(
    recipe: Finetune,
    step: int,
    adam_step: int,
    skipped: int,
    statistics: Statistics,
    scaler: torch.amp.GradScaler,
    made_for: dict[str, str],
) -> dict[str, Any]:
    """progress.json."""
    return {
        "step": step,
        "adam_step": adam_step,
        "skipped": skipped,
        "statistics": asdict(statistics),
        "scaler": scaler.state_dict(),  # of fp16; else empty
        "made_for": made_for,
        "recipe": config.dump(recipe),
        "versions": {"torch": torch.__version__},
    }


def same_run(recipe: Finetune, progress: dict[str, Any], made_for: dict[str, str], changes: list[str]) -> None:
    """Refuse to go on with another set, split or encoder, or another value of a key that changes the mathematics."""
    out = recipe.run.out
    if "made_for" not in progress:
        raise CheckpointError(f"{out}: holds a run of pre-training; use another run.out")
    for what, value in made_for.items():
        if progress["made_for"].get(what) != value:
            raise CheckpointError(f"{out}: holds a run with another {what} ({_KEYS[what]}); use another run.out")
    config.refuse_another(out / "recipe.toml", recipe, changes)
    refuse_late(recipe, progress)


def refuse_late(recipe: Finetune, progress: dict[str, Any]) -> None:
    """CheckpointError where a recipe differs from the run's in what its steps were made by, and these are done."""
    out = recipe.run.out
    step, end = progress["step"], recipe.supervised.steps + recipe.semi.steps
    before, now = tomllib.loads(progress["recipe"])["supervised"]["steps"], recipe.supervised.steps
    if before != now and step > min(before, now):
        raise CheckpointError(
            f"{out}: is at step {step}, past the end of stage 2 by supervised.steps = {min(before, now)}; "
            "that can only be changed before; use another run.out"
        )
    if step > end:
        raise CheckpointError(
            f"{out}: is at step {step}, past the end by supervised.steps + semi.steps = {end}; use another run.out"
        )
    differ = config.differences(config.load(Finetune, out / "recipe.toml"), recipe) if step == end else []
    if late := [line for line in differ if line.partition(":")[0] not in _AT_ITS_END]:
        raise CheckpointError(
            f"{out}: has all its {end} steps, so nothing would be trained with {late[0]}; use another run.out"
        )
