"""Shards to batches, in the order of shards/order.py, or of shards/mix.py where sets have weights.

A batch is a pure function of (seed, step): readers are told which (step, micro-batch) to make, never asked what comes
next, so a run goes on anywhere by a seek and the number of ranks and readers changes nothing. Readers decode to uint8.

Nothing is lost in silence: a sample that cannot be read is replaced by another one of its shard, chosen by its key, and
named in the batch.
"""

import atexit
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.errors import ShardError, UserError
from shards.index import ShardSet
from shards.mix import Mix
from shards.order import Order, bits, share
from shards.pixels import BadImage, decode

_REPLACE = 4  # the stream of a sample's key that its replacements are drawn from
_ATTEMPTS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of one rank."""

    pixels: Tensor  # uint8 [B, P, P, 3], each image in the upper left corner of its slot
    sizes: NDArray[np.int64]  # [B, 2] height and width in pixels
    keys: NDArray[np.uint64]  # [B] what all further draws come from
    ids: NDArray[np.int64]  # [B] the samples' numbers, over all rows of all sets
    bad: tuple[str, ...]  # samples that were replaced, each with its place and reason


class Faces:
    """The images of some shard sets, numbered one after another; with `rows`, only those rows of each shard."""

    def __init__(self, sets: list[ShardSet], *, slot_px: int, rows: list[NDArray[np.int64] | None] | None = None):
        self.sets = sets
        self.rows = rows or [None] * sum(len(s.counts) for s in sets)
        self._shards = [(s, number) for s in sets for number in range(len(s.counts))]
        all_counts = [count for s in sets for count in s.counts]
        self.counts = [n if r is None else len(r) for n, r in zip(all_counts, self.rows, strict=True)]
        self._first = np.concatenate([[0], np.cumsum(all_counts)])
        largest = max(max(s.index["image_px"]["max"]) for s in sets)
        self.slot_px = min(slot_px, largest)

    def counts_by_set(self) -> list[list[int]]:
        """How many images each shard gives, set by set."""
        return self._by_set(self.counts)

    def _by_set(self, values: list[T]) -> list[list[T]]:
        ends = [0, *accumulate(len(s.counts) for s in self.sets)]
        return [values[first:end] for first, end in pairwise(ends)]

    def prints(self) -> list[str]:
        """What each set gives, content and choice of rows: the same exactly where the same images are read."""
        found = []
        for s, rows in zip(self.sets, self._by_set(self.rows), strict=True):
            kept = hashlib.sha256(b"".join(r.astype("<i8").tobytes() + b"|" for r in rows if r is not None))
            found.append(s.fingerprint + (f" rows {kept.hexdigest()}" if rows[0] is not None else ""))
        return found

    def pixels(self, shard: int, row: int) -> tuple[int, NDArray[np.uint8]]:
        """The number of the `row`-th kept sample of a shard, and its pixels, reduced to the slot."""
        kept = self.rows[shard]
        row = row if kept is None else int(kept[row])
        shard_set, number = self._shards[shard]
        try:
            image = decode(shard_set.read(number, row).image)
        except BadImage as error:
            raise ShardError(f"{shard_set.where(number, row)}: {error}") from None
        if max(image.shape[:2]) > self.slot_px:
            image = _reduced(image, self.slot_px)
        return int(self._first[shard]) + row, image

    def batch(self, shards: NDArray[np.int64], rows: NDArray[np.int64], keys: NDArray[np.uint64]) -> Batch:
        """The batch of these samples; what cannot be read is replaced and named."""
        count, side = len(keys), self.slot_px
        pixels = torch.zeros((count, side, side, 3), dtype=torch.uint8)
        sizes, ids = np.empty((count, 2), np.int64), np.empty(count, np.int64)
        slots, bad = pixels.numpy(), []
        for i, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            others = None
            for attempt in range(_ATTEMPTS):
                try:
                    ids[i], image = self.pixels(shard, row)
                    break
                except ShardError as error:
                    bad.append(str(error))
                    if others is None:
                        others = bits(keys[i : i + 1], _REPLACE, _ATTEMPTS)[0]
                    row = int(others[attempt] % np.uint64(self.counts[shard]))
            else:
                raise ShardError(
                    f"{bad[-1]}\n{_ATTEMPTS} unreadable samples in a row: run `fer-scale verify` on the set"
                )
            sizes[i] = image.shape[:2]
            slots[i, : image.shape[0], : image.shape[1]] = image
        return Batch(pixels, sizes, keys, ids, tuple(bad))


def _reduced(image: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """The image with its longer side at `px`."""
    height, width = image.shape[:2]
    scale = px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def without(sets: list[ShardSet], exclude: tuple[str, ...]) -> tuple[list[NDArray[np.int64] | None], list[int]]:
    """The rows of every shard that remain after `data.exclude`, and how many fell out of each set, in their order.

    An exclusion is `FILE#LIST`: a list of keys in a split file, which names the set it was made for. The split's list
    `excluded` falls out with it: copies of faces in a list, without an expression of their own, are there.
    """
    dropped: dict[str, set[str]] = {}
    for spec in exclude:
        file, _, name = spec.partition("#")
        try:
            split = json.loads(Path(file).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"data.exclude: {file}: not a split file ({error})") from None
        if not isinstance(split, dict) or "fingerprint" not in split:
            raise UserError(f"data.exclude: {file}: not a split file; make one with `fer-scale split`")
        if not isinstance(split.get(name), list):
            lists = ", ".join(key for key, value in split.items() if isinstance(value, list))
            raise UserError(f"data.exclude: {spec!r}: write FILE#LIST with one of its lists: {lists}")
        if split["fingerprint"] not in {s.fingerprint for s in sets}:
            raise UserError(
                f"data.exclude: {file} was made for the set {split.get('set')!r} "
                f"({split['fingerprint'][:12]}), which is not among data.shards, or was packed anew: split it again"
            )
        dropped.setdefault(split["fingerprint"], set()).update(split[name], split.get("excluded", ()))
    rows: list[NDArray[np.int64] | None] = []
    fell_out = []
    for s in sets:
        out = dropped.get(s.fingerprint)
        for number in range(len(s.counts)):
            rows.append(None if out is None else np.flatnonzero([key not in out for key in s.keys(number)]))
        fell_out.append(len(out or ()))
    return rows, fell_out


class _Steps(Dataset[Batch]):
    """`steps[(step, micro)]` is that micro-batch of one rank."""

    def __init__(self, faces: Faces, order: Order | Mix, rank: int, ranks: int, accumulation: int):
        self.faces, self.order = faces, order
        mine = share(rank, ranks, order.batch)
        cuts = [mine.start + len(mine) * i // accumulation for i in range(accumulation + 1)]
        self.parts = list(pairwise(cuts))

    def __getitem__(self, at: tuple[int, int]) -> Batch:
        step, micro = at
        slots = self.order.slots(step, *self.parts[micro])
        return self.faces.batch(slots.shard, slots.row, slots.key)


def batches(
    faces: Faces,
    order: Order | Mix,
    *,
    start_step: int,
    stop_step: int,
    rank: int,
    ranks: int,
    accumulation: int,
    workers: int,
) -> Iterator[list[Batch]]:
    """This rank's micro-batches of each step, from `start_step` on."""
    steps = _Steps(faces, order, rank, ranks, accumulation)
    wanted = ((step, micro) for step in range(start_step, stop_step) for micro in range(accumulation))
    found = []
    for batch in ahead(steps, wanted, workers, depth=2 * accumulation):
        found.append(batch)
        if len(found) == accumulation:
            yield found
            found = []


