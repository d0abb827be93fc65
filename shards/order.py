"""Who reads what, in which order, and how many steps there are: pure functions of (seed, step).

    epoch's shards, permuted:   | 7 | 2 | 5 | 0 | ...        one stream of N samples, begun at a seeded place
    cut into C equal lanes:     |--lane 0--|--lane 1--| ...   L = N // C positions each, fewer than C left out
    inside a lane, windows:     |w0|--w1--|--w2--|            whole shards, permuted by sample; w0 is one shard

Each lane is an endless stream: step s takes its positions q in [s * per, (s + 1) * per), per = batch / C;
q // L is the epoch, q % L the position in it. So batches cross the end of an epoch, a resume is a seek, and
the number of ranks and readers appears nowhere. What is random about a sample (crop, flip, mask) hangs on
its key, the hash of (seed, epoch, lane, position): another batch size that has as many lanes (any two multiples of
64) leaves every sample's draws alone.

All randomness is counter-based hashing of our own (splitmix64; Steele, Lea, Flood 2014), not numpy's
generators, whose streams may change between versions. tests/shards/test_order.py freezes it.

Letters: N samples, C lanes, L samples of a lane in an epoch.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from shards.errors import ShardError

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

LANES = 64  # of an order at most, if nothing else is said
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: splitmix64's increment
_MASK = (1 << 64) - 1
_DEAL, _START, _WINDOW, _SEGMENTS = 1, 2, 3, 4  # what a key is for; sample keys have four parts, these others


def mix(x: Keys) -> Keys:
    """The finaliser of splitmix64: a bijection of 64 bits in which each bit of `x` moves every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def absorb(keys: Keys, part: Keys) -> Keys:
    """The keys that follow from `keys` and one more part; arrays broadcast."""
    return mix((keys ^ part) + np.uint64(_GOLDEN))


def key(*parts: int) -> int:
    """The 64-bit hash of a tuple of integers (taken modulo 2**64); the order of the parts counts."""
    state = np.full(1, _GOLDEN, np.uint64)
    for part in parts:
        state = absorb(state, np.full(1, part & _MASK, np.uint64))
    return int(state[0])


def bits(keys: Keys, stream: int, n: int) -> Keys:
    """`n` random 64-bit numbers for each of B keys, [B, n]; another `stream` gives independent ones."""
    counter = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return mix(absorb(keys, np.full(1, stream & _MASK, np.uint64))[:, None] + counter)


