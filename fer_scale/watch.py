"""`fer-scale watch`: how good a run's encoder is by now, told by what a short fine-tuning makes of it.

A linear probe misleads for masked autoencoders. So each new checkpoint is fine-tuned for few steps, always the same,
with the labels of a split, and measured on its list `valid`: a line of RUN/watch.jsonl, a point of RUN/watch.png, and
faces of that list as the checkpoint reconstructs them, RUN/watch/step_N.png. Beside the training or after it, on any
machine that sees the run; started again, it goes on. A run that stands still is waited for, for an hour.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_scale import checkpoint, config, images, log, plots, publish, record, scratch, shipped
from fer_scale.artifact import ArtifactError
from fer_scale.finetune import evaluate, loop, split, views
from fer_scale.finetune.pool import Pool
from fer_scale.life import life
from fer_scale.pretrain import pictures
from fer_scale.pretrain.recipe import Pretrain
from shards.errors import Broken, UserError
from shards.remote import open_set

RECIPE = shipped.CONFIGS / "finetune" / "watch.toml"
LINES, PICTURE = "watch.jsonl", "watch.png"
_LIST = "valid"  # never the test: who looks at a curve chooses by it
_LOOK_S = 10.0
_PATIENCE_S = 3600.0  # with a run that was stopped, has failed or was killed, and may be started again
_FACES = 8  # in a picture


def watch(
    run: Path, set_path: str, split_file: Path, *, recipe: Path = RECIPE, once: bool = False,
    look_s: float = _LOOK_S, patience_s: float = _PATIENCE_S,
) -> list[dict[str, Any]]:  # fmt: skip
    """The lines of RUN/watch.jsonl, when the run has ended; with `once`, when its checkpoints so far are measured."""
    if not (run / "recipe.toml").exists():
        raise UserError(f"{run}: no run of pre-training (recipe.toml is missing); give the run.out of one")
    if "supervised" in record.read(run).recipe:
        raise UserError(f"{run}: is of fine-tuning; give a run of pre-training (`fer-scale evaluate` measures this)")
    if not split.read(split_file, open_set(set_path)).lists[_LIST]:
        raise UserError(f"{split_file}: its list `{_LIST}` is empty; draw it with `fer-scale split --valid 20%`")
    said = ""
    while True:
        over, note = (True, "") if once else _ended(run, patience_s)  # before one looks for its last checkpoint
        while folder := _next(run):
            _measure(run, folder, set_path, split_file, recipe)
        if note and note != said:
            log.say(f"note     {note}")
        if over:
            return log.rows(run / LINES)
        said = note
        time.sleep(look_s)


def _ended(run: Path, patience_s: float) -> tuple[bool, str]:
    """Whether nothing more is to be waited for, and what there is to say of a run that stands still."""
    told = life(record.read(run), time.time())
    state, reason = told["state"], told["reason"].partition("\n")[0]
    if state == "running":
        return False, ""
    if state in ("done", "not begun") or (state == "failed" and told["restart"] is False):
        return True, ""
    if told["quiet_s"] > patience_s:
        return True, f"{run} is not started again ({state}): watch ends; started again, it goes on where it was"
    why = f"{state}: {reason}" if reason else state
    return False, f"{run} stands still ({why}); watch waits for it to go on, for {log.duration(patience_s)} at most"


def _next(run: Path) -> Path | None:
    """The oldest whole checkpoint that was not measured."""
    seen = {row["step"] for row in log.rows(run / LINES)}
    for folder in reversed(checkpoint.complete(run)):
        if checkpoint.step_of(folder) not in seen:
            return folder
    return None


def _measure(run: Path, folder: Path, set_path: str, split_file: Path, recipe: Path) -> None:
    """Fine-tune and measure one checkpoint; one that cannot be read is written down as such, and not tried again."""
    row: dict[str, Any] = {"step": checkpoint.step_of(folder)}
    with scratch.folder() as made:
        encoder, tuned = f"{made}/encoder", f"{made}/run"
        try:
            # Read before the fine-tuning: meanwhile the run may remove the checkpoint, for newer ones.
            weights = {name[2:]: tensor for name, tensor in checkpoint.read(folder)[0].items() if name[0] in "wfb"}
            row["images"] = checkpoint.progress_of(folder)["images"]
            publish.publish(folder, encoder, licence="for measuring here, not for others", parts=["encoder"])
        except (UserError, FileNotFoundError) as error:  # damaged, or the run has put newer ones in its place
            if isinstance(error, Broken | ArtifactError):  # our disk's fault: another time it may be measured
                raise
            row["problem"] = str(error)
        else:
            keys = {"data.shards": set_path, "data.split": split_file, "model.start_from": encoder, "run.out": tuned}
            ended = loop.finetune(recipe, [config.as_override(key, str(value)) for key, value in keys.items()])
            if ended["outcome"] != "done":
                raise UserError(f"stopped ({ended['reason']}); started again, watch goes on where it was")
            found = evaluate.evaluate(
                f"{tuned}/model", set_path, made / "found", split_file=split_file, list_name=_LIST
            )
            row |= {name: found[name] for name in ("accuracy", "uar")}
    log.append(run / LINES, row)
    plots.watched([row for row in log.rows(run / LINES) if "accuracy" in row], run / PICTURE)
    log.say(line(row))
    if "accuracy" in row:
        _picture(run, folder, weights, set_path, split_file)


def _picture(run: Path, saved: Path, weights: dict[str, Tensor], set_path: str, split_file: Path) -> None:
    """The same held-out faces with the same patches hidden, from every checkpoint."""
    rec = config.load(Pretrain, run / "recipe.toml")
    shard_set = open_set(set_path)
    keys = split.read(split_file, shard_set).lists[_LIST][:_FACES]
    pool = Pool(shard_set, keys, slot_px=max(128, 2 * rec.model.image_px))
    batch = pool.batch(np.arange(len(pool)))
    faces = views.middle(batch.pixels, batch.sizes, rec.model.image_px)
    faces = images.grey(faces, images.greys(batch.keys, rec.augment.grey))  # as it was trained
    faces = images.normalise(faces, rec.model.mean, rec.model.std)
    (run / "watch").mkdir(exist_ok=True)
    hidden = torch.from_numpy(batch.keys.view("int64"))
    file, step = run / "watch" / f"{saved.name}.png", checkpoint.step_of(saved)
    pictures.reconstructions(rec, weights, faces, hidden, file, step)


def line(row: dict[str, Any]) -> str:
    """A line of watch.jsonl in words."""
    if "problem" in row:
        return f"step {row['step']:,}: not measured: {row['problem']}"
    seen = f"step {row['step']:,}, {row['images']:,} views"
    return f"{seen}: accuracy {100 * row['accuracy']:.1f} %, uar {100 * row['uar']:.1f} %"
