"""The pre-training run: read `_train` first, it is the loop; `pretrain` sets the table for it.

All ranks run this file. They decide alike because what they decide by is the same everywhere: the recipe, the step, and
what `World.agree` says.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_scale import __version__, config, ending, images, loader, log, plots, saves
from fer_scale.ending import LEAVE, Preempted, StopSignal
from fer_scale.loader import Batch, Faces
from fer_scale.optim import lr_at
from fer_scale.peers import by_main, same_everywhere
from fer_scale.pretrain import begin, failures, health, pictures, publishing, recipe, setup, start
from fer_scale.pretrain.begin import Begun
from fer_scale.pretrain.engine import Engine, load_weights, versions
from fer_scale.pretrain.meter import Meter, on_a_gpu
from fer_scale.pretrain.publishing import Publisher
from fer_scale.pretrain.recipe import Plan, Pretrain
from fer_scale.pretrain.saving import Saved, Saver
from fer_scale.pretrain.stragglers import Slow, Stragglers
from fer_scale.pretrain.trace import traced
from fer_scale.pretrain.watchdog import Watchdog
from fer_scale.pretrain.world import World
from fer_scale.resume import is_ours
from fer_scale.skips import Skips
from shards.errors import ShardError
from shards.mix import Mix
from shards.order import Order

_FACES = 8  # of a picture


def pretrain(recipe_file: Path, overrides: list[str], changes: list[str]) -> None:
    """Run or go on with a recipe. `changes` may alter a run that goes on."""
    wanted, us = begin.meet(recipe_file, [*overrides, *changes])
    us.limit_waiting(wanted.run.waiting_s)
    begun = begin.begin(wanted, changes, us)
    with Publisher(wanted, begun.attempt, is_main=us.is_main) as publisher:
        for_good = _run(wanted, changes, us, begun, publisher)
        us.leave()
        if for_good:
            publisher.finish()


def _run(wanted: Pretrain, changes: list[str], us: World, begun: Begun, publisher: Publisher) -> bool:
    """Whether it ended for good: not where it is to be started again by itself."""
    try:
        watchdog = Watchdog(wanted.run.hang_limits, us, begun)
        with ending.recorded(begun.attempt, us.rank, begun.log), failures.in_words(wanted, us), watchdog:
            run = _set_up(wanted, changes, us, begun, watchdog, publisher)
            with run.stop, run.saver, log.bar("pre-training", "steps", done=run.step, shown=us.is_main) as tick:
                _train(run, tick)
    except Preempted as stopped:
        if us.is_main:
            log.say(f"stopped at step {stopped.step} ({stopped.reason}); {stopped.way_on} goes on from there")
        return not stopped.again
    if us.is_main and not wanted.publish.to:
        log.say(f"done; next: fer-scale publish {wanted.run.out} TO --licence LICENCE")
    return True


def _set_up(
    wanted: Pretrain, changes: list[str], us: World, begun: Begun, watchdog: Watchdog, publisher: Publisher
) -> "Run":
    """Everything that the loop works with, as new or as the newest checkpoint left it."""
    same_everywhere(us, **begin.code_and_recipe(wanted))
    by_main(us, lambda: publishing.refuse(wanted))
    sets = setup.opened(wanted.data)
    faces, order, fell_out = setup.table(wanted, sets)
    plan = recipe.plan(wanted, us.ranks, order)
    model = setup.build(wanted)
    if us.is_main:
        setup.describe(wanted, plan, order, sets, fell_out, sum(p.numel() for p in model.parameters()))
    prints = faces.prints()
    is_ours(begun.attempt, us)
    with watchdog.phase("load"):
        by_main(us, lambda: begin.bring(wanted, changes, prints, begun.attempt))
        found = begin.go_on(wanted, changes, prints, us, begun.writers)
    progress = found.progress
    if found.folder:
        load_weights(model, found.state)
    elif wanted.model.start_from:
        progress["start"] = start.begin(model, wanted.model, us)
    same_everywhere(us, **{"data.shards": prints, "step": progress["step"], "steps": plan.steps})
    engine = Engine(model, wanted, plan, us)
    if found.folder:
        engine.restore(found.state, progress["adam_step"])
    saver = Saver(engine, us, wanted.run, begun, publisher)
    saver.has_room()
    watchdog.saver = saver

    is_ours(begun.attempt, us)
    boards: dict[str, Any] = {"tensorboard": wanted.run.tensorboard, "wandb": wanted.run.wandb}
    journal = log.Journal(wanted.run.out if us.is_main else None, **boards)
    if us.is_main:
        setup.write_facts(wanted, plan, sets, fell_out)
        journal.rewind(progress["step"])
    kind = "resume" if found.folder else "start"
    facts = begin.describe(begun, us, stage=engine.stage) if us.is_main else {}
    journal.event(kind, step=progress["step"], **facts, changes=changes)
    stop = StopSignal(begun.attempt, max_hours=wanted.run.max_hours, rank=us.rank)
    skips = Skips(wanted.run.max_skipped, begun.attempt.folder)
    step, weights = progress["step"], progress.get("start")
    slow = Stragglers(us, engine.spent, engine.stage)
    publisher.recall()
    if found.folder:
        publisher.saved(step)  # by a start that did not come to publish it
    return Run(
        wanted, plan, us, engine, faces, order, journal, prints, stop, skips, saver, publisher, watchdog, slow, weights,
        step=step, before=progress.get("images", 0),
    )  # fmt: skip


@dataclass
class Run:
    """What the loop works with, and the few things that change while it runs."""

    recipe: Pretrain
    plan: Plan
    us: World
    engine: Engine
    faces: Faces
    order: Order | Mix
    journal: log.Journal
    prints: list[str]
    stop: StopSignal
    skips: Skips
    saver: Saver
    publisher: Publisher
    watchdog: Watchdog
    stragglers: Stragglers
    start: dict[str, Any] | None  # which weights it began with; see start.py
    step: int
    before: int  # images, read by the starts that this one goes on from
    read: int = 0  # images, since the start of this process
    bad: int = 0  # of these, the unreadable ones, over all ranks
    saved: int = -1  # step of the newest checkpoint that this process has begun
    due: bool = False  # a checkpoint that waits for a step that is not skipped
    meter: Meter = field(default_factory=Meter)


def _train(run: Run, tick: log.Ticker) -> None:
    """The loop: read, step, look around, and save where it is time."""
    rec, plan, us = run.recipe, run.plan, run.us
    last = min(plan.steps, rec.run.stop_after_steps or plan.steps)
    steps = loader.batches(
        run.faces, run.order, start_step=run.step, stop_step=last, rank=us.rank, ranks=us.ranks,
        accumulation=plan.accumulation, workers=rec.data.workers, device=us.device,
        copying=partial(run.engine.spent.waiting, "copy"),
    )  # fmt: skip
    if rec.run.profile_steps and us.is_main:
        steps = traced(steps, rec.run.profile_steps, rec.run.out / "trace.json.gz")
    while run.step < last:
        run.watchdog.beat(run.step)
        began = time.monotonic()
        batches = next(steps)
        waited = time.monotonic() - began
        lr = lr_at(run.step, peak=plan.lr, warmup_steps=plan.warmup_steps, steps=plan.steps)
        logged = (run.step + 1) % rec.run.log_every_steps == 0 or run.step + 1 == last
        with health.seen(run.engine, us, logged) as seen:
            stepped = run.engine.step(_views(run, batches), lr)
        took = time.monotonic() - began
        run.step += 1
        run.meter.add(stepped, rec.batch.size, waited, took)

        bad = [line for batch in batches for line in batch.bad]
        stopping, any_bad, writing = us.agree(run.stop.asked(), len(bad), run.saver.writing)
        if stopping == LEAVE:
            raise run.stop.attempt.superseded()
        if any_bad:
            _report_bad(run, bad)
        samples = (run.faces.where(number) for batch in batches for number in batch.ids.tolist())
        if skipped := run.skips.seen(stepped.grad_norm, stepped.loss, run.step, us, samples):
            _report_skipped(run, skipped)
        for slow, host in run.stragglers.after(waited, took):
            _report_slow(run, slow, host)
        run.read += rec.batch.size
        tick(run.step, last)
        if logged:
            _log(run, lr, seen)
        run.publisher.look()
        if run.saver.under_way and not writing:
            with run.watchdog.phase("save"):
                _saved(run, run.saver.settle())
        # Steps may be skipped because a weight was hit in memory: such a state is not to be what the run goes on from.
        run.due |= run.step % rec.run.checkpoint_every_steps == 0
        if stopping or run.step == last or (run.due and not run.skips.in_a_row):
            with run.watchdog.phase("save"):
                _save(run, wait=bool(stopping) or run.step == last or not rec.run.checkpoint_async)
        if run.saved == run.step and not stopping:
            with run.watchdog.phase("probe"):
                _picture(run, batches[0])
        if stopping:
            run.journal.event("stop", step=run.step, reason=run.stop.reason)
            raise run.stop.preempted(run.step, stopping)
    if run.saved != run.step and us.is_main:
        log.say(f"nothing to do: step {run.step} of {plan.steps} is reached")
    if last < plan.steps:
        raise Preempted(f"run.stop_after_steps = {last}", run.step, again=False)


def _views(run: Run, batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """The (normalised images, keys) of each micro-batch, made on the device."""
    model, device = run.recipe.model, run.us.device
    for batch in batches:
        view = images.training_view(batch.pixels, batch.sizes, batch.keys, model.image_px, run.recipe.augment)
        keys = torch.from_numpy(batch.keys.view("int64")).to(device)
        yield images.normalise(view, model.mean, model.std), keys


def _log(run: Run, lr: float, seen: dict[str, Any]) -> None:
    meter, plan = run.meter, run.plan
    assert meter.loss is not None
    loss = run.us.sum(meter.loss)[0] / meter.images
    run.meter = Meter()
    if not run.us.is_main:
        return
    speed, wait = meter.images / meter.seconds, meter.waited / meter.seconds
    skipped = run.step - run.engine.adam_step
    row = {"step": run.step, "loss": loss if math.isfinite(loss) else None, "lr": lr} | meter.row() | seen
    row |= {"skipped_steps": skipped, "unreadable": run.bad} | on_a_gpu(run.recipe, run.us, speed)
    run.journal.metrics(**row)
    left = log.duration((plan.steps - run.step) * meter.seconds / meter.steps)
    log.say(
        f"step {run.step:>{len(str(plan.steps))}}/{plan.steps}  loss {loss:.4f}  lr {lr:.2e}  "
        f"{speed:,.0f} images/s  data wait {wait:.0%}  {left} left" + (f"  {skipped} skipped" if skipped else "")
    )
    if seen["exploding"]:
        log.say(f"note     {seen['exploding']:.1%} of what the blocks put out is not finite or too large for fp16")


def _report_bad(run: Run, mine: list[str]) -> None:
    """Name what could not be read; end the run when it is more than `data.max_bad` allows."""
    lines = [line for lines in run.us.collect(mine) for line in lines]
    run.bad += len(lines)
    for line in lines:
        if run.us.is_main:
            log.say(f"unreadable, replaced: {line}")
        run.journal.event("unreadable", step=run.step, sample=line)
    seen = max(run.read, run.order.batch, 1)
    if run.bad > max(10, run.recipe.data.max_bad * seen):
        raise ShardError(
            f"{run.bad} of {seen} images cannot be read, more than data.max_bad = {run.recipe.data.max_bad}; "
            f"the last: {lines[-1]}\nrun `fer-scale verify` on the set, or raise data.max_bad"
        )


def _report_slow(run: Run, slow: Slow, host: str) -> None:
    if run.us.is_main:
        log.say(
            f"slow     rank {slow.rank} on {host}: its {slow.what} takes {slow.ratio:g} times as long as the others', "
            f"which costs all {slow.lost:.0%} of a step"
        )
    run.journal.event("slow", step=run.step, rank=slow.rank, host=host, what=slow.what, ratio=slow.ratio)


def _report_skipped(run: Run, facts: dict[str, Any]) -> None:
    if run.us.is_main:
        run.skips.say(facts)
    run.journal.event("skipped", **facts)
    key, lr = run.recipe.optim.lr_given
    run.skips.refuse_more(run.step, lr, f"optim.{key}", "optim.clip_norm")


def _save(run: Run, *, wait: bool) -> None:
    """Begin to save the run as it is now, after the save before is done; with `wait` until this one counts."""
    _saved(run, run.saver.finish())
    run.saver.begin({
        "step": run.step,
        "images": run.before + run.read,
        "shards": run.prints,
        "start": run.start,
        "recipe": config.dump(run.recipe),
        "versions": {"fer_scale": __version__} | versions(),
    })  # fmt: skip
    run.saved, run.due = run.step, False
    if wait:
        _saved(run, run.saver.finish())


def _saved(run: Run, saved: Saved | None) -> None:
    if saved is None or not run.us.is_main:
        return
    times = {"seconds": round(saved.seconds, 2), "stall_s": round(saved.stall_s, 3)}
    run.journal.event("checkpoint", step=saved.step, **times, bytes=saved.bytes)
    run.publisher.saved(saved.step)
    saves.say_if_slow(saved.seconds, run.recipe.run.grace_s)


def _picture(run: Run, batch: Batch) -> None:
    """The curves so far and some reconstructions, by the main rank; the others wait, so that none hangs in a step."""
    out, weights = run.recipe.run.out, run.engine.weights()
    if run.us.is_main:
        plots.curves(log.rows(out / "metrics.jsonl"), out / "curves.png")
        few = Batch(batch.pixels[:_FACES], batch.sizes[:_FACES], batch.keys[:_FACES], batch.ids[:_FACES], ())
        [(views, keys)] = _views(run, [few])
        pictures.reconstructions(run.recipe, weights, views, keys, out / "reconstructions.png", run.step)
    run.us.agree(0)
