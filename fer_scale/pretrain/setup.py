"""From a recipe to what the loop works with: images in their order, the model, and the facts written beside them.

Knows nothing of ranks and DeepSpeed, so `fer-scale check` can say what a run would do.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fer_scale import checkpoint, config, disk, encoder, log
from fer_scale.checkpoint import CheckpointError
from fer_scale.loader import Faces, without
from fer_scale.pretrain import slip
from fer_scale.pretrain.cost import Shape
from fer_scale.pretrain.layout import zero_layout
from fer_scale.pretrain.mae import MaskedAutoencoder, visible_patches
from fer_scale.pretrain.publishing import most_in_use
from fer_scale.pretrain.recipe import Data, Plan, Pretrain
from shards.errors import ShardError
from shards.index import ShardSet
from shards.mix import Mix, Part
from shards.order import Order
from shards.remote import open_set

FEW_VIEWS = 1_000_000  # views are the largest lever: about +4 points a doubling on small faces
MANY_EPOCHS = 100  # of one set of a mixture, whose weight may be a slip


def opened(data: Data) -> list[ShardSet]:
    """The sets that data.shards names."""
    for spec, (path, weight) in zip(data.shards, data.sets(), strict=True):
        if weight is not None and Path(spec).is_dir():
            raise ShardError(
                f"data.shards: {spec} is a folder, but reads as {path} with the weight {spec.rpartition('=')[2]}; "
                f"write {spec}/ for the folder, or {spec}=NUMBER to give it a weight"
            )
    return [open_set(path, data.cache_dir, data.cache_gb) for path, _ in data.sets()]


def table(rec: Pretrain, sets: list[ShardSet]) -> tuple[Faces, Order | Mix, list[int]]:
    """The images without the excluded ones, their order, and how many of each set were excluded."""
    data, size = rec.data, rec.batch.size
    rows, fell_out = without(sets, data.exclude)
    slot = data.slot_px or max(128, 2 * rec.model.image_px)
    faces = Faces(sets, slot_px=slot, rows=rows)
    fixed = data.lanes == "fixed"
    if weights := data.weights():
        windows = [_window_shards([s], data.window_mb) for s in sets]
        parts = [
            Part(f"data.shards: {s.name}", int(s.fingerprint[:16], 16), counts, weight, window)
            for s, counts, weight, window in zip(sets, faces.counts_by_set(), weights, windows, strict=True)
        ]
        return faces, Mix(parts, seed=rec.run.seed, batch=size, lanes_fixed=fixed), fell_out
    total = sum(faces.counts)
    if total < size:
        raise ShardError(f"data.shards: {total} images are fewer than batch.size = {size}; make it smaller")
    window = _window_shards(sets, data.window_mb)
    return faces, Order(faces.counts, seed=rec.run.seed, batch=size, window_shards=window, lanes_fixed=fixed), fell_out


def _window_shards(sets: list[ShardSet], window_mb: float) -> int:
    """How many shards are shuffled together: one is enough where the sets were packed in a random order."""
    if all(s.index["order"] == "random" for s in sets):
        return 1
    shard_mb = sum(s.index["bytes"] for s in sets) / sum(len(s.counts) for s in sets) / 1e6
    return max(1, int(window_mb / max(shard_mb, 1e-6)))


def build(rec: Pretrain) -> MaskedAutoencoder:
    """The model as it is trained, its weights drawn from run.seed; start.py has those of `model.start_from`."""
    model = fresh(rec)
    if rec.run.compile:
        model.compile_blocks()
    return model


def fresh(rec: Pretrain) -> MaskedAutoencoder:
    """The model, its weights drawn from run.seed."""
    m = rec.model
    torch.manual_seed(rec.run.seed)
    return MaskedAutoencoder(
        encoder.build(m.encoder, image_px=m.image_px, patch_px=m.patch_px),
        mask_ratio=m.mask_ratio,
        decoder_width=m.decoder_width,
        decoder_depth=m.decoder_depth,
        decoder_heads=m.decoder_heads,
        norm_pixels=m.norm_pixels,
        norm_eps=m.norm_eps,
        recompute=rec.run.recompute,
    )


def shape_of(rec: Pretrain) -> Shape:
    """The sizes that a recipe's model has."""
    m = rec.model
    args = encoder.model_args(m.encoder, image_px=m.image_px, patch_px=m.patch_px)
    patches = (m.image_px // m.patch_px) ** 2
    visible = visible_patches(patches, m.mask_ratio)
    values = 3 * m.patch_px**2
    return Shape(args["embed_dim"], args["depth"], patches, visible, values, m.decoder_width, m.decoder_depth)


def most_kept(rec: Pretrain, steps: int) -> int:
    """How many checkpoints of a run of so many steps lie in its folder at one time, at most: one is being written."""
    run, for_good = rec.run, 0
    if run.keep_every_steps:
        last = min(steps, run.stop_after_steps or steps)
        saved = {*range(run.checkpoint_every_steps, last, run.checkpoint_every_steps), last}
        for_good = len(checkpoint.for_good(saved, run.keep_every_steps))
    return for_good + run.keep_checkpoints + 1 + most_in_use(rec.publish)


def describe(
    rec: Pretrain, plan: Plan, order: Order | Mix, sets: list[ShardSet], fell_out: list[int], weights: int
) -> None:
    """Say what the recipe comes to, before anything is paid for."""
    for number, (s, out) in enumerate(zip(sets, fell_out, strict=True)):
        part = ""
        if isinstance(order, Mix):
            each = order.shares[number]
            part = f": {float(100 * each):.4g} % of a batch, {float(each * order.batch):.4g} images a step, "
            part += f"{plan.epochs[number]:.1f} epochs"
        log.say(f"images   {s.samples - out:,} of {s.name}" + (f" ({out:,} excluded)" if out else "") + part)
    m, share = rec.model, rec.batch.size / plan.ranks
    log.say(
        f"model    {m.encoder}, {m.image_px} px in {m.patch_px} px patches, {weights / 1e6:.1f} M weights with decoder"
    )
    stage = zero_layout(rec.run.deepspeed)["stage"]
    log.say(f"ranks    {log.plural(plan.ranks, 'rank')}, ZeRO stage {stage}, {rec.run.precision}")
    micro = f"{log.plural(plan.accumulation, 'micro-batch')} of {share / plan.accumulation:g}"
    log.say(f"batch    {rec.batch.size} images a step: {share:g} a rank in {micro}")
    epochs = "" if isinstance(order, Mix) else f", {plan.epochs[0]:.1f} epochs"
    log.say(f"steps    {plan.steps:,}: {plan.views:,} views{epochs}; warm-up {plan.warmup_steps:,}")
    log.say(f"lr       {plan.lr:.3g} at its peak")
    if plan.views < FEW_VIEWS:
        log.say(f"note     {plan.views:,} views are few: more views are the largest lever (configs/README.md)")
    if isinstance(order, Mix):
        for s, times in zip(sets, plan.epochs, strict=True):
            if times > MANY_EPOCHS:
                log.say(f"note     {s.name} comes {times:,.0f} times over: is its weight meant so?")
    elif order.lanes < min(16, rec.batch.size):
        log.say(
            f"note     batch.size = {rec.batch.size} has few divisors: a batch mixes {order.lanes} places of the set"
        )
    if share < 8:
        log.say(
            f"note     {share:g} images a rank and step leave the ranks mostly waiting: fewer ranks or a larger batch"
        )


def same_run(
    rec: Pretrain,
    progress: dict[str, Any],
    prints: list[str],
    changes: list[str],
    folder: Path,
    recipe_file: Path | None = None,
    moved_from: str = "",
) -> None:
    """Refuse to go on with other images or another value of a key that changes the mathematics.

    The last two are given where it is another run than the one in run.out: its recipe, and where it lies.
    """
    if "shards" not in progress:
        raise CheckpointError(f"{rec.run.out}: holds a run of fine-tuning; use another run.out")
    if progress["shards"] != prints:
        raise CheckpointError(
            f"{folder}: trained on other images than data.shards and data.exclude say; use another run.out"
        )
    slip.refuse_another_start(rec, config.of_checkpoint(progress, folder)["model"].get("start_from"))
    slip.refuse_another(rec, changes, recipe_file, moved_from)


def write_facts(rec: Pretrain, plan: Plan, sets: list[ShardSet], fell_out: list[int]) -> None:
    """recipe.toml, plan.json and data.json of the run."""
    shares = [float(weight) for weight in rec.data.weights()]  # of a batch
    data = [
        {
            "name": s.name,
            "address": s.address,
            "source": s.index["source"],
            "licence": s.index["licence"],
            "samples": s.samples,
            "excluded": out,
            "fingerprint": s.fingerprint,
            "template_box": s.index["template_box"],
            "weight": shares[number] if shares else None,
        }
        for number, (s, out) in enumerate(zip(sets, fell_out, strict=True))
    ]
    for name, text in (
        ("recipe.toml", config.dump(rec)),
        ("plan.json", json.dumps(asdict(plan), indent=2) + "\n"),
        ("data.json", json.dumps(data, indent=2) + "\n"),
    ):
        disk.put(rec.run.out / name, text)
