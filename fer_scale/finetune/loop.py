"""The fine-tuning run: read `_stage` first, it is the loop. The only file that imports accelerate.

Stage 2 trains a student on the labeled faces and keeps its average, the teacher. Stage 3 starts student and teacher
from that average; the teacher labels weak views of unlabeled faces, the student learns strong ones. The teacher is what
is published. Started again with the same run.out, a run goes on.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import AdamW

from fer_scale import checkpoint, config, ending, log, optim
from fer_scale.ending import LEAVE, Attempt, Preempted, StopSignal
from fer_scale.finetune import ema, finish, split, state, steps, table, targets
from fer_scale.finetune.pseudo_labels import Statistics
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.start import Start, cuts_matter, start
from fer_scale.finetune.steps import Input, Processes
from fer_scale.finetune.table import Table
from fer_scale.loader import Batch
from shards.errors import UserError
from shards.remote import open_set


class TrainingError(UserError):
    """A run that cannot go on."""


def finetune(recipe_file: Path, overrides: list[str], changes: list[str] | None = None) -> dict[str, Any]:
    """Run or go on with a recipe; what came of it. `changes` may alter a run that goes on."""
    recipe = config.load(Finetune, recipe_file, [*overrides, *(changes or [])])
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.run.precision == "bf16" else "no", cpu=not torch.cuda.is_available()
    )
    here = Processes(
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device,
        accelerator.autocast,
        lambda tensor: accelerator.reduce(tensor, "sum"),
    )
    done: dict[str, Any] = {"run": str(recipe.run.out), "main": here.rank == 0}
    claimed = [ending.claim(recipe.run.out) if here.rank == 0 else None]
    [attempt] = broadcast_object_list(claimed)
    try:
        with ending.recorded(attempt, here.rank):
            run = _set_up(recipe, changes or [], here, attempt)
            _train(run)
            if here.rank == 0:
                finish.publishable(run.start, run.teacher, run.table, recipe, here)
            accelerator.wait_for_everyone()
    except Preempted as stopped:
        if here.rank == 0:
            log.say(f"stopped at step {stopped.step} ({stopped.reason}); the same command goes on from there")
        return done | {"outcome": "preempted", "step": stopped.step, "reason": stopped.reason}
    return done | {"outcome": "done", "step": run.step, "model": str(recipe.run.out / "model")}


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
    step: int = 0  # optimizer steps done, over both stages
    adam_step: int = 0  # of them, in this stage
    bad: int = 0  # faces that could not be read and were replaced, over all processes
    meter: "Meter" = field(default_factory=lambda: Meter())


def _set_up(recipe: Finetune, changes: list[str], here: Processes, attempt: Attempt) -> Run:
    """Everything that the loop works with, as new or as the newest checkpoint left it."""
    shard_set = open_set(recipe.data.shards, recipe.data.cache_dir, recipe.data.cache_gb)
    drawn = split.read(recipe.data.split, shard_set)
    names = targets.label_names(drawn.facts["class_counts"]["labeled"])
    begun = start(recipe.model, len(names), recipe.run.seed)
    _refuse_cuts(begun, recipe, here)
    laid = table.lay(recipe, shard_set, drawn, names, begun.image_px, here)
    student = begun.model.to(here.device)
    run = Run(
        recipe,
        here,
        begun,
        laid,
        student,
        ema.teacher_of(student),
        _optimizer(student, recipe, begun),
        log.Journal(recipe.run.out if here.rank == 0 else None),
        StopSignal(attempt, max_hours=recipe.run.max_hours, rank=here.rank),
        {"shard set": shard_set.fingerprint, "split": drawn.sha256, "start": begun.base_model or "none"},
        Statistics.fresh(len(laid.names)),
    )
    _go_on(run, changes)
    return run


def _refuse_cuts(begun: Start, recipe: Finetune, here: Processes) -> None:
    """Batch norm computes other things when a batch is cut, so with it the batch must stay whole."""
    largest = max(recipe.supervised.batch, recipe.semi.batch * recipe.semi.unlabeled_ratio if recipe.semi.steps else 0)
    if cuts_matter(begun.model) and (here.ranks > 1 or recipe.batch.micro < largest):
        raise TrainingError(
            f"{begun.architecture} has batch norm, which sees how a batch is cut: use one process and "
            f"batch.micro={largest}, or an architecture without it"
        )


def _go_on(run: Run, changes: list[str]) -> None:
    """Bring the run to where its newest checkpoint is, if it has one, and write down how it starts."""
    found, passed = checkpoint.newest(run.recipe.run.out, verify=True)
    if found:
        saved, progress = checkpoint.read(found)
        state.same_run(run.recipe, progress, run.made_for, changes)
        state.restore(saved, run.student, run.teacher)
        state.restore_moments(saved, run.student, run.optimizer, progress["adam_step"])
        run.step, run.adam_step = progress["step"], progress["adam_step"]
        run.statistics = state.statistics_of(progress)
    if run.here.rank == 0:
        finish.describe(run.start, run.table, run.recipe, run.here.ranks)
        for folder, why in passed:
            log.say(f"damaged{', set aside' * bool(found)}: {why}")
            if found:
                checkpoint.set_aside(folder)
        if found:
            log.say(f"goes on from {found}")
        finish.write_facts(run.table, run.recipe)
        if run.step < run.recipe.supervised.steps + run.recipe.semi.steps:
            finish.withdraw(run.recipe)
        run.journal.rewind(run.step)
    kind, attempt = "resume" if found else "start", run.stop.attempt.number
    run.journal.event(kind, step=run.step, attempt=attempt, processes=run.here.ranks, changes=changes)
    run.bad = len(run.table.bad)
    if run.here.rank == 0:
        _name(run, run.table.bad)


def _train(run: Run) -> None:
    with run.stop, log.bar("fine-tuning", "steps", done=run.step, shown=run.here.rank == 0) as tick:
        for semi in (False, True):
            _stage(run, semi, tick)


def _stage(run: Run, semi: bool, tick: log.Ticker) -> None:
    """The loop, for stage 2 (`semi` False) or stage 3: read, step, average, look around, save where it is time."""
    recipe, here = run.recipe, run.here
    plan = recipe.semi if semi else recipe.supervised
    first = recipe.supervised.steps if semi else 0
    stop = first + plan.steps
    last = min(stop, recipe.run.stop_after_steps or stop)
    if semi and run.step == first:
        _start_from_average(run)
    reach = {"first": run.step - first, "stop": max(run.step, last) - first}
    labeled = table.labeled_steps(run.table, recipe, here, semi=semi, **reach)
    unlabeled = table.unlabeled_steps(run.table, recipe, here, **reach) if semi and plan.steps else None
    for parts in labeled:
        more = next(unlabeled) if unlabeled else None
        lr = optim.lr_at(run.step - first, peak=plan.lr, warmup_steps=plan.warmup_steps, steps=plan.steps)
        sums = _gradients(run, parts, more)
        stopping, norm = _update(run, lr, [line for batch in [*parts, *(more or ())] for line in batch.bad])
        ema.update(run.teacher, run.student, ema.decay_at(run.step, plan.ema_decay))  # stage 3 keeps the long memory
        run.step += 1
        run.adam_step += 1
        run.meter.steps += 1
        tick(run.step, recipe.supervised.steps + recipe.semi.steps)
        if run.step % recipe.run.log_every_steps == 0 or run.step == last:
            _log(run, semi, sums, lr, norm)
        every = recipe.run.checkpoint_every_steps
        if stopping or run.step == last or (every and run.step % every == 0):
            _save(run)
        if stopping:
            raise run.stop.preempted(run.step)
    if last < stop and run.step >= last:
        raise Preempted(f"run.stop_after_steps = {last}", run.step, again=False)


def _start_from_average(run: Run) -> None:
    """Stage 3's student and teacher both start from stage 2's average, and Adam from nothing."""
    run.student.load_state_dict(run.teacher.state_dict())
    run.optimizer, run.adam_step = _optimizer(run.student, run.recipe, run.start), 0


def _optimizer(student: nn.Module, recipe: Finetune, begun: Start) -> AdamW:
    plan = recipe.supervised
    decay = plan.layer_decay if begun.layers else 1.0
    groups = optim.parameter_groups(student, plan.weight_decay, layer_decay=decay, layers=begun.layers)
    return AdamW(groups, lr=plan.lr, betas=plan.betas, fused=True)


def _gradients(run: Run, labeled: list[Batch], unlabeled: list[Batch] | None) -> steps.Sums:
    """This process's gradients of a step, and what it found."""
    run.student.train()
    run.optimizer.zero_grad()
    as_input = Input(run.start.image_px, run.start.mean, run.start.std)
    loss, apart = steps.supervised(run.student, labeled, run.table.labels, as_input, run.here, run.recipe, run.step)
    kept, predicted = torch.zeros_like(loss), loss.new_zeros(len(run.table.names))
    if unlabeled is not None:
        more, kept, predicted, run.statistics = steps.unsupervised(
            run.student, run.teacher, unlabeled, run.table.labels.prior, as_input, run.here, run.recipe, run.statistics
        )
        loss = loss + more
    return steps.Sums(loss, apart, kept, predicted)


