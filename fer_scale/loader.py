"""Shards to batches, in the order of shards/order.py, or of shards/mix.py where sets have weights.

A batch is a pure function of (seed, step): readers are told which (step, micro-batch) to make, never asked what comes
next, so a run goes on anywhere by a seek and the number of ranks and readers changes nothing. Readers decode to uint8.

Nothing is lost in silence: a sample that cannot be read is replaced by another one of its shard, chosen by its key, and
named in the batch.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fer_scale import log, readers
from fer_scale.readers import Slots
from shards.errors import ShardError, Unread, UserError
from shards.index import ShardSet
from shards.mix import Mix
from shards.order import LANES, Order, bits, share
from shards.pixels import BadImage, decode
from shards.remote import RemoteSet
from shards.sample import Sample

_REPLACE = 4  # the stream of a sample's key that its replacements are drawn from
_ATTEMPTS = 8

CPU = torch.device("cpu")

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

    def where(self, number: int) -> str:
        """How messages name the sample of this number, as `Batch.ids` has it."""
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        shard_set, local = self._shards[shard]
        return shard_set.where(local, number - int(self._first[shard]))

    def prefetch(self, shards: list[int]) -> None:
        """Be told which shards are read next, the first first: those that lie far away are fetched ahead of need."""
        for shard_set in self.sets:
            shard_set.prefetch([number for s, number in (self._shards[i] for i in shards) if s is shard_set])

    def pixels(self, shard: int, row: int, scratch: NDArray[np.uint8] | None = None) -> tuple[int, NDArray[np.uint8]]:
        """The number of the `row`-th kept sample of a shard, and its pixels, reduced to the slot; see pixels.decode."""
        kept = self.rows[shard]
        row = row if kept is None else int(kept[row])
        shard_set, number = self._shards[shard]
        try:
            image = self.decoded(shard_set.read(number, row), scratch)
        except BadImage as error:
            raise ShardError(f"{shard_set.where(number, row)}: {error}") from None
        if max(image.shape[:2]) > self.slot_px:
            image = _reduced(image, self.slot_px)
        return int(self._first[shard]) + row, image

    def decoded(self, sample: Sample, scratch: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        """The pixels of a sample before they are reduced; BadImage."""
        return decode(sample.image, scratch)

    def batch(
        self,
        shards: NDArray[np.int64],
        rows: NDArray[np.int64],
        keys: NDArray[np.uint64],
        *,
        into: Tensor | None = None,
    ) -> Batch:
        """The batch of these samples; what cannot be read is replaced and named.

        Its pixels are the first of `into` where that is given, [at least B, P, P, 3].
        """
        count, side = len(keys), self.slot_px
        pixels = torch.empty((count, side, side, 3), dtype=torch.uint8) if into is None else into[:count]
        sizes, ids, slots, bad = np.empty((count, 2), np.int64), np.empty(count, np.int64), pixels.numpy(), list[str]()
        for i, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            slot = slots[i]
            ids[i], image = self._readable(shard, row, keys[i : i + 1], bad, slot)
            height, width = sizes[i] = image.shape[:2]
            if image.shape == slot.shape and np.may_share_memory(image, slot):  # decoded where it belongs
                continue
            slot[:height, :width] = image
            slot[height:], slot[:height, width:] = 0, 0  # what lay there before
        return Batch(pixels, sizes, keys, ids, tuple(bad))

    def _readable(
        self, shard: int, row: int, key: NDArray[np.uint64], bad: list[str], scratch: NDArray[np.uint8]
    ) -> tuple[int, NDArray[np.uint8]]:
        """Number and pixels of a sample, or of one of its shard that its key chooses; `bad` gets what was wrong."""
        others: NDArray[np.uint64] | None = None
        for attempt in range(_ATTEMPTS):
            try:
                return self.pixels(shard, row, scratch)
            except ShardError as error:
                bad.append(str(error))
                kind = type(error)
                if others is None:
                    others = bits(key, _REPLACE, _ATTEMPTS)[0]
                row = int(others[attempt] % np.uint64(self.counts[shard]))
        hint = "look after the disk or its network" if kind is Unread else "run `fer-scale verify` on the set"
        raise kind(f"{bad[-1]}\n{_ATTEMPTS} unreadable samples in a row: {hint}")


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
    """`steps[(number, step, micro)]` is that micro-batch of one rank; its pixels lie in the slot of that number."""

    def __init__(self, faces: Faces, order: Order | Mix, cuts: list[int], slots: Slots | None):
        self.faces, self.order, self.slots = faces, order, slots
        self.parts, self.cuts = list(pairwise(cuts)), cuts
        self.far = any(isinstance(s, RemoteSet) for s in faces.sets)
        self.fetch_at = 0  # the step at which to look ahead again

    def __getitem__(self, at: tuple[int, int, int]) -> Batch:
        number, step, micro = at
        if self.far and step >= self.fetch_at:
            self._look_ahead(step)
        wanted = self.order.slots(step, *self.parts[micro])
        if self.slots is None:
            return self.faces.batch(wanted.shard, wanted.row, wanted.key)
        filled = self.faces.batch(wanted.shard, wanted.row, wanted.key, into=self.slots[number])
        return replace(filled, pixels=None)  # type: ignore[arg-type]  # the rank has them

    def _look_ahead(self, step: int) -> None:
        """Have fetched what is needed while each lane reads the shard it is in and the next one."""
        steps = 1 + 2 * max(self.faces.counts) * LANES // self.order.batch
        self.faces.prefetch(self.order.upcoming(step, steps, self.cuts[0], self.cuts[-1]))
        self.fetch_at = step + 1 + steps // 8


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
    device: torch.device = CPU,
    copying: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[list[Batch]]:
    """This rank's micro-batches of each step, from `start_step` on, their pixels on `device`; good until the next ones
    are asked for. Copies to a GPU are waited for inside `copying`.

    `workers` processes read them into memory that they and the rank have. As many decoding threads of one process hold
    less memory, but wait for one another between two decodings: 1.1 to 1.3 times the processor time an image (two on
    two cores, LFW, three interleaved rounds, 2026-11-25).
    """
    mine = share(rank, ranks, order.batch)
    cuts = [mine.start + len(mine) * i // accumulation for i in range(accumulation + 1)]
    most = max(stop - start for start, stop in pairwise(cuts))
    each = max(2, -(-2 * accumulation // max(workers, 1)))  # micro-batches that a reader is ahead
    side = faces.slot_px
    slots = Slots(workers * each + accumulation, (most, side, side, 3)) if workers else None
    steps = _Steps(faces, order, cuts, slots)
    wanted = ((step, micro) for step in range(start_step, stop_step) for micro in range(accumulation))
    numbered = ((number, *at) for number, at in enumerate(wanted))
    read = readers.ahead(steps, numbered, workers, each)
    if slots:
        filled = slots
        read = (replace(b, pixels=filled[number][: len(b.ids)]) for number, b in enumerate(read))
    grouped = _grouped(read, accumulation)
    if device.type == "cpu":
        yield from grouped
        return
    if slots and (refused := slots.lock()):
        log.say(f"note     copies to the GPU wait for this process: its memory cannot be locked ({refused})")
    yield from _one_step_ahead(grouped, device, copying)


def _grouped(read: Iterator[Batch], accumulation: int) -> Iterator[list[Batch]]:
    while found := list(islice(read, accumulation)):
        yield found


def _one_step_ahead(
    steps: Iterator[list[Batch]], device: torch.device, copying: Callable[[], AbstractContextManager[None]]
) -> Iterator[list[Batch]]:
    """The steps on a GPU. The pixels of the next one are copied while it computes: on a stream of their own, from
    locked memory, and a slot goes back to the readers when its copy is done."""
    copies, computes = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    ready: list[Batch] = []
    for batches in steps:
        with torch.cuda.stream(copies):
            moved = [replace(b, pixels=b.pixels.to(device, non_blocking=True)) for b in batches]
            copied = copies.record_event()
        try:
            if ready:
                yield ready
        finally:  # also where nobody wants more: the slots' memory goes
            with copying():
                copied.synchronize()
        for batch in moved:  # allocated by one stream, used by the other
            batch.pixels.record_stream(computes)
        ready = moved
    if ready:
        yield ready
