"""The faces of one list of a split: what is known of them, their pixels, and the endless order they are trained on in.

A list that is small enough is decoded once and kept as uint8; a larger one is read step by step. Both give the same
batches.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fer_scale.finetune import framing
from fer_scale.finetune.recipe import CropOf
from fer_scale.finetune.sampling import Sampled
from fer_scale.loader import Batch, Faces
from fer_scale.log import progress
from fer_scale.readers import ahead
from shards.boxes import Box
from shards.errors import Broken, UserError
from shards.index import ShardSet
from shards.order import Order, absorb, key
from shards.sample import Face

_CHUNK = 512  # faces decoded between two words about progress
_STAND_IN = key(*b"stand-in")  # a broken face is always replaced by the same one, whatever the step

SLOT_PX = 448  # of faces that are measured on: nothing is reduced twice for models up to this size

Ids = NDArray[np.int64]


def labeled_pool(
    shard_set: ShardSet, keys: Sequence[str], *, slot_px: int, crop_of: CropOf
) -> tuple["Pool", list[Face], tuple[str, ...]]:
    """The faces of a list `labeled`, what is known of each, and where the damaged ones lie, which are left out."""
    pool = Pool(shard_set, keys, slot_px=slot_px, crop_of=crop_of)
    known = pool.known()
    lost = tuple(f"{pool.where(number)}: damaged" for number, face in enumerate(known) if not face.expression)
    if lost:
        sound = [name for name, face in zip(pool.keys, known, strict=True) if face.expression]
        if not sound:
            raise UserError(f"{shard_set.path}: no labeled face of the split can be read; run `fer-scale verify`")
        pool = Pool(shard_set, sound, slot_px=slot_px, crop_of=crop_of)
    return pool, [face for face in known if face.expression], lost


class Pool:
    """Faces numbered 0 .. N-1, in the order in which they lie in the set."""

    def __init__(self, shard_set: ShardSet, wanted: Sequence[str], *, slot_px: int, crop_of: CropOf = "picture"):
        """The faces of `shard_set` whose keys are in `wanted`, reduced to fit into `slot_px` where they are larger.

        With `crop_of` = "face" their pictures are first cut to their frames (framing.py).
        """
        self._crop_of = crop_of
        names, rows, shards = set(wanted), [], []
        self.keys: list[str] = []
        for shard in range(len(shard_set.counts)):
            keys = shard_set.keys(shard)
            rows.append(np.array([row for row, name in enumerate(keys) if name in names], np.int64))
            self.keys += [keys[row] for row in rows[-1]]
            shards.append(np.full(len(rows[-1]), shard, np.int64))
        if len(self.keys) != len(names):
            missing = len(names) - len(self.keys)
            raise UserError(
                f"{shard_set.path}: {missing} faces of the split are not in the set; run `fer-scale verify`"
            )
        self.shard_set = shard_set
        faces = framing.FramedFaces if crop_of == "face" else Faces
        self.faces = faces([shard_set], slot_px=slot_px, rows=list(rows))
        self._shard, self._row = np.concatenate(shards), np.concatenate(rows)
        self._place = np.concatenate([np.arange(len(r)) for r in rows])  # among a shard's wanted rows
        first = np.concatenate([[0], np.cumsum(shard_set.counts)])[self._shard]
        self._numbers = first + self._row  # as the loader numbers them: ascending
        self._kept: Batch | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, number: int) -> str:
        """How messages name the face of this number."""
        return self.faces.where(int(self._numbers[number]))

    def known(self) -> list[Face]:
        """What the set's JSON says of each face; an empty Face of one without, or that is damaged."""
        return [self._known(number) for number in range(len(self))]

    def expressions(self, ids: Ids) -> list[str | None]:
        """The expressions that the set's JSON says of the faces `ids`; None also where that is damaged."""
        return [self._known(number).expression for number in ids.tolist()]

    def _known(self, number: int) -> Face:
        try:
            return self.shard_set.read(int(self._shard[number]), int(self._row[number])).face or Face()
        except Broken:  # a disk or a network: another time it may be read
            raise
        except UserError:
            return Face()

    def megabytes(self) -> float:
        """What the decoded faces would take."""
        return len(self) * self.faces.slot_px**2 * 3 / 1e6

    def keep(self, title: str) -> tuple[str, ...]:
        """Decode all faces and keep them; what could not be read, and was replaced."""
        batches = []
        with progress(title) as tick:
            for start in range(0, len(self), _CHUNK):
                batches.append(self._read(np.arange(start, min(start + _CHUNK, len(self)))))
                tick(min(start + _CHUNK, len(self)), len(self))
        self._kept = Batch(
            torch.cat([b.pixels for b in batches]),
            np.concatenate([b.sizes for b in batches]),
            np.concatenate([b.keys for b in batches]),
            np.concatenate([b.ids for b in batches]),
            tuple(text for b in batches for text in b.bad),
        )
        return self._kept.bad

    @property
    def kept(self) -> bool:
        """Whether all faces are decoded and in memory."""
        return self._kept is not None

    def batch(self, ids: Ids) -> Batch:
        """Pixels and sizes of the faces `ids`. Where a face was replaced, `Batch.ids` says by which."""
        if self._kept is None:
            return self._read(ids)
        kept = self._kept
        return Batch(kept.pixels[torch.from_numpy(ids)], kept.sizes[ids], kept.keys[ids], kept.ids[ids], ())

    def _read(self, ids: Ids) -> Batch:
        keys = absorb(np.full(1, _STAND_IN, np.uint64), ids.astype(np.uint64))
        batch = self.faces.batch(self._shard[ids], self._place[ids], keys)
        return Batch(batch.pixels, batch.sizes, keys, np.searchsorted(self._numbers, batch.ids), batch.bad)

    def boxes(self, known: Sequence[Face]) -> NDArray[np.float32]:
        """Face boxes [N, 4] in the pictures as they are cut: the face's own, else the template of its set."""
        template: Box = tuple(self.shard_set.index["template_box"])
        boxes = np.array([face.box or template for face in known], np.float32)
        return framing.within(boxes, framing.frames(boxes, template)) if self._crop_of == "face" else boxes


class Stream(Dataset[list[Batch]]):
    """`stream[step]` is what this process trains on at a step: a pure function of the seed and the step."""

    def __init__(self, pool: Pool, parts: list[Ids], *, batch: int, seed: int, sampled: Sampled | None = None):
        """`parts` are the slots of the global batch that each forward pass takes; see pairs.py."""
        self._pool, self._parts, self._batch, self._sampled = pool, parts, batch, sampled
        rows = len(pool) if sampled is None else len(sampled)
        self._order = Order([rows], seed=seed, batch=batch, lanes=1)

    def __getitem__(self, step: int) -> list[Batch]:
        slots = self._order.slots(step, 0, self._batch)
        faces = slots.row if self._sampled is None else self._sampled.faces(slots.row, slots.epoch)
        batches = []
        for part in self._parts:
            batch = self._pool.batch(faces[part])
            batches.append(Batch(batch.pixels, batch.sizes, slots.key[part], batch.ids, batch.bad))
        return batches

    def steps(self, start: int, stop: int, workers: int) -> Iterator[list[Batch]]:
        """The steps from `start` on; faces that are not kept are read ahead by `workers` processes."""
        return ahead(self, range(start, stop), 0 if self._pool.kept else workers)


def take(values: Tensor, batch: Batch) -> Tensor:
    """The rows of `values`, one a face of the pool, that belong to a batch."""
    return values[torch.from_numpy(batch.ids).to(values.device)]
