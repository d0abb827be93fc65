"""The end of a run that hangs: each rank has a thread that sees when a phase lasts longer than `run.hang_seconds` says.

It writes down what all threads of the rank and of its readers were doing, RUN/attempts/NNNN/rank-3.stacks and
rank-3.reader-0.stacks, gives the other ranks the time to do the same, looks who did and what they said, and ends the
process with 75, so that the same command is started again. The first rank to say so writes outcome.json.

The thread cannot run while some call keeps Python's lock. So it winds up another one again and again, which is
faulthandler's and needs no lock: if it is not wound up for 1.5 times the limit, the stacks go to stderr, which is the
rank's log and on no file system that may hang, and the process ends with 1; faulthandler knows no other code.

A beat is one assignment. Time is that of the machine: a job that was suspended for longer than the limit has hung.
"""

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from fer_scale import readers
from fer_scale.pretrain import hangs, saving
from fer_scale.pretrain.begin import Begun
from fer_scale.pretrain.hangs import Report
from fer_scale.pretrain.limits import BEYOND
from fer_scale.pretrain.saving import Saver
from fer_scale.pretrain.world import World

# For the other ranks to say what they do, at most; they stepped together, so it is the same moment. Each rank looks
# only once, and not all at one time: a network file system goes on saying what it said the first time.
_OTHERS_S = 10.0
_STDERR = 2


class _Now(NamedTuple):
    phase: str
    step: int
    since: float  # time.monotonic()


@contextmanager
def _then_gone() -> Iterator[None]:
    try:
        yield
    except Exception:
        os.write(_STDERR, traceback.format_exc().encode())
    finally:
        readers.kill()
        os._exit(os.EX_TEMPFAIL)