def _update(run: Run, lr: float, bad: list[str]) -> tuple[bool, float]:
    """One step of Adam with the gradients of all processes; whether one of them was asked to stop, and the norm.

    That, and how many faces could not be read, travels with the gradients: processes meet once a step.
    """
    _name(run, bad)
    asked = run.stop.asked()
    mine = torch.tensor([float(asked > 0), float(asked == LEAVE), float(len(bad))], device=run.here.device)
    stops, leave, replaced = steps.sum_gradients(run.student, run.here, mine).tolist()
    if leave:
        raise run.stop.attempt.superseded()
    run.bad += int(replaced)
    trained = [p for p in run.student.parameters() if p.requires_grad]
    most = run.recipe.supervised.clip_norm or math.inf
    norm = float(nn.utils.clip_grad_norm_(trained, most))
    if not math.isfinite(norm):
        raise TrainingError(f"step {run.step}: the gradient is not finite; lower the learning rate (now {lr:.2g})")
    seen = _faces_until(run.recipe, run.step + 1)
    if run.bad > max(10, run.recipe.data.max_bad * seen):
        raise TrainingError(
            f"step {run.step}: {run.bad} faces could not be read, more than data.max_bad allows; run `fer-scale verify`"
        )
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    run.optimizer.step()
    return stops > 0, norm


