"""What a run says before it starts, the facts beside it, and the expression model it ends in.

RUN/recipe.toml  data.json      what was asked for, and of which data (for the card)
RUN/model/                      config.json, model.safetensors: the teacher, as timm and transformers read it
RUN/curves.png                  loss, learning rate, speed, and figures on the list valid, over both stages
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fer_scale import config, disk, encoder, faces, log, plots
from fer_scale.finetune import apply, fold, split, targets
from fer_scale.finetune.pool import SLOT_PX, Pool
from fer_scale.finetune.processes import Processes
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.start import Start
from fer_scale.finetune.steps import Input
from fer_scale.finetune.table import Table, accept

_LOOKED_AT = 64  # pictures whose median box is stored; boxes spread by .03 to .05 of the side


def describe(begun: Start, laid: Table, recipe: Finetune, processes: int) -> None:
    """Say what the recipe comes to."""
    counts = laid.split.facts["class_counts"]["labeled"]
    log.say(f"labels   {len(laid.labeled):,}: " + ", ".join(f"{n} {e}" for e, n in counts.items()))
    if laid.unlabeled is not None:
        log.say(f"faces    {len(laid.unlabeled):,} unlabeled")
    weights = sum(p.numel() for p in begun.model.parameters()) / 1e6
    whence = begun.base_model or f"{recipe.model.architecture} from scratch"
    log.say(f"model    {whence}, {begun.image_px} px, {weights:.1f} M weights")
    if any(split.is_other(was, laid.shard_set, laid.split) for was in begun.trained_on):
        log.say(f"warning: {begun.base_model} learned labels of this set by another split, perhaps of its list test")
    s, u = recipe.supervised, recipe.semi
    unlabeled = f"{u.batch} labeled + {u.batch * u.unlabeled_ratio} unlabeled"
    epochs = f"{s.steps * s.batch / len(laid.labeled):,.1f} epochs of the labels"
    how = f"lr {s.lr:.2g}, {recipe.facemix.weighting}, targets {s.target}"
    log.say(f"stage 2  {s.steps:,} steps of {s.batch}: {epochs}, {how}")
    if u.steps:
        log.say(f"stage 3  {u.steps:,} steps of {unlabeled}, lr {u.lr:.2g}, {u.labeler}")
    log.say(f"runs on  {processes} process(es), {recipe.run.precision}, {recipe.batch.micro} pictures per forward pass")


def write_facts(laid: Table, recipe: Finetune) -> None:
    """recipe.toml and data.json of the run."""
    shard_set = laid.shard_set
    data = {
        "name": shard_set.name,
        "address": shard_set.address,
        "source": shard_set.index["source"],
        "protocol": shard_set.index["protocol"],
        "licence": shard_set.index["licence"],
        "samples": shard_set.samples,
        "excluded": shard_set.samples - len(laid.labeled) - (len(laid.unlabeled) if laid.unlabeled else 0),
        "fingerprint": shard_set.fingerprint,
        "split": laid.split.sha256,
        "labels": laid.split.facts["labels"],
        "class_counts": laid.split.facts["class_counts"],
        "target": recipe.supervised.target,
    }
    for name, text in (("recipe.toml", config.dump(recipe)), ("data.json", json.dumps([data], indent=2) + "\n")):
        disk.put(recipe.run.out / name, text)


def withdraw(recipe: Finetune) -> None:
    """Take back what a shorter run left: it would be measured and published as the model of the longer one."""
    for name in ("model", "evaluation"):
        if (recipe.run.out / name).exists():
            log.say(f"removed {recipe.run.out / name}: it was of fewer steps; the run makes it anew at its end")
            shutil.rmtree(recipe.run.out / name)


def publishable(begun: Start, teacher: nn.Module, laid: Table, recipe: Finetune, here: Processes) -> dict[str, object]:
    """Write RUN/model/, greyness and temperature folded in; the facts of its block `fer_scale`."""
    grey = sees_grey(begun, laid, recipe) and fold.grey(teacher)
    folded, whence = _temperature(begun, teacher, laid, recipe, here)  # of the network as it is published: grey
    if whence != "none":
        fold.temperature(teacher, folded)
        log.say(f"temperature {folded:.4g}, {'fitted on the list valid' if whence == 'valid' else 'as given'}")
    block = {
        "face_box": list(laid.face_box),
        "detector": laid.detector,
        "face_boxes": _face_boxes(laid),
        "folded_temperature": folded,
        "temperature_from": whence,
        "folded_grey": grey,
        "base_model": begun.base_model,
        "base_licence": begun.base_licence,
        "base_data": list(begun.base_data),
        "trained_on": {
            "set": laid.shard_set.name,
            "fingerprint": laid.shard_set.fingerprint,
            "split": laid.split.sha256,
            "labels": laid.split.facts["labels"],
            "target": recipe.supervised.target,
            "crop_of": recipe.augment.crop_of,
            "before": list(begun.trained_on),
        },
    }
    said = encoder.make_config(
        begun.model,
        begun.model_args,
        architecture=begun.architecture,
        image_px=begun.image_px,
        mean=begun.mean,
        std=begun.std,
        crop_pct=recipe.model.crop_pct,
        label_names=laid.names,
        licence=begun.licence,
        block=block,
    )
    if not isinstance(said["global_pool"], str):  # a convolutional network keeps a layer under this name
        said["global_pool"] = getattr(said["global_pool"], "pool_type", "avg")
    _withdraw_evaluation(recipe.run.out, folded)
    encoder.write(recipe.run.out / "model", teacher.state_dict(), said)
    plots.curves(log.rows(recipe.run.out / "metrics.jsonl"), recipe.run.out / "curves.png")
    return block


def _face_boxes(laid: Table) -> dict[str, faces.Place]:
    """Where the detectors that are here see the face in labeled pictures: photos are cropped by it (predict.py).

    Measured also where a detector's boxes lie in the set: those are clipped, and were found with nothing around.
    """
    number = len(laid.labeled)
    some = laid.labeled.batch(np.unique(np.linspace(0, number - 1, min(number, _LOOKED_AT)).astype(np.int64)))
    crops = [pixels[:h, :w].numpy() for pixels, (h, w) in zip(some.pixels, some.sizes.tolist(), strict=True)]
    return {finder.name: place for finder in faces.at_hand() if (place := finder.place(crops))}


def _withdraw_evaluation(run: Path, folded: float) -> None:
    """Take back what was measured of the same weights under another temperature: that model was not as sure."""
    before = run / "model" / "config.json"
    if not before.exists() or not (run / "evaluation").exists():
        return
    other = json.loads(before.read_text()).get("fer_scale", {}).get("folded_temperature", 1.0)
    if not math.isclose(other, folded, rel_tol=1e-6):
        log.say(f"removed {run / 'evaluation'}: it was of the temperature {other:.4g}; run `fer-scale evaluate` again")
        shutil.rmtree(run / "evaluation")


def sees_grey(begun: Start, laid: Table, recipe: Finetune) -> bool:
    """Whether all that was trained on is grey, made so or by the set: then the published model sees nothing else."""
    index = laid.shard_set.index
    # A set that was packed without the decode check knows no colours: not known to be grey.
    only = recipe.augment.grey == 1 or (len({*index.get("mean", ())}) == 1 and len({*index.get("std", ())}) == 1)
    return only and len({*begun.mean}) == len({*begun.std}) == 1


def _temperature(begun: Start, teacher: nn.Module, laid: Table, recipe: Finetune, here: Processes) -> tuple[float, str]:
    """The temperature, and where it is from: "given" by the recipe, fitted on the list "valid", or "none"."""
    if recipe.run.temperature:
        return recipe.run.temperature, "given"
    if not laid.split.lists["valid"]:
        return 1.0, "none"
    return _fitted(begun, teacher, laid, recipe, here), "valid"


def _fitted(begun: Start, teacher: nn.Module, laid: Table, recipe: Finetune, here: Processes) -> float:
    """On the split's list `valid`, of which the run has seen nothing."""
    crop_of = recipe.augment.crop_of
    pool = Pool(laid.shard_set, laid.split.lists["valid"], slot_px=SLOT_PX, crop_of=crop_of)
    classes = targets.classes(pool.known(), laid.names)
    with log.progress("fitting the temperature") as tick:
        as_input = Input(begun.image_px, begun.mean, begun.std, recipe.model.crop_pct)
        answers = apply.ask(teacher, pool, as_input, here.device, tick)
    accept(answers.bad, len(pool), recipe.data.max_bad)
    there = answers.sound & (classes >= 0)
    found = fold.fit_temperature(answers.logits[torch.from_numpy(there)], torch.from_numpy(classes[there]))
    if fold.is_bound(found):  # as where all of them are right: the surer the model is made, the better it looks
        count = log.plural(int(there.sum()), "valid face")
        log.say(f"warning: {count} cannot say how sure the model may be; draw more of them")
    return found
