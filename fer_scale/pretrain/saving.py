"""The training state, from all ranks to one portable checkpoint, while training goes on (checkpoint.py holds the form).

    begin     all ranks gather every tensor in one fixed order; the writers, among which the tensors are dealt by bytes,
              copy theirs to memory that they keep for this. That is what holds up the training
    writing   a thread of each writer writes, hashes and looks at its tensors, with no collective in it
    settle    once no rank is writing, which they learn where they agree anyway: a thread of the main rank writes
              progress and manifest, gives the folder its name, and deletes what is not kept
    settle    once that is done: the checkpoint counts

One save is under way at a time. What fails on one rank is raised on all, and the checkpoint before is whole.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fer_scale import checkpoint, saves, tensors
from fer_scale.checkpoint import NotSaved
from fer_scale.peers import by_main
from fer_scale.pretrain.begin import Begun
from fer_scale.pretrain.engine import NOT_LIVE, Engine
from fer_scale.pretrain.publishing import Publisher
from fer_scale.pretrain.recipe import Run
from fer_scale.pretrain.world import World
from shards.errors import UserError

THREAD = "saving"
_MOST_WRITERS = 16
_WORTH_A_WRITER = 256 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Saved:
    step: int
    seconds: float  # of gathering, writing and committing it; not of the steps meanwhile
    stall_s: float  # that the training waited
    bytes: int


class Saver:
    """All ranks must call the same methods at the same steps."""

    def __init__(self, engine: Engine, us: World, run: Run, begun: Begun, publisher: Publisher):
        self._engine, self._us, self._run, self._attempt = engine, us, run, begun.attempt
        self._publisher = publisher  # reads a checkpoint that is not to be pruned meanwhile
        self._writers = begun.writers[: most_writers(engine.numel)]
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._found: Any = None  # by the thread
        self._problem: Exception | None = None  # of the thread
        self._progress: dict[str, Any] | None = None  # of the save under way
        self._files: list[dict[str, Any]] | None = None  # once they are all written

    @property
    def under_way(self) -> bool:
        return self._progress is not None

    @property
    def writing(self) -> int:
        """1 while this rank has not done its part: for the ranks to agree on."""
        return int(self._thread is not None and self._thread.is_alive())

    @property
    def writing_s(self) -> float:
        """Seconds that this rank's thread has been at its part; 0 where it is done."""
        return time.monotonic() - self._since if self.writing else 0.0

    def has_room(self) -> None:
        """Refuse to begin where the disk cannot take all that will lie there at one time: `keep_checkpoints` + 1.

        And what publishing keeps from being pruned meanwhile. Not what `keep_every_steps` will have kept in the end:
        there is time to move it. `check` counts it.
        """
        most = self._run.keep_checkpoints + 1 + self._publisher.most_in_use
        by_main(self._us, lambda: saves.refuse_to_begin(self._run.out, self._size, most))

    @property
    def _size(self) -> int:
        """Bytes of a checkpoint."""
        return 4 * (2 * self._engine.numel_trained + self._engine.numel)

    def begin(self, progress: dict[str, Any]) -> None:
        """Take the state as it is now, and start to write it. `progress` holds its step."""
        assert not self.under_way, "finish the save before"
        by_main(self._us, lambda: saves.refuse_without_room(self._run.out, self._size))
        began, self._took = time.monotonic(), 0.0
        self._progress = progress | {"adam_step": self._engine.adam_step}
        self._files = self._found = self._problem = None
        place = checkpoint.folder_of(self._run.out, progress["step"])
        self._place, self._part = place, checkpoint.part_of(place, self._attempt.number)
        live = self._engine.sums_of_live_bits()
        self._refuse_unlike(live)
        mine = self._gathered()
        if self._us.rank in self._writers and not self._problem:
            number, count = self._writers.index(self._us.rank), len(self._writers)
            self._start(lambda: self._write(number, count, mine, live))
        self._stall = self._gathering = time.monotonic() - began

    def _refuse_unlike(self, live: dict[str, int]) -> None:
        """Where a machine has spoilt what its model computes with, since the ranks were last given the weights."""
        (first, wanted), *others = self._us.collect((self._us.name, live))
        for name, sums in others:
            if unlike := [weight for weight, total in wanted.items() if sums[weight] != total]:
                self._progress = None
                text = f"{unlike[0]}: {name} has other weights than {first}, so one of the two machines has a fault"
                raise NotSaved(f"{text}; nothing was saved, and the same command goes on from the checkpoint before")

    def _gathered(self) -> dict[str, Tensor]:
        """The tensors that this rank writes, on the CPU. A problem with them waits until all ranks can be told."""
        loads, on_gpu = dict.fromkeys(self._writers, 0), self._us.device.type == "cuda"
        for piece in self._engine.tensors(self._writers):
            writer = min(loads, key=loads.__getitem__) if piece.home is None else piece.home
            loads[writer] += piece.bytes  # dealt by bytes, but for what lies on one rank alone
            if piece.home not in (None, self._us.rank):
                continue
            try:
                tensor = piece.get()
            except NotSaved as problem:
                self._problem = self._problem or problem
                continue
            if writer == self._us.rank:
                self._keep(piece.name, tensor.detach(), on_gpu)
        if on_gpu:
            torch.cuda.synchronize()
        return self._buffers

    def _keep(self, name: str, tensor: Tensor, pinned: bool) -> None:
        try:
            if name not in self._buffers:
                self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._buffers[name].copy_(tensor, non_blocking=True)
        except RuntimeError as problem:  # no memory
            self._problem = self._problem or problem

    def _write(self, number: int, count: int, mine: dict[str, Tensor], live: dict[str, int]) -> dict[str, Any]:
        for name in mine.keys() & live.keys():
            if tensors.sum_of_bits(mine[name]) != live[name]:
                raise NotSaved(f"{name}: {NOT_LIVE}")
        return checkpoint.write_part(self._part, number, count, mine, self._given_up)

    def _start(self, work: Callable[[], Any]) -> None:
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._work, args=(work,), name=THREAD)
        self._thread.start()

    def _work(self, work: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            self._found = work()
        except Exception as error:
            self._problem = error
        self._took = time.monotonic() - began

    def finish(self) -> Saved | None:
        """Wait for the save under way; None where there is none."""
        saved = None
        while self.under_way:
            began = time.monotonic()
            if self._thread:
                self._thread.join()
            self._stall += time.monotonic() - began
            saved = self.settle()
        return saved

    def settle(self) -> Saved | None:
        """Go on with a save that no rank is writing at any more; what was saved, once it counts."""
        began = time.monotonic()
        self._raise_on_all()
        if self._files is None:
            told = self._us.collect((self._found, self._took))
            self._files, self._found = [line for line, _ in told if line], None
            self._wrote = max(took for _, took in told)
            if self._us.is_main:
                self._start(self._commit)
            self._stall += time.monotonic() - began
            return None
        assert self._progress is not None
        step, self._progress = self._progress["step"], None
        if not self._us.tell(self._found):
            raise self._attempt.superseded()
        stall, seconds = self._stall + time.monotonic() - began, self._gathering + self._wrote + self._took
        return Saved(step, seconds, stall, sum(f["bytes"] for f in self._files))

    def _commit(self) -> bool:
        assert self._files is not None and self._progress is not None
        may = self._attempt.is_newest
        kept = checkpoint.finish(self._part, self._place, self._files, self._progress, may)
        if kept:
            reads = self._publisher.in_use()
            checkpoint.prune(self._run.out, self._run.keep_checkpoints, self._run.keep_every_steps, reads)
        return kept

    def _raise_on_all(self) -> None:
        """Where a thread has failed, on whichever rank: nothing of this save stays."""
        problem = self._problem
        mine = saves.not_saved(self._us.name, self._part, problem) if problem else None
        if told := next(filter(None, self._us.collect(mine)), None):
            shutil.rmtree(self._part, ignore_errors=True)
            self._progress = None
            if problem and not isinstance(problem, OSError | UserError):
                raise problem  # our own bug, or no memory: not in one line
            raise told from problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """A run that fails does not wait for a save that can come to nothing."""
        self._given_up.set()
        if self._thread:
            self._thread.join()


def most_writers(numel: int) -> int:
    """How many ranks write a share each of a state of so many weights, where there are as many."""
    return max(1, min(_MOST_WRITERS, 12 * numel // _WORTH_A_WRITER))