def uniform(keys: Keys, stream: int, n: int) -> npt.NDArray[np.float64]:
    """`n` random numbers in [0, 1) for each of B keys, [B, n], with 53 bits each."""
    return (bits(keys, stream, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: int, n: int) -> Ints:
    """A random order of 0 .. n-1, a function of `key` alone."""
    return np.argsort(bits(np.full(1, key, np.uint64), 0, n)[0], kind="stable")


def share(rank: int, ranks: int, batch: int) -> range:
    """The slots of a global batch that `rank` of `ranks` takes; over all ranks each slot once."""
    return range(rank * batch // ranks, (rank + 1) * batch // ranks)


@dataclass(frozen=True, slots=True)
class Slots:
    """What fills some slots of a global batch; every array has one value a slot."""

    shard: Ints
    row: Ints  # in the shard
    epoch: Ints
    lane: Ints
    position: Ints  # in the lane, in the epoch: 0 .. L-1
    key: Keys  # all draws of this sample derive from it


@dataclass(frozen=True, slots=True)
class _Segments:
    """A run of samples, as pieces of shards: piece i is rows [first[i], first[i] + count) of shard[i]."""

    shard: Ints
    first: Ints
    ends: Ints  # cumulative counts

    def cut(self, start: int, stop: int) -> "_Segments":
        """The pieces of the samples [start, stop) of the run."""
        begins = np.concatenate([[0], self.ends[:-1]])
        low, high = np.maximum(begins, start), np.minimum(self.ends, stop)
        kept = low < high
        return _Segments(
            self.shard[kept], (self.first + low - begins)[kept], np.cumsum((high - low)[kept], dtype=np.int64)
        )

    def reordered(self, order: Ints) -> "_Segments":
        """The same pieces in another order."""
        counts = np.diff(self.ends, prepend=0)
        return _Segments(self.shard[order], self.first[order], np.cumsum(counts[order], dtype=np.int64))

    def at(self, places: Ints) -> tuple[Ints, Ints]:
        """Shard and row of the samples at `places` of the run."""
        piece = np.searchsorted(self.ends, places, side="right")
        begins = np.concatenate([[0], self.ends[:-1]])
        return self.shard[piece], self.first[piece] + places - begins[piece]


@dataclass(frozen=True, slots=True)
class _Window:
    """Samples [start, stop) of a lane in an epoch, already in the order in which they are read."""

    epoch: int
    start: int
    stop: int
    shard: Ints
    row: Ints


class Order:
    """The order in which the samples of a shard set are read, for ever."""

    def __init__(
        self,
        counts: list[int],
        *,
        seed: int,
        batch: int,
        lanes: int = LANES,
        window_shards: int = 1,
        lanes_fixed: bool = False,
    ) -> None:
        """Plan the order over shards of `counts` samples, for global batches of `batch` images.

        `lanes` is the most lanes there may be; there are as many as divide the batch and as the set can fill.
        `window_shards` shards are permuted together (the first window of a lane is one shard, for a quick
        start). `lanes_fixed` deals the shards to the lanes once for all epochs, so that a node that reads the
        same lanes finds its shards in its cache again; inside a lane all is permuted all the same.
        """
        self._counts = np.asarray(counts, np.int64)
        samples = int(self._counts.sum())
        if samples < 1:
            raise ShardError("the shard set holds no samples: there is nothing to read in any order")
        if batch < 1 or lanes < 1 or window_shards < 1:
            raise ShardError(f"batch ({batch}), lanes ({lanes}) and window_shards ({window_shards}) must be at least 1")
        self.seed, self.batch = seed, batch
        self.lanes = next(c for c in range(min(lanes, batch, samples), 0, -1) if batch % c == 0)
        self.lane_length = samples // self.lanes
        self.samples_per_epoch = self.lane_length * self.lanes
        self._window_shards, self._fixed = window_shards, lanes_fixed
        self._streams: dict[int, _Segments] = {}  # by epoch, the two latest
        self._lanes: dict[int, tuple[int, _Segments]] = {}  # by lane: epoch, pieces
        self._windows: dict[int, _Window] = {}  # by lane, the latest

    def steps(self, epochs: float) -> int:
        """How many whole steps fit into `epochs` (which may be a fraction) epochs."""
        return int(Fraction(str(epochs)) * self.samples_per_epoch // self.batch)

    def epochs(self, steps: int) -> list[float]:
        """How many epochs so many steps are; in a list, for a mixture of sets has several (mix.py)."""
        return [steps * self.batch / self.samples_per_epoch]

    def slots(self, step: int, start: int, stop: int) -> Slots:
        """What fills the slots [start, stop) of the global batch of `step`; lane after lane."""
        per_lane = self.batch // self.lanes
        slot = np.arange(start, stop, dtype=np.int64)
        return self.at(slot // per_lane, slot % per_lane + step * per_lane)

    def at(self, lane: Ints, place: Ints) -> Slots:
        """The samples at these places of the lanes' endless streams; lane after lane, places without a gap."""
        epoch, position = place // self.lane_length, place % self.lane_length
        shard, row = np.empty_like(place), np.empty_like(place)
        done = 0
        while done < len(place):
            window = self._window(int(lane[done]), int(epoch[done]), int(position[done]))
            begin = int(position[done]) - window.start
            lane_stop = int(np.searchsorted(lane, lane[done], side="right"))
            n = min(lane_stop, done + window.stop - int(position[done])) - done
            shard[done : done + n] = window.shard[begin : begin + n]
            row[done : done + n] = window.row[begin : begin + n]
            done += n
        return Slots(shard, row, epoch, lane, position, self._keys(epoch, lane, position))

    def _keys(self, epoch: Ints, lane: Ints, position: Ints) -> Keys:
        """key(seed, epoch, lane, position) of each slot."""
        keys = np.full(1, key(self.seed), np.uint64)
        for part in (epoch, lane, position):
            keys = absorb(keys, part.astype(np.uint64))
        return keys

    def _window(self, lane: int, epoch: int, position: int) -> _Window:
        """The window of a lane that holds `position`; the lane's latest one is kept."""
        window = self._windows.get(lane)
        if window is None or window.epoch != epoch or not window.start <= position < window.stop:
            window = self._windows[lane] = self._open(lane, epoch, position)
        return window

    def _open(self, lane: int, epoch: int, position: int) -> _Window:
        pieces = self._lane(lane, epoch)
        piece = int(np.searchsorted(pieces.ends, position, side="right"))
        number = (piece + self._window_shards - 1) // self._window_shards  # window 0 is piece 0 alone
        last = number * self._window_shards  # the number of its last piece, were the lane long enough
        first = max(0, last - self._window_shards + 1)
        start = int(pieces.ends[first - 1]) if first else 0
        stop = int(pieces.ends[min(last, len(pieces.ends) - 1)])
        order = permutation(key(self.seed, _WINDOW, epoch, lane, number), stop - start)
        shard, row = pieces.at(start + order)
        return _Window(epoch, start, stop, shard, row)

    def _lane(self, lane: int, epoch: int) -> _Segments:
        """The pieces of shards that a lane reads in an epoch, in order."""
        kept = self._lanes.get(lane)
        if kept is not None and kept[0] == epoch:
            return kept[1]
        pieces = self._stream(epoch).cut(lane * self.lane_length, (lane + 1) * self.lane_length)
        if self._fixed:
            order = permutation(key(self.seed, _SEGMENTS, epoch, lane, 0), len(pieces.ends))
            pieces = pieces.reordered(order)
        self._lanes[lane] = (epoch, pieces)
        return pieces

    def _stream(self, epoch: int) -> _Segments:
        """All N samples in an epoch's order of shards, as pieces of shards.

        The stream begins at a seeded sample and ends where it began. Without this, what is left out behind
        the last lane would be the same in every epoch of a set of one shard. With fixed lanes the beginning
        moves by fewer than C samples, so that lanes keep their shards.
        """
        if epoch in self._streams:
            return self._streams[epoch]
        deal = 0 if self._fixed else epoch
        shards = permutation(key(self.seed, _DEAL, deal), len(self._counts))
        samples = int(self._counts.sum())
        start = key(self.seed, _START, deal) % samples
        if self._fixed:
            start = (start + key(self.seed, _START, epoch, 0) % self.lanes) % samples
        ring = _Segments(shards, np.zeros_like(shards), np.cumsum(self._counts[shards], dtype=np.int64))
        head, tail = ring.cut(start, samples), ring.cut(0, start)
        ends = np.concatenate([head.ends, tail.ends + (samples - start)])
        stream = _Segments(np.concatenate([head.shard, tail.shard]), np.concatenate([head.first, tail.first]), ends)
        self._streams = {e: s for e, s in self._streams.items() if e == epoch - 1} | {epoch: stream}
        return stream

    def upcoming(self, step: int, steps: int, start: int, stop: int) -> list[int]:
        """The shards that the slots [start, stop) need in `steps` steps from `step` on, the first needed first.

        Of a lane that the slots cut, all that it needs.
        """
        per_lane = self.batch // self.lanes
        lanes = range(start // per_lane, -(-stop // per_lane))
        needs = [need for lane in lanes for need in self.needs(lane, step * per_lane, (step + steps) * per_lane)]
        return list(dict.fromkeys(shard for _, shard in sorted(needs, key=lambda need: need[0])))

    def needs(self, lane: int, first: int, last: int) -> list[tuple[int, int]]:
        """The shards behind the places [first, last) of a lane: (the place from which it may be needed, shard).

        All shards of a window are needed from its beginning on.
        """
        found: list[tuple[int, int]] = []
        for epoch in range(first // self.lane_length, (last - 1) // self.lane_length + 1):
            pieces = self._lane(lane, epoch)
            end = np.arange(len(pieces.ends)) + self._window_shards - 1  # the last piece of each piece's window
            end -= end % self._window_shards
            begins = np.concatenate([[0], pieces.ends[:-1]])[np.maximum(end - self._window_shards + 1, 0)]
            begins += epoch * self.lane_length
            ends = pieces.ends[np.minimum(end, len(pieces.ends) - 1)] + epoch * self.lane_length
            kept = (begins < last) & (ends > first)
            found += zip(np.maximum(begins, first)[kept].tolist(), pieces.shard[kept].tolist(), strict=True)
        return found