class Watchdog:
    """Inside `with`, a phase that lasts longer than its limit ends the process. It begins in the phase `start`."""

    def __init__(self, limits: dict[str, float], us: World, begun: Begun):
        self._limits, self._us, self._attempt, self._log = limits, us, begun.attempt, begun.log
        together = begun.writers if us.rank in begun.writers else [us.rank]  # ranks whose stacks are in one folder
        self._names = {rank: begun.names[rank] for rank in together}
        self._now = _Now("start", 0, time.monotonic())
        self._beats = False  # whether it has
        self._changed, self._over = threading.Event(), False
        self.saver: Saver | None = None  # whose thread writes beside the steps, for as long as `save` allows
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        us.record_flight(self._nccl)

    @property
    def _nccl(self) -> Path:
        return self._attempt.folder / "nccl-rank-"

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._changed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def beat(self, step: int) -> None:
        """A step begins: the first one of this process is the phase `compile`, all others are `step`."""
        self._enter("step" if self._beats else "compile", step)
        self._beats = True

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What lies inside is the phase `name`; after it the one before begins again."""
        before = self._now
        self._enter(name, before.step)
        try:
            yield
        finally:
            self._enter(before.phase, before.step)

    def _enter(self, phase: str, step: int) -> None:
        before, self._now = self._now, _Now(phase, step, time.monotonic())
        if phase != before.phase:
            self._wind_up()  # here too: the thread may come too late, if Python's lock is taken now
            self._changed.set()

    def _watch(self) -> None:
        while True:
            self._changed.clear()  # before anything is looked at: what changes from here on wakes the wait below
            if self._over:
                return
            now = self._now
            limit = self._limits[now.phase]
            left = now.since + limit - time.monotonic()
            if self.saver and (wrote_s := self.saver.writing_s) > self._limits["save"]:
                self._end_save(_Now("save", now.step, time.monotonic() - wrote_s))
            if left <= 0:
                self._end(now, limit)
            self._wind_up()
            self._changed.wait(min(left, limit / 8, self._limits["save"] / 8))

    def _wind_up(self) -> None:
        faulthandler.dump_traceback_later(BEYOND * self._limits[self._now.phase], exit=True, file=_STDERR)

    def _end(self, now: _Now, limit: float) -> None:
        """Say what hangs, and end. Whatever fails or hangs meanwhile, the process is gone at 1.5 times the limit."""
        with _then_gone():
            mine = self._report(now, threading.main_thread().name)
            with suppress(OSError):  # a full disk must not hide the hang
                self._keep_stacks(mine)
            time.sleep(min(_OTHERS_S, limit / 4) * (1 + self._us.rank / self._us.ranks) / 2)
            self._say(mine, limit)
            if record := self._us.flight():  # last: it asks the GPU, which may not answer
                Path(f"{self._nccl}{self._us.rank}").write_bytes(record)

    def _end_save(self, now: _Now) -> None:
        """The same of the thread that writes a checkpoint beside the steps, which go on.

        It is said before a file is written: what hangs may be the disk that the run's folder lies on.
        """
        threading.Timer(_OTHERS_S, os._exit, (os.EX_TEMPFAIL,)).start()
        with _then_gone():
            mine = self._report(now, saving.THREAD)
            reason = (
                f"hung after step {now.step}: {self._us.name} has been writing to {self._attempt.out}/checkpoints for "
                f"more than {self._limits['save']:g} s (run.hang_seconds, save), {mine.doing} {mine.place}"
            )
            os.write(_STDERR, f"fer-scale pretrain: {reason}\n".encode())
            self._attempt.record("failed", mine.rank, step=now.step, reason=reason, restart=True)
            self._keep_stacks(mine)

    def _report(self, now: _Now, thread: str) -> Report:
        lasted = round(time.monotonic() - now.since, 1)
        ident = next((one.ident or 0 for one in threading.enumerate() if one.name == thread), 0)
        frame = sys._current_frames().get(ident)  # none where it has ended in this moment
        doing, place = hangs.doing(frame) if frame else ("ending", "")
        return Report(self._us.rank, self._us.host, os.getpid(), now.phase, now.step, lasted, doing, place)

    def _keep_stacks(self, mine: Report) -> None:
        kept = self._stacks(mine.rank)
        with (part := kept.with_name(f".{kept.name}")).open("w") as file:
            file.write(json.dumps(asdict(mine)) + "\n")
            file.flush()
            faulthandler.dump_traceback(file)
        os.replace(part, kept)  # whole, or not there: others look for it
        for number, (facts, stacks) in enumerate(readers.stacks()):
            facts = {"rank": mine.rank, "reader": number, "host": mine.host} | facts
            kept.with_suffix(f".reader-{number}.stacks").write_text(json.dumps(facts) + "\n" + stacks)

    def _stacks(self, rank: int) -> Path:
        return self._attempt.folder / f"rank-{rank:0{len(str(self._us.ranks - 1))}}.stacks"

    def _say(self, mine: Report, limit: float) -> None:
        """Once on the screen, and in the log of every rank."""
        folder = self._attempt.folder
        whose = f"{folder}/outcome.json says whose hang it is"
        if first := not (folder / "outcome.json").exists():  # of thousands of ranks, few shall read what all have said
            whose = hangs.blame([mine, *self._others()], self._names)
        after = f" after step {mine.step}" if self._beats else ""
        reason = f"hung{after}: phase {mine.phase} took longer than {limit:g} s (run.hang_seconds): {whose}"
        first = first and self._attempt.record("failed", mine.rank, step=mine.step, reason=reason, restart=True)
        said = f"fer-scale pretrain: {reason}\nwhat all threads were doing: {folder}/rank-*.stacks\n"
        if first:
            os.write(_STDERR, said.encode())  # not by log.say, whose lock the thread that hangs may have
        else:
            with self._log.open("a") as file:
                file.write(said)

    def _others(self) -> Iterator[Report]:
        for rank in self._names.keys() - {self._us.rank}:
            with suppress(OSError, ValueError, TypeError), self._stacks(rank).open() as file:
                yield Report(**json.loads(file.readline()))
