"""The fine-tuning run: read `stage` first, it is the loop.

Stage 2 trains a student on the labeled faces and keeps its average, the teacher. Stage 3 starts student and teacher
from that average; the teacher labels weak views of unlabeled faces, the student learns strong ones. The teacher is what
is published. Started again with the same run.out, a run goes on.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_scale import config, disk, ending, log, resume, saves
from fer_scale.ending import LEAVE, SAVE, SAVE_FOR_GOOD, Preempted
from fer_scale.finetune import begin, ema, finish, processes, state, steps, table
from fer_scale.finetune.again import Again, Room, TooLarge, halve
from fer_scale.finetune.begin import Meter, Run, TrainingError
from fer_scale.finetune.pseudo_labels import tally, told
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.steps import Input
from fer_scale.loader import Batch
from fer_scale.peers import by_main

_LEVELS = (SAVE, SAVE_FOR_GOOD, LEAVE)


def finetune(recipe_file: Path, overrides: list[str], changes: list[str] | None = None) -> dict[str, Any]:
    """Run or go on with a recipe; what came of it. `changes` may alter a run that goes on."""
    changes = changes or []
    recipe = config.load(Finetune, recipe_file, [*overrides, *changes])
    here = processes.join(recipe.run.precision)
    done: dict[str, Any] = {"run": str(recipe.run.out), "main": here.is_main}
    attempt = begin.claim(recipe, changes, here)
    try:
        with ending.recorded(attempt, here.rank, attempt.folder / f"rank-{here.rank}.log"), disk.in_words(here.name):
            run = begin.set_up(recipe, changes, here, attempt)
            _train(run)
            resume.is_ours(attempt, here)
            by_main(here, lambda: finish.publishable(run.start, run.teacher, run.table, recipe, here))
    except Preempted as stopped:
        if here.is_main:
            log.say(f"stopped at step {stopped.step} ({stopped.reason}); {stopped.way_on} goes on from there")
        return done | {"outcome": "preempted", "step": stopped.step, "reason": stopped.reason}
    return done | {"outcome": "done", "step": run.step, "model": str(recipe.run.out / "model")}


def _train(run: Run) -> None:
    with run.stop, log.bar("fine-tuning", "steps", done=run.step, shown=run.here.is_main) as tick:
        for semi in (False, True):
            while again := stage(run, semi, tick):
                if isinstance(again, TooLarge):
                    halve(run, str(again))


def stage(run: Run, semi: bool, tick: log.Ticker) -> Again | None:
    """The loop, for stage 2 (`semi` False) or stage 3: read, step, average, look around, save where it is time.

    Why the step at hand has to be done again, or None where the stage is done.
    """
    recipe, here = run.recipe, run.here
    plan = recipe.semi if semi else recipe.supervised
    first = recipe.supervised.steps if semi else 0
    stop = first + plan.steps
    last = min(stop, recipe.run.stop_after_steps or stop)
    if semi and plan.steps and run.step == first:
        _start_again(run)
    reach = {"first": run.step - first, "stop": max(run.step, last) - first}
    labeled = table.labeled_steps(run.table, recipe, here, semi=semi, **reach)
    unlabeled = table.unlabeled_steps(run.table, recipe, here, **reach) if semi and plan.steps else None
    for parts in labeled:
        more = next(unlabeled) if unlabeled else None
        lr = steps.lr_at(recipe, run.step)
        before = _Before(run)
        sums, room = _gradients(run, parts, more)
        try:
            stopping, norm = _update(run, lr, sums, room, parts + (more or []))
        except Again as again:
            before.put_back(run)
            return again
        if math.isfinite(norm):
            decay = ema.decay_at(run.step, plan.ema_decay)  # stage 3 keeps the long memory
            ema.update(run.teacher, run.student, decay)
            run.adam_step += 1
        run.step += 1
        if skipped := run.skips.seen(norm, sums.loss, run.step, here, _samples(run, parts, more)):
            before.put_back(run)
            _report_skipped(run, skipped, plan.lr, semi)
        run.meter.steps += 1
        tick(run.step, recipe.supervised.steps + recipe.semi.steps)
        if run.step % recipe.run.log_every_steps == 0 or run.step == last:
            _log(run, sums, lr, norm, more)
        _measure(run)
        every = recipe.run.checkpoint_every_steps
        run.due |= bool(every and run.step % every == 0)
        if stopping or run.step == last or (run.due and not run.skips.in_a_row):
            _save(run)
        if stopping:
            run.journal.event("stop", step=run.step, reason=run.stop.reason)
            raise run.stop.preempted(run.step, stopping)
    if last < stop and run.step >= last:
        raise Preempted(f"run.stop_after_steps = {last}", run.step, again=False)
    return None


class _Before:
    """What a forward pass changes beside the gradients: a step that is skipped leaves it as it was."""

    def __init__(self, run: Run):
        self.statistics = run.statistics
        self.buffers = [buffer.clone() for buffer in run.student.buffers()]  # of batch norm; a ViT has none

    def put_back(self, run: Run) -> None:
        run.statistics = self.statistics
        for buffer, value in zip(run.student.buffers(), self.buffers, strict=True):
            buffer.copy_(value)


def _samples(run: Run, labeled: list[Batch], unlabeled: list[Batch] | None) -> Iterator[str]:
    """How messages name the faces of this process's share of a step."""
    for pool, batches in ((run.table.labeled, labeled), (run.table.unlabeled, unlabeled or ())):
        for batch in batches:
            assert pool is not None
            yield from (pool.where(number) for number in batch.ids.tolist())


