"""What a fine-tuning run learns from, made out of a shard set, a split and a recipe: faces, labels, and their order."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fer_scale.finetune import steps, targets
from fer_scale.finetune.pairs import parts
from fer_scale.finetune.pool import Pool, Stream, labeled_pool
from fer_scale.finetune.processes import Processes
from fer_scale.finetune.pseudo_labels import NO_LABEL
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.sampling import Sampled
from fer_scale.finetune.split import Split
from fer_scale.finetune.steps import Labels
from fer_scale.loader import Batch
from shards.errors import ShardError
from shards.index import ShardSet
from shards.order import key, share
from shards.sample import Face

_SUPERVISED, _SEMI, _UNLABELED = 1, 2, 3  # streams of run.seed; frozen


@dataclass(frozen=True, slots=True)
class Table:
    """Everything a run reads."""

    shard_set: ShardSet
    split: Split
    names: list[str]  # of the classes
    labels: Labels
    labeled: Pool
    unlabeled: Pool | None  # None without a stage 3
    face_box: tuple[float, ...]  # the median box of the labeled faces
    detector: str  # where most boxes came from: a detector's name, annotation or template
    bad: tuple[str, ...]  # faces that could not be read when the lists were decoded, and were replaced


def lay(recipe: Finetune, shard_set: ShardSet, split: Split, names: list[str], px: int, here: Processes) -> Table:
    """The table for a run, its small lists decoded into memory."""
    slot_px = 2 * px
    crop_of = recipe.augment.crop_of
    labeled, known, bad = labeled_pool(shard_set, split.lists["labeled"], slot_px=slot_px, crop_of=crop_of)
    accept(bad, len(split.lists["labeled"]), recipe.data.max_bad)
    matrix = torch.from_numpy(targets.matrix(known, names, recipe.supervised.target))
    boxes = labeled.boxes(known)
    unlabeled = None
    if recipe.semi.steps:
        if not split.lists["unlabeled"]:
            raise ShardError(f"{split.path}: lists no unlabeled faces; leave stage 3 out with semi.steps=0")
        unlabeled = Pool(shard_set, split.lists["unlabeled"], slot_px=slot_px, crop_of=crop_of)
    for pool, title in ((labeled, "decoding labeled faces"), (unlabeled, "decoding unlabeled faces")):
        if pool is not None and pool.megabytes() <= recipe.data.memory_mb:
            found = pool.keep(title)
            accept(found, len(pool), recipe.data.max_bad)
            bad += found
    return Table(
        shard_set,
        split,
        names,
        steps.known_labels(matrix, boxes, targets.classes(known, names), recipe, here.device),
        labeled,
        unlabeled,
        tuple(round(float(x), 4) for x in np.median(boxes, axis=0)),
        whence(known, shard_set),
        bad,
    )


def whence(known: Sequence[Face], shard_set: ShardSet) -> str:
    """Where most boxes of the faces came from; a detector by its name where the set knows it."""
    source = Counter(face.box_source or "template" for face in known).most_common(1)[0][0]
    return shard_set.index.get("detector", source) if source == "detector" else source


def hidden_classes(table: Table, batches: Sequence[Batch]) -> NDArray[np.int64]:
    """The classes that unlabeled faces have by the set, for the log alone: see pseudo_labels.tally."""
    assert table.unlabeled is not None
    expressions = table.unlabeled.expressions(np.concatenate([batch.ids for batch in batches]))
    known = [
        NO_LABEL if e is None else table.names.index(e) if e in table.names else len(table.names) for e in expressions
    ]
    return np.array(known, np.int64)


def accept(bad: Sequence[str], of: int, most: float) -> None:
    """ShardError where too many faces of a list could not be read."""
    if len(bad) > most * of:
        raise ShardError(
            f"{len(bad)} of {of} faces cannot be read, more than data.max_bad = {most}; the last: {bad[-1]}\n"
            "run `fer-scale verify` on the set, or raise data.max_bad"
        )


def labeled_steps(
    table: Table, recipe: Finetune, here: Processes, *, semi: bool, first: int, stop: int
) -> Iterator[list[Batch]]:
    """This process's labeled parts of the steps first..stop-1 of a stage; FaceMix partners are in one part."""
    batch = recipe.semi.batch if semi else recipe.supervised.batch
    sampling = recipe.semi.sampling if semi else recipe.supervised.sampling
    cuts = parts(batch, rank=here.rank, ranks=here.ranks, micro=recipe.batch.micro)
    seed = key(recipe.run.seed, _SEMI if semi else _SUPERVISED)
    sampled = Sampled(table.labels.classes, sampling, seed)
    stream = Stream(table.labeled, cuts, batch=batch, seed=seed, sampled=sampled)
    return stream.steps(first, stop, recipe.data.workers)


def unlabeled_steps(table: Table, recipe: Finetune, here: Processes, *, first: int, stop: int) -> Iterator[list[Batch]]:
    """This process's unlabeled parts of the steps first..stop-1 of stage 3."""
    assert table.unlabeled is not None
    batch, micro = recipe.semi.batch * recipe.semi.unlabeled_ratio, recipe.batch.micro
    mine = share(here.rank, here.ranks, batch)
    cuts = [np.arange(a, min(a + micro, mine.stop)) for a in range(mine.start, mine.stop, micro)]
    seed = key(recipe.run.seed, _UNLABELED)
    return Stream(table.unlabeled, cuts, batch=batch, seed=seed).steps(first, stop, recipe.data.workers)