class _Said(Dataset[T | UserError]):
    """An item, or what is wrong with it, to be raised in the rank's own process: torch wraps what a reader raises."""

    def __init__(self, data: Dataset[T]):
        self.data = data

    def __getitem__(self, at: Any) -> T | UserError:
        try:
            return self.data[at]
        except UserError as error:
            return error


def ahead(data: Dataset[T], wanted: Iterable[Any], workers: int, depth: int = 2) -> Iterator[T]:
    """`data[i]` for each i wanted, in order; `workers` processes read at least `depth` items ahead, and two each."""
    if not workers:
        yield from (data[at] for at in wanted)
        return
    stream = iter(
        DataLoader(
            _Said(data),
            batch_size=None,
            sampler=wanted,  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=max(2, -(-depth // workers)),
            worker_init_fn=_begin_reading,
            multiprocessing_context="spawn",
        )
    )
    # A process that fails may never drop its iterator: the traceback holds it. At exit multiprocessing would end the
    # readers with SIGTERM, to which they are deaf, and wait for them for ever.
    dismiss = stream._shutdown_workers  # type: ignore[attr-defined]
    atexit.register(dismiss)
    try:
        for item in stream:
            if isinstance(item, UserError):
                raise item
            yield item
    finally:
        atexit.unregister(dismiss)
        dismiss()


def _begin_reading(_: int) -> None:
    """Set up a reader: it outlives the signals that ask its rank to stop, which still needs its batches to reach a
    step's end, and it does not outlive its rank, whose death torch does not see while a reader starts."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_rank, daemon=True).start()


def _end_with_the_rank() -> None:
    rank = multiprocessing.parent_process()
    assert rank is not None
    rank.join()
    os._exit(1)