def _report_skipped(run: Run, facts: dict[str, Any], lr: float, semi: bool) -> None:
    run.skipped += 1
    if run.here.is_main:
        run.skips.say(facts)
    run.journal.event("skipped", **facts)
    run.skips.refuse_more(run.step, lr, "semi.lr" if semi else "supervised.lr", "supervised.clip_norm")


def _start_again(run: Run) -> None:
    """Stage 3's student and teacher both start from stage 2's average or last weights, and Adam from nothing."""
    to, whence = (run.student, run.teacher) if run.recipe.semi.start == "average" else (run.teacher, run.student)
    to.load_state_dict(whence.state_dict())
    run.optimizer, run.adam_step = begin.optimizer(run.student, run.recipe, run.start), 0


def _gradients(run: Run, labeled: list[Batch], unlabeled: list[Batch] | None) -> tuple[steps.Sums, Room]:
    """This process's gradients of a step and what it found, worth nothing where memory was too short for it.

    In the middle of stage 3's steps processes meet: one that is short of memory comes all the same.
    """
    room, labels, recipe, here = Room(), run.table.labels, run.recipe, run.here
    run.student.train()
    run.optimizer.zero_grad()
    as_input = Input(run.start.image_px, run.start.mean, run.start.std)
    pseudo, none = None, torch.zeros(1, dtype=torch.float64, device=here.device)
    if unlabeled is not None:
        answers_BK = torch.full((sum(len(part.keys) for part in unlabeled), len(labels.prior)), 1.0, device=here.device)
        with room:
            answers_BK = steps.answers(run.teacher, unlabeled, as_input, here, recipe)
        pseudo = steps.guess(answers_BK, labels.prior, here, recipe, run.statistics)
        run.statistics = pseudo.statistics
    sums = steps.Sums(none, none, None)
    if not room.short:
        with room:
            loss, apart = steps.supervised(run.student, labeled, labels, as_input, here, recipe, run.step)
            if unlabeled is not None and pseudo is not None:
                loss = loss + steps.unsupervised(run.student, unlabeled, pseudo, as_input, here, recipe)
            sums = steps.Sums(loss, apart, steps.Guesses.of(pseudo) if pseudo is not None else None)
    return sums, room


def _update(run: Run, lr: float, sums: steps.Sums, room: Room, faces: list[Batch]) -> tuple[int, float]:
    """One step of Adam with the gradients of all processes; what StopSignal.asked says of all, and the norm.

    Where one of its numbers is not finite, nothing moves, and the norm is not finite. What was asked, how many faces
    could not be read, and whether a process was short of memory, travels with the gradients: processes meet once a
    step. Raises Again where the step has to be done again.
    """
    here, bad = run.here, [line for batch in faces for line in batch.bad]
    asked = run.stop.asked()
    unsound = here.scaler.is_enabled() and not math.isfinite(sums.loss.item())
    mine = [*(float(asked == level) for level in _LEVELS), float(len(bad)), float(bool(room.short)), float(unsound)]
    told = steps.sum_gradients(run.student, here, torch.tensor(mine, device=here.device)).tolist()
    *asking, replaced, lacking, infinite = told
    agreed = max((level for level, count in zip(_LEVELS, asking, strict=True) if count), default=0)
    if agreed == LEAVE:
        raise run.stop.attempt.superseded()
    if lacking:
        raise TooLarge(room.short)
    norm = _norm(run, sound=not infinite)
    begin.name_bad(run, bad)
    run.bad += int(replaced)
    seen = _faces_until(run.recipe, run.step + 1)
    if run.bad > max(10, run.recipe.data.max_bad * seen):
        raise TrainingError(
            f"step {run.step}: {run.bad} faces could not be read, more than data.max_bad allows; run `fer-scale verify`"
        )
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    if math.isfinite(norm):
        run.optimizer.step()
    return agreed, norm


