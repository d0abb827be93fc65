"""What all processes settle before the first step: whose start of the run this is, and where they go on from.

resume.py and peers.py say how they decide alike, as in pre-training.
"""

import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import nn
from torch.optim import AdamW

from fer_scale import __version__, checkpoint, config, ending, hub, log, optim, resume
from fer_scale.checkpoint import CheckpointError
from fer_scale.ending import Attempt, StopSignal
from fer_scale.finetune import ema, finish, split, state, table, targets, validation
from fer_scale.finetune.processes import Processes
from fer_scale.finetune.pseudo_labels import Statistics
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.slip import refuse_slip
from fer_scale.finetune.start import Start, cuts_matter, start
from fer_scale.finetune.table import Table
from fer_scale.finetune.validation import Validation
from fer_scale.peers import by_main, same_everywhere
from fer_scale.resume import Found
from fer_scale.skips import Skips
from shards.errors import UserError, exit_code
from shards.remote import open_set


class TrainingError(UserError):
    """A run that cannot go on."""


class Meter:
    """Steps and seconds since the last line of metrics."""

    def __init__(self) -> None:
        self.steps, self.began = 0, time.monotonic()


@dataclass
class Run:
    """What the loop works with, and the few things that change while it runs."""

    recipe: Finetune
    here: Processes
    start: Start
    table: Table
    student: nn.Module
    teacher: nn.Module
    optimizer: AdamW
    journal: log.Journal
    stop: StopSignal
    made_for: dict[str, str]
    statistics: Statistics
    skips: Skips
    validation: Validation | None  # None where the run is not measured
    step: int = 0  # optimizer steps done or skipped, over both stages
    adam_step: int = 0  # done in this stage
    skipped: int = 0  # of `step`, those whose loss or gradient was not finite
    due: bool = False  # a checkpoint that waits for a step that is not skipped
    bad: int = 0  # faces that could not be read and were replaced, over all processes
    meter: Meter = field(default_factory=Meter)


def claim(recipe: Finetune, changes: list[str], here: Processes) -> Attempt:
    """Make this start the one that counts, on all processes. Where it may not be, the main one says why."""
    try:
        claimed = by_main(here, lambda: _claimed(recipe, changes))
    except (UserError, OSError) as error:
        if here.is_main:
            raise
        raise SystemExit(exit_code(error)) from None
    attempt = claimed if here.is_main else resume.as_seen_here(claimed)
    attempt.folder.mkdir(parents=True, exist_ok=True)  # where its supervisor reads how it ended
    return attempt


def _claimed(recipe: Finetune, changes: list[str]) -> Attempt:
    refuse_slip(recipe, changes)  # the claim would end a run that runs, and forget how one has ended
    progress = dict[str, Any]()
    for newest in checkpoint.complete(recipe.run.out)[:1]:
        with suppress(CheckpointError):  # damaged: the run goes on from the one before it
            progress = checkpoint.progress_of(newest)
    if "made_for" in progress:
        state.refuse_late(recipe, progress)
    return ending.claim(recipe.run.out)


def set_up(recipe: Finetune, changes: list[str], here: Processes, attempt: Attempt) -> Run:
    """Everything that the loop works with, as new or as the newest checkpoint left it."""
    versions = {"fer_scale": __version__, "torch": torch.__version__}
    same_everywhere(here, **{"version of": versions, "recipe:": config.values(recipe)})
    shard_set = open_set(recipe.data.shards, recipe.data.cache_dir, recipe.data.cache_gb)
    drawn = split.read(recipe.data.split, shard_set)
    names = targets.label_names(drawn.facts["class_counts"]["labeled"])
    begun = start(recipe.model, len(names), recipe.run.seed, by_main(here, lambda: whence(recipe)))
    refuse_cuts(begun, recipe, here)
    made_for = {"shard set": shard_set.fingerprint, "split": drawn.sha256, "start": begun.base_model or "none"}
    same_everywhere(here, **made_for)
    laid = table.lay(recipe, shard_set, drawn, names, begun.image_px, here)
    student = here.settle(begun.model)
    run = Run(
        recipe,
        here,
        begun,
        laid,
        student,
        ema.teacher_of(student),
        optimizer(student, recipe, begun),
        _journal(recipe, here),
        StopSignal(attempt, max_hours=recipe.run.max_hours, rank=here.rank),
        made_for,
        Statistics.fresh(len(laid.names)),
        Skips(recipe.run.max_skipped, attempt.folder),
        validation.of_run(recipe, laid, begun),
    )
    _go_on(run, changes)
    return run


