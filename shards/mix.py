"""Several shard sets in one order, each with a weight: pure functions of (seed, step), as in order.py.

    weights, as stretches of 0..1:   |------- 0.7 -------|-- 0.3 --|
    each cut into its set's lanes:   | 0  |  1 |  2 |  3 | 0  | 1  |     at least one image a step wide

A lane from lo to hi has given floor(n * hi) - floor(n * lo) images by the time that n = step * batch were given
in all. So every batch is full, what is rounded off is carried on, and after any number of steps each set has given
its share to within one image, and in each batch to less than two. The numbers are whole: it is exact for ever, and
a resume is a seek.

No lane ever goes back: over a step n * hi grows by a and n * lo by b, with a - b >= 1; the first floor grows by at
least floor(a), the second by at most ceil(b), and floor(a) >= ceil(b). That is why a set whose share of a batch is
less than one image is refused.

Each set is read in an Order of its own, with its own lanes, windows and epochs. Its seed hangs on what the set
holds, so that two sets never draw the same crops, and another set beside it leaves its draws alone.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np

from shards.errors import ShardError
from shards.order import LANES, Ints, Order, Slots, key


@dataclass(frozen=True, slots=True)
class Part:
    """One set of a mixture."""

    name: str  # for messages
    mark: int  # a number that tells the set from all others, out of its content
    counts: Sequence[int]  # samples of each shard
    weight: Fraction
    window_shards: int = 1


class Mix:
    """The order in which the samples of several sets are read, for ever. Shards are numbered over all sets."""

    def __init__(
        self, parts: Sequence[Part], *, seed: int, batch: int, lanes: int = LANES, lanes_fixed: bool = False
    ) -> None:
        """Plan global batches of `batch` images; weights are taken relative to their sum, the rest is as in Order."""
        for part in parts:
            if [other.mark for other in parts].count(part.mark) > 1:
                raise ShardError(f"{part.name}: is named twice; name it once, with the sum of the weights")
        total = sum(part.weight for part in parts)
        self.batch = batch
        self.shares = [part.weight / total for part in parts]
        self.orders: list[Order] = []
        for part, share in zip(parts, self.shares, strict=True):
            samples, images = sum(part.counts), share * batch
            _check(part, samples, images)
            c = min(lanes, int(images), samples)
            order = Order(
                list(part.counts),
                seed=key(seed, part.mark),
                batch=c,
                lanes=c,
                window_shards=part.window_shards,
                lanes_fixed=lanes_fixed,
            )
            self.orders.append(order)
        self._first_shard = [0, *accumulate(len(part.counts) for part in parts)]
        self._first_lane = [0, *accumulate(order.lanes for order in self.orders)]
        bounds = [Fraction(0)]  # of the lanes, set after set
        for share, order in zip(self.shares, self.orders, strict=True):
            low = bounds[-1]
            bounds += [low + share * lane / order.lanes for lane in range(1, order.lanes + 1)]
        self._whole = math.lcm(*(bound.denominator for bound in bounds))
        self._bounds = [int(bound * self._whole) for bound in bounds]

    @property
    def samples_per_epoch(self) -> int:
        """Of all sets, each of which has epochs of its own."""
        return sum(order.samples_per_epoch for order in self.orders)

    def epochs(self, steps: int) -> list[float]:
        """How many times each set has been read after so many steps."""
        images = steps * self.batch
        return [float(s * images / order.samples_per_epoch) for s, order in zip(self.shares, self.orders, strict=True)]

    def slots(self, step: int, start: int, stop: int) -> Slots:
        """What fills the slots [start, stop) of the global batch of `step`."""
        mine, places = self._dealt(step, start, stop)
        found = []
        for order, first, (lane, place) in zip(self.orders, self._first_shard, places, strict=False):
            part = order.at(lane, place)
            found.append(replace(part, shard=part.shard + first))
        back = np.argsort(np.argsort(mine, kind="stable"))  # from set after set to slot after slot
        return Slots(*(np.concatenate([getattr(part, each.name) for part in found])[back] for each in fields(Slots)))

    def upcoming(self, step: int, steps: int, start: int, stop: int) -> list[int]:
        """The shards that the slots [start, stop) need in `steps` steps from `step` on, the first needed first.

        Of a lane that the slots cut, all that it needs.
        """
        cut: set[tuple[int, int]] = set()  # of which set, and which of its lanes
        for now in range(step, step + steps):
            for number, (lanes, _) in enumerate(self._dealt(now, start, stop)[1]):
                cut |= {(number, lane) for lane in np.unique(lanes).tolist()}
        before, after = self._given(step).tolist(), self._given(step + steps).tolist()
        needs = []
        for number, lane in sorted(cut):
            at = self._first_lane[number] + lane
            for place, shard in self.orders[number].needs(lane, before[at], after[at]):
                when = (place - before[at]) / (after[at] - before[at])
                needs.append((when, self._first_shard[number] + shard))
        return list(dict.fromkeys(shard for _, shard in sorted(needs, key=lambda need: need[0])))

    def _dealt(self, step: int, start: int, stop: int) -> tuple[Ints, list[tuple[Ints, Ints]]]:
        """Which set each of these slots is of; and of each set the lanes and places that fill them, in order."""
        before = self._given(step)
        counts = self._given(step + 1) - before
        turns = spread(tuple(int(counts[first:end].sum()) for first, end in pairwise(self._first_lane)))
        places = []
        for number, (first, end) in enumerate(pairwise(self._first_lane)):
            low, high = (int(np.count_nonzero(turns[:edge] == number)) for edge in (start, stop))
            places.append(_in_lanes(before[first:end], counts[first:end], np.arange(low, high)))
        return turns[start:stop], places

    def _given(self, step: int) -> Ints:
        """How many images each lane has given before `step`, set after set."""
        images = step * self.batch  # a Python integer, as all of these: the products outgrow 64 bits
        floors = np.array([images * bound // self._whole for bound in self._bounds], np.int64)
        return floors[1:] - floors[:-1]


@functools.lru_cache(maxsize=16)  # the counts of a step are one of few
def spread(counts: tuple[int, ...]) -> Ints:
    """Which set each slot of a batch is of, for so many images of each: every set evenly over the whole batch.

    In blocks one rank would read nothing but the set of large images, and a step is as slow as its slowest rank.
    Spread out, each rank reads its part of every set's lanes, as it would of one set, and finds its shards again.
    """
    middles = np.concatenate([(2 * np.arange(n) + 1) / (2 * n) for n in counts])  # equal fractions are equal floats
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(middles, kind="stable")]


def _in_lanes(before: Ints, counts: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Lane and place of the images `wanted` of a set's in a step, which its lanes give one after another."""
    ends = np.cumsum(counts)
    lane = np.searchsorted(ends, wanted, side="right")
    return lane, wanted + (before - (ends - counts))[lane]


def _check(part: Part, samples: int, images: Fraction) -> None:
    if images < 1:
        raise ShardError(
            f"{part.name}: its weight comes to {float(images):.2g} images in a batch, fewer than one; raise the "
            "weight or the batch, or leave the set out"
        )
    if images > samples:
        raise ShardError(
            f"{part.name}: its weight comes to {float(images):.1f} images in a batch, and it holds {samples}; lower "
            "the weight or the batch, or leave the set out"
        )
