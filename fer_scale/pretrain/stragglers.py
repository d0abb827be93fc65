"""Which rank is slow, and in what: in a run whose ranks step together all of them look equally slow.

So each is judged by what it does without the others, summed over WINDOW steps and gathered in one small collective:

forward       of the model; by CUDA's events on a GPU, so that nothing waits for it. Not at ZeRO stage 3, where weights
              come from the others meanwhile: there the augmentation stands for how fast a device is
augmentation  of the images into views, on the device, with what is copied for it
data wait     for readers; without the longest one of the window, since a single one makes no slow rank
copy          of what was read to a GPU, as far as the rank waits for it: it is made a step ahead

Backward is left out, since gradients are exchanged in it.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median_high
from typing import TypeVar

import torch

from fer_scale.pretrain.world import World

KINDS = ("forward", "augmentation", "data wait", "copy")
WINDOW = 25  # steps: a rank that becomes slow is named within two of them
# Times the median of the others: named from the first on, forgotten below the second. Shares of a batch differ by one
# image, which is less from three images a rank on.
_NAMED, _STILL = 1.4, 1.2
_LOST = 0.05  # of the time, at least: what costs less is not worth a line
_LOST_S = 0.1  # in a window, at least: less may be chance, another process for a moment

T = TypeVar("T")
Known = tuple[int, str]  # a rank, and in what it is slow


@dataclass(frozen=True, slots=True)
class Slow:
    rank: int
    what: str
    ratio: float  # to the median of the others, 100 at most
    lost: float  # share of the step's time that all would save if it were as fast as they


def judge(spent: list[list[float]], seconds: float, known: Set[Known] = frozenset()) -> list[Slow]:
    """The slow ones of ranks that have spent `spent[rank][kind]` seconds by themselves, of `seconds` in all."""
    found = []
    for rank, mine in enumerate(spent):
        others = [row for at, row in enumerate(spent) if at != rank] or [mine]
        for number, what in enumerate(KINDS):
            usual = median_high(row[number] for row in others)
            lost, times = mine[number] - usual, _STILL if (rank, what) in known else _NAMED
            if lost > max(_LOST * seconds, _LOST_S) and mine[number] >= times * usual:
                ratio = mine[number] / max(usual, mine[number] / 100)
                found.append(Slow(rank, what, round(ratio, 2), round(lost / seconds, 3)))
    return found


class Spent:
    """Seconds that this rank's device works by itself, by kind."""

    def __init__(self, on_gpu: bool):
        self._on_gpu, self._seconds = on_gpu, defaultdict[str, float](float)
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """What lies inside is of this kind. On a GPU two marks are left in its stream, and nothing waits."""
        if self._on_gpu:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._marks.append((kind, begin, end))
        else:
            with self.waiting(kind):
                yield

    @contextmanager
    def waiting(self, kind: str) -> Iterator[None]:
        """The same by this process's clock: it waits for what lies inside."""
        began = time.perf_counter()
        yield
        self._seconds[kind] += time.perf_counter() - began

    def making(self, kind: str, items: Iterator[T]) -> Iterator[T]:
        """The items; to make one is of this kind."""
        while True:
            with self.on(kind):
                item = next(items, None)
            if item is None:
                return
            yield item

    def take(self) -> dict[str, float]:
        """The sums since the last time. The GPU must have passed the marks, as it has where ranks have agreed since."""
        for kind, begin, end in self._marks:
            self._seconds[kind] += begin.elapsed_time(end) / 1000
        taken, self._seconds, self._marks = self._seconds, defaultdict(float), []
        return taken


class Stragglers:
    """Who is slow, from step to step; all ranks must call `after` together."""

    def __init__(self, us: World, spent: Spent, stage: int):
        self._us, self._spent, self._stage = us, spent, stage
        self._known: set[Known] = set()
        self._steps = -1  # a process's first step is left out: it compiles
        self._begin()

    def _begin(self) -> None:
        self._waited = self._longest = self._seconds = 0.0

    def after(self, waited: float, seconds: float) -> list[tuple[Slow, str]]:
        """Who was found slow after this step, with its host; the step took so many seconds, `waited` for images."""
        self._steps += 1
        self._waited, self._longest = self._waited + waited, max(self._longest, waited)
        self._seconds += seconds
        if self._steps == 0:
            self._spent.take()
            self._begin()
        if self._steps < WINDOW:
            return []
        self._steps = 0
        slow = judge(*self._gathered(), self._known)
        new = [one for one in slow if (one.rank, one.what) not in self._known]
        self._known = {(one.rank, one.what) for one in slow}
        return [(one, self._us.tell(self._us.host, of=one.rank)) for one in new]

    def _gathered(self) -> tuple[list[list[float]], float]:
        """What each rank has spent since the last time, by kind, and the longest that one was at it."""
        spent = self._spent.take()
        forward = spent["forward"] if self._stage < 3 else 0.0
        table = torch.zeros(self._us.ranks, len(KINDS) + 1, device=self._us.device)
        waited = max(0.0, self._waited - self._longest - spent["copy"])
        own = (forward, spent["views"], waited, spent["copy"], self._seconds)
        table[self._us.rank] = torch.tensor(own)
        self._us.add_up(table)
        self._begin()
        rows = table.tolist()
        return [row[:-1] for row in rows], max(row[-1] for row in rows)