def _faces_until(recipe: Finetune, step: int) -> int:
    """How many faces, labeled and unlabeled, so many steps read."""
    semi = max(0, step - recipe.supervised.steps)
    return (step - semi) * recipe.supervised.batch + semi * recipe.semi.batch * (1 + recipe.semi.unlabeled_ratio)


def _name(run: Run, bad: list[str] | tuple[str, ...]) -> None:
    """Say which faces could not be read and were replaced, on the process that met them."""
    for line in bad:
        log.say(f"unreadable, replaced: {line}")
        run.journal.event("unreadable", step=run.step, sample=line)


def _save(run: Run) -> None:
    if run.here.rank == 0:
        progress = state.facts(run.recipe, run.step, run.adam_step, run.statistics, run.made_for)
        state.save(run.recipe.run.out, run.student, run.teacher, run.optimizer, progress)
        run.journal.event("checkpoint", step=run.step)


class Meter:
    """Steps and seconds since the last line of metrics."""

    def __init__(self) -> None:
        self.steps, self.began = 0, time.monotonic()


def _log(run: Run, semi: bool, sums: steps.Sums, lr: float, norm: float) -> None:
    """A line of metrics.jsonl and of the console about the step just done, over all processes."""
    recipe, meter = run.recipe, run.meter
    run.meter = Meter()
    values: list[Tensor] = [sums.loss, sums.apart, sums.kept, sums.predicted]
    loss, apart, kept, *predicted = run.here.total(torch.cat(values)).tolist()
    batch = recipe.semi.batch if semi else recipe.supervised.batch
    unlabeled = batch * recipe.semi.unlabeled_ratio if semi else 0
    speed = meter.steps * (batch + unlabeled) / (time.monotonic() - meter.began)
    row = {"step": run.step, "stage": 3 if semi else 2, "loss": loss, "lr": lr, "images_per_s": round(speed, 1)}
    row |= {"grad_norm": norm, "one_minus_iou": apart / batch, "unreadable": run.bad}
    if semi:
        row["kept"] = kept / unlabeled
        row["predicted"] = dict(zip(run.table.names, map(int, predicted), strict=True))
    run.journal.metrics(**row)
    if run.here.rank == 0:
        total = recipe.supervised.steps + recipe.semi.steps
        left = log.duration((total - run.step) * (batch + unlabeled) / speed)
        more = f"  kept {row['kept']:.0%}" if semi else ""
        log.say(
            f"step {run.step:>{len(str(total))}}/{total}  stage {row['stage']}  loss {loss:.4f}  lr {lr:.2e}  "
            f"1-IoU {row['one_minus_iou']:.3f}{more}  {speed:,.0f} images/s  {left} left"
        )