def _norm(run: Run, *, sound: bool) -> float:
    """The norm of the gradients, which are clipped to; not finite where one of the step's numbers is not.

    Raises Again where only fp16's scale of the loss was too much for its range; it is halved then. `sound`: all losses
    are finite.
    """
    scaler, before = run.here.scaler, run.here.scaler.get_scale()
    scaler.unscale_(run.optimizer)
    trained = [p for p in run.student.parameters() if p.requires_grad]
    most = run.recipe.supervised.clip_norm or math.inf
    norm = float(nn.utils.clip_grad_norm_(trained, most))
    if not run.statistics.are_finite:  # a teacher that answers no numbers need not show in the gradient
        norm, sound = math.nan, False
    scaler.update()
    if sound and 1 < before and scaler.get_scale() < before:
        run.journal.event("overflow", step=run.step + 1, scale=scaler.get_scale())
        raise Again
    return norm


def _faces_until(recipe: Finetune, step: int) -> int:
    """How many faces, labeled and unlabeled, so many steps read."""
    semi = max(0, step - recipe.supervised.steps)
    return (step - semi) * recipe.supervised.batch + semi * recipe.semi.batch * (1 + recipe.semi.unlabeled_ratio)


def _save(run: Run) -> None:
    """Save the run as it is now; all processes wait for it, and raise what it fails of."""
    rec = run.recipe.run
    here = run.here
    progress = state.facts(run.recipe, run.step, run.adam_step, run.skipped, run.statistics, here.scaler, run.made_for)
    whole = state.tensors(run.student, run.teacher, run.optimizer)
    took = by_main(run.here, lambda: state.save(rec, run.stop.attempt, run.here.name, whole, progress))
    run.due = False
    run.journal.event("checkpoint", step=run.step, **took)
    if run.here.is_main:
        saves.say_if_slow(took["seconds"], rec.grace_s)


def _log(run: Run, sums: steps.Sums, lr: float, norm: float, guessed: list[Batch] | None) -> None:
    """A line of metrics.jsonl and of the console about the step just done, over all processes.

    `guessed` are stage 3's unlabeled faces. Where the set knows their expressions, the line says how many pseudo-labels
    are right; nothing else reads them.
    """
    recipe, meter = run.recipe, run.meter
    run.meter = Meter()
    semi, names = sums.guesses is not None, run.table.names
    values: list[Tensor] = [sums.loss, sums.apart]
    if sums.guesses is not None and guessed is not None:
        hidden_B = torch.from_numpy(table.hidden_classes(run.table, guessed)).to(run.here.device)
        values.append(tally(sums.guesses.best_B, sums.guesses.weights_B, hidden_B, len(names)).flatten())
    summed = run.here.total(torch.cat(values))
    loss, apart = summed[:2].tolist()
    batch = recipe.semi.batch if semi else recipe.supervised.batch
    unlabeled = batch * recipe.semi.unlabeled_ratio if semi else 0
    speed = meter.steps * (batch + unlabeled) / (time.monotonic() - meter.began)
    row: dict[str, Any] = {"step": run.step, "stage": 3 if semi else 2, "loss": _finite(loss), "lr": lr}
    row |= {"images_per_s": round(speed, 1), "grad_norm": _finite(norm), "one_minus_iou": apart / batch}
    row |= {"skipped_steps": run.skipped, "unreadable": run.bad}
    if semi:
        row |= told(summed[2:].view(4, -1), names)
    run.journal.metrics(**row)
    if run.here.is_main:
        total = recipe.supervised.steps + recipe.semi.steps
        left = log.duration((_faces_until(recipe, total) - _faces_until(recipe, run.step)) / speed)
        more = "".join(f"  {what} {row[what]:.0%}" for what in ("kept", "precision") if row.get(what) is not None)
        log.say(
            f"step {run.step:>{len(str(total))}}/{total}  stage {row['stage']}  loss {loss:.4f}  lr {lr:.2e}  "
            f"1-IoU {apart / batch:.3f}{more}  {speed:,.0f} images/s  {left} left"
            + (f"  {run.skipped} skipped" if run.skipped else "")
        )


def _measure(run: Run) -> None:
    """Where it is time, a line of metrics.jsonl about the teacher on the list `valid`, by the main process.

    Nothing reads it, and the run goes on as if it had not been measured.
    """
    began = time.monotonic()
    if run.validation is not None and run.step % run.recipe.run.evaluate_every_steps == 0:
        by_main(run.here, lambda: _measured(run))
        run.meter.began += time.monotonic() - began  # images/s are those of training


def _measured(run: Run) -> None:
    assert run.validation is not None
    if found := run.validation.figures(run.teacher, run.here.device, run.stop.asked):
        run.journal.metrics(step=run.step, stage=3 if run.step > run.recipe.supervised.steps else 2, **found)
        log.say(f"step {run.step}  on valid: accuracy {found['valid_accuracy']:.1%}, uar {found['valid_uar']:.1%}")


def _finite(value: float) -> float | None:
    """A number for JSON, which knows no other."""
    return value if math.isfinite(value) else None