def _journal(recipe: Finetune, here: Processes) -> log.Journal:
    """The run's, on its main process; that a board cannot be had is raised on all."""
    run, opened = recipe.run, [log.Journal(None)]
    by_main(here, lambda: opened.append(log.Journal(run.out, tensorboard=run.tensorboard, wandb=run.wandb)))
    return opened[-1]


def whence(recipe: Finetune) -> str:
    """What `model.start_from` stands for in this run: the commit that its checkpoint began with, else today's.

    So all processes start from the same weights, and a branch that moves does not keep a run from going on.
    """
    asked = recipe.model.start_from
    if not hub.is_remote(asked):
        return asked
    found, _ = checkpoint.newest(recipe.run.out)
    if found:
        with suppress(CheckpointError, OSError, KeyError):  # what is wrong with it is said where it is read
            progress = checkpoint.progress_of(found)
            if tomllib.loads(progress["recipe"])["model"]["start_from"] == asked:
                return str(progress["made_for"]["start"])
    return hub.resolve(asked)


def refuse_cuts(begun: Start, recipe: Finetune, here: Processes) -> None:
    """Batch norm computes other things when a batch is cut, so with it the batch must stay whole."""
    largest = max(recipe.supervised.batch, recipe.semi.batch * recipe.semi.unlabeled_ratio if recipe.semi.steps else 0)
    largest += largest % 2  # batches are cut into pairs
    if cuts_matter(begun.model) and (here.ranks > 1 or recipe.batch.micro < largest):
        raise TrainingError(
            f"{begun.architecture} has batch norm, which sees how a batch is cut: use one process and "
            f"batch.micro={largest}, or an architecture without it"
        )


def _go_on(run: Run, changes: list[str]) -> None:
    """Bring the run to where its newest checkpoint is, if it has one, and write down how it starts."""
    here, recipe, attempt = run.here, run.recipe, run.stop.attempt
    resume.is_ours(attempt, here)
    found = go_on(recipe, changes, run.made_for, here)
    if found.folder:
        state.restore(found.state, run.student, run.teacher)
        state.restore_moments(found.state, run.student, run.optimizer, found.progress["adam_step"])
        run.step, run.adam_step = found.progress["step"], found.progress["adam_step"]
        run.skipped = found.progress.get("skipped", 0)  # unknown to runs of before there were any
        run.statistics = state.statistics_of(found.progress)
        if here.scaler.is_enabled() and found.progress.get("scaler"):
            here.scaler.load_state_dict(found.progress["scaler"])
    size = sum(tensor.nbytes for _, tensor in state.tensors(run.student, run.teacher, run.optimizer))
    by_main(here, lambda: state.has_room_to_begin(recipe.run, size))
    resume.is_ours(attempt, here)
    by_main(here, lambda: _write_facts(run))
    kind = "resume" if found.folder else "start"
    hosts = sorted({*here.collect(here.host)})
    facts = {
        "attempt": attempt.number, "processes": here.ranks, "hosts": hosts, "device": here.device_name,
        "network": run.start.network, "image_px": run.start.image_px,
    }  # fmt: skip
    versions = {"fer_scale": __version__, "torch": torch.__version__, "timm": timm.__version__}
    run.journal.event(kind, step=run.step, **facts, versions=versions, changes=changes)
    run.bad = len(run.table.bad)
    if here.is_main:
        name_bad(run, run.table.bad)


def _write_facts(run: Run) -> None:
    finish.describe(run.start, run.table, run.recipe, run.here.ranks)
    finish.write_facts(run.table, run.recipe)
    if run.step < run.recipe.supervised.steps + run.recipe.semi.steps:
        finish.withdraw(run.recipe)
    run.journal.rewind(run.step)


def optimizer(student: nn.Module, recipe: Finetune, begun: Start) -> AdamW:
    """Adam of stage 2 or 3, with no memory yet."""
    plan = recipe.supervised
    decay = plan.layer_decay if begun.layers else 1.0
    groups = optim.parameter_groups(student, plan.weight_decay, layer_decay=decay, layers=begun.layers)
    return AdamW(groups, lr=plan.lr, betas=plan.betas, fused=True)


def go_on(recipe: Finetune, changes: list[str], made_for: dict[str, str], here: Processes) -> Found:
    """What the run goes on from, on all processes, once it is clear that this is what was asked for."""
    found = resume.find(recipe.run.out, here, [0])
    if found.folder:
        by_main(here, lambda: state.same_run(recipe, found.progress, made_for, changes))
    if here.is_main:
        resume.set_aside(found, log.Journal(recipe.run.out))
    return found


def name_bad(run: Run, bad: Sequence[str]) -> None:
    """Say which faces could not be read and were replaced, on the process that met them."""
    for line in bad:
        log.say(f"unreadable, left out or replaced: {line}")
        run.journal.event("unreadable", step=run.step, sample=line)
