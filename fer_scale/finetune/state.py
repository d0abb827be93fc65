"""The state of a fine-tuning run in the one portable checkpoint form (fer_scale/checkpoint.py), plus the teacher:

    w.NAME m.NAME v.NAME  f.NAME  b.NAME     the student, as in pre-training
    e.NAME                                   the teacher, every tensor of its state

progress.json holds the step over both stages, the labeler's statistics, the recipe, and what the run was made for.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from fer_scale import checkpoint, config
from fer_scale.checkpoint import CheckpointError
from fer_scale.finetune.pseudo_labels import Statistics
from fer_scale.finetune.recipe import Finetune

KEEP = 2


def save(run: Path, student: nn.Module, teacher: nn.Module, optimizer: AdamW, progress: dict[str, Any]) -> Path:
    """Write the checkpoint of progress["step"], whole or not at all; its folder. One process only."""
    place = checkpoint.folder_of(run, progress["step"])
    part = checkpoint.part_of(place)
    shutil.rmtree(part, ignore_errors=True)  # a save that was killed
    tensors = {f"e.{name}": value for name, value in teacher.state_dict().items()}
    for name, p in student.named_parameters():
        tensors[f"{'w' if p.requires_grad else 'f'}.{name}"] = p.detach()
        if p.requires_grad:
            moments = optimizer.state.get(p, {})
            tensors[f"m.{name}"] = moments.get("exp_avg", torch.zeros_like(p))
            tensors[f"v.{name}"] = moments.get("exp_avg_sq", torch.zeros_like(p))
    parameters = dict(student.named_parameters())
    tensors |= {f"b.{name}": value for name, value in student.state_dict().items() if name not in parameters}
    whole = {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    try:
        checkpoint.finish(part, place, [checkpoint.write_part(part, 0, 1, whole)], progress)
        checkpoint.prune(run, KEEP)
    except OSError as error:
        raise CheckpointError(f"{part}: {error.strerror}; free space and start the run again, it goes on") from None
    return place


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
    recipe: Finetune, step: int, adam_step: int, statistics: Statistics, made_for: dict[str, str]
) -> dict[str, Any]:
    """progress.json."""
    return {
        "step": step,
        "adam_step": adam_step,
        "statistics": asdict(statistics),
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
            raise CheckpointError(f"{out}: holds a run with another {what}; use another run.out")
    config.refuse_another(out / "recipe.toml", recipe, changes)
