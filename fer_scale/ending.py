"""How a run is asked to end, how it ended, and which of its starts counts. Both loops use it.

Every start of a run claims a folder of its own; the one with the highest number is the run's, an older one that is not
dead yet (a job that was queued again before its last processes had gone) sees that and leaves:

    RUN/attempts/0007/
        claim.json           by whom and when
        rank-3.log           all that rank 3 said
        outcome.json         how it ended; missing where it was killed without a word
        first_failure.json   host, rank and traceback of the rank that was the first to fail: in what hundreds of ranks
                             say on screen it is hard to find, and most of them only miss the first

outcome.json says how, since a launcher's exit code says nothing (deepspeed answers 0, 1, 143, 247 and 255):

    {"outcome": "done" | "preempted" | "failed", "attempt": 7, "reason": ..., "step": ..., "rank": ..., "host": ...,
     "time": ..., "restart": whether the same command again may help}

RUN/outcome.json and RUN/first_failure.json are those of the newest start.
"""

import errno
import itertools
import json
import os
import secrets
import select
import shutil
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_scale import disk, stop_file
from fer_scale.starts import ask_anew, outcome_of
from shards.errors import Broken, UserError
from shards.index import INDEX

_SAME_S = 1.0  # signals of a kind within it are one: a terminal sends it to all, and a launcher passes it on
_MAIN_LOOK_S, _LOOK_S = 1, 5  # between looks for what is to end a run at once, by the main rank and by the many others
SAVE, SAVE_FOR_GOOD, LEAVE = 1, 2, 3  # what StopSignal.asked may say, beside 0; of several ranks' the greatest counts


class Preempted(Exception):
    """The run was asked to end before its last step; everything is saved. `again`: to be started again by itself."""

    def __init__(self, reason: str, step: int, *, again: bool = True):
        super().__init__(reason)
        self.reason, self.step, self.again = reason, step, again

    @property
    def way_on(self) -> str:
        return way_on(self.reason)


def way_on(reason: str) -> str:
    """What goes on with a run that was stopped for this reason."""
    return "a larger run.stop_after_steps, or none," if reason.startswith("run.stop_after") else "the same command"


class Superseded(UserError):
    """Another start has claimed the run; this one may write nothing more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of the run in `out`, on one process: its folder is another one where `out` is not the main rank's."""

    out: Path
    number: int
    nonce: str
    folder: Path

    def is_newest(self) -> bool:
        """Whether no later start has claimed the run.

        The folder is listed, since a network file system may go on saying for a minute that a name is not there.
        """
        try:
            return max(_numbers(f"{self.out}/attempts"), default=0) <= self.number
        except OSError:
            return True

    def seems_newest(self) -> bool:
        """The same, quick enough for every step: there, a later start is seen so late. Numbers follow one another."""
        return not os.path.exists(f"{self.out}/attempts/{self.number + 1:04d}")

    def superseded(self) -> Superseded:
        return Superseded(
            f"{self.out}: start {self.number + 1} of this run has begun; this one, number {self.number}, ends and "
            "writes nothing more"
        )

    def record(self, outcome: str, rank: int, **facts: Any) -> bool:
        """Write down how it ended. Whether this rank was the first to say so.

        A full disk must not hide the error that is being reported.
        """
        host, now = socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"outcome": outcome, "attempt": self.number} | facts | {"rank": rank, "host": host, "time": now}
        return self._keep("outcome.json", facts)

    def keep_traceback(self, rank: int, told: str) -> bool:
        """Write down what this rank failed of. Whether it was the first to fail."""
        return self._keep("first_failure.json", {"rank": rank, "host": socket.gethostname(), "traceback": told})

    def _keep(self, name: str, facts: dict[str, Any]) -> bool:
        line = json.dumps(facts) + "\n"
        try:
            _write_first(self.folder / name, line)
        except FileExistsError:
            return False
        except OSError:
            return True
        if self.is_newest():
            with suppress(OSError):
                disk.put(self.out / name, line, alone=False)  # a later start may end just now
        return True


def _write_first(file: Path, text: str) -> None:
    """FileExistsError where another was first: a mark says so, since on a full disk there is room for that alone.

    The file itself is whole or absent.
    """
    os.close(os.open(file.with_name(f".{file.name}.first"), os.O_CREAT | os.O_EXCL))
    disk.put(file, text)


def claim(out: Path) -> Attempt:
    """Make a new start of the run the one that counts. The main rank calls it, before all; UserError if it cannot."""
    where = out
    if (out / INDEX).exists():
        raise UserError(f"run.out: {out}: holds a shard set; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        stop_file.heed(out / "stop")
        (where := out / "attempts").mkdir(exist_ok=True)
        for number in itertools.count(max(_numbers(where), default=0) + 1):
            with suppress(FileExistsError):  # two starts at one time
                (folder := where / f"{number:04d}").mkdir()
                break
        nonce = secrets.token_hex(8)
        facts = {"attempt": number, "host": socket.gethostname(), "pid": os.getpid(), "nonce": nonce}
        facts |= {"time": datetime.now(UTC).isoformat(timespec="seconds")} | this_process()
        try:
            (folder / "claim.json").write_text(json.dumps(facts) + "\n")
        except OSError:  # it would look like a start that was killed
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for name in ("outcome.json", "first_failure.json"):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        todo = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give another folder"
        raise UserError(f"run.out: {where}: {error.strerror}; {todo}") from None
    return Attempt(out, number, nonce, folder)


def _numbers(attempts: Path | str) -> list[int]:
    return [int(name) for name in os.listdir(attempts) if name.isdecimal()]


def this_process() -> dict[str, Any]:
    """What tells it from others of its id: the machine and the namespace that count ids, and when it began, in ticks.

    Hosts and containers may share a name, and ids are given away again. Empty where there is no /proc.
    """
    try:
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "began": int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]),
        }
    except OSError:
        return {}


@contextmanager
def recorded(attempt: Attempt, rank: int, log: Path | None = None) -> Iterator[None]:
    """Write down how what runs inside ends.

    Of several ranks that fail, the first speaks; the others are silent, but for `log`, a file of their own.
    """
    try:
        yield
    except Preempted as stopped:
        if rank == 0:
            attempt.record("preempted", rank, step=stopped.step, reason=stopped.reason, restart=stopped.again)
        raise
    except BaseException as error:
        told = "".join(traceback.format_exception(error))
        if not attempt.keep_traceback(rank, told):
            if log:
                _add(told, log)
            raise SystemExit(1) from error
        again = isinstance(error, Broken) or not isinstance(error, UserError | KeyboardInterrupt)
        attempt.record("failed", rank, reason=f"{type(error).__name__}: {error}", restart=again)
        raise
    if rank == 0:
        attempt.record("done", rank, restart=False)


def _add(text: str, file: Path) -> None:
    with suppress(OSError), file.open("a") as out:
        out.write(text)


class StopSignal:
    """Whether this rank was asked to stop: by a signal, the file RUN/stop, the clock of rank 0, or a later start.

    Signals are heard inside `with`; what comes after training is not to be stopped by a flag that nobody looks at.
    """

    def __init__(self, attempt: Attempt, *, max_hours: float | None, rank: int):
        self.reason = "another rank was asked to stop"
        self.attempt, self._set, self._rank = attempt, 0, rank
        self._file, self._began = attempt.out / "stop", time.monotonic()
        self._seconds = max_hours * 3600 if max_hours else None

    def __enter__(self) -> None:
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._heard) for number in signals}
        # Python's handlers wait until a collective in C++ has returned; this pipe is written to at once.
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reading, frozenset(signals)), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writing)

    def _heard(self, number: int, _: Any) -> None:
        """Only a flag: saving needs all ranks, and they meet at the end of the step."""
        self._set, self.reason = SAVE, f"signal {signal.Signals(number).name}"

    def _listen(self, pipe: int, asking: frozenset[int]) -> None:
        """End at once when a signal comes a second time: who sends it does not want to wait for the save."""
        first: dict[int, float] = {}
        readable = select.poll()
        readable.register(pipe, select.POLLIN)
        with os.fdopen(pipe, "rb", buffering=0) as heard:
            while True:
                if not readable.poll(1000 * (_LOOK_S if self._rank else _MAIN_LOOK_S)):
                    self._look()
                elif not (said := heard.read(1)):
                    return
                elif (number := said[0]) in asking:
                    now = time.monotonic()
                    if now - first.setdefault(number, now) > _SAME_S:
                        self._end(number, f"signal {signal.Signals(number).name}")

    def _look(self) -> None:
        """The same without a signal: a supervisor says so to the main rank in RUN/stop, its outcome to the others."""
        if self._rank == 0:
            ask_anew(self.attempt.out)
            self._heed(stop_file.word(self._file))
        elif "at_once" in (outcome_of(self.attempt.folder) or {}):  # else they would wait for it, or one another
            os._exit(128 + signal.SIGTERM)

    def _heed(self, word: dict[str, Any]) -> None:
        if "at_once" in word:
            with suppress(OSError):
                self._file.unlink()
            self._end(signal.SIGTERM, f"{word['why']} on {word['host']}")

    def _end(self, number: int, why: str) -> None:
        reason = f"{why} for the second time; not saved"
        self.attempt.record("failed", self._rank, reason=reason, restart=True, at_once=True)
        os._exit(128 + number)

    def preempted(self, step: int, agreed: int = 0) -> Preempted:
        """What ends the loop; `agreed`: what `asked` said of all ranks.

        A host with another run.out than the main rank's finds it in a folder of its own.
        """
        if self._rank == 0 and self._set == SAVE and os.path.exists(self._file) and not stop_file.word(self._file):
            self._take()  # a person's, who came after the signal
        again = max(agreed, self._set) != SAVE_FOR_GOOD
        if self.attempt.folder.suffix:
            self.attempt.record("preempted", self._rank, step=step, reason=self.reason, restart=again)
        return Preempted(self.reason, step, again=again)

    def asked(self) -> int:
        """0, SAVE (and end), SAVE_FOR_GOOD, or LEAVE without writing anything, as a later start has the run."""
        if self._rank == 0 and self._set < LEAVE:
            if not self.attempt.seems_newest():
                self._set = LEAVE
            elif not self._set and os.path.exists(self._file):
                self._take()
            elif not self._set and self._seconds is not None and time.monotonic() - self._began > self._seconds:
                self._set, self.reason = SAVE, "run.max_hours"
        return self._set

    def _take(self) -> None:
        """Read RUN/stop, and remove it: it has done its work."""
        word = stop_file.word(self._file)
        self._heed(word)
        self._set = SAVE if word else SAVE_FOR_GOOD
        self.reason = f"{word['why']} on {word['host']}" if word else f"file {self._file}"
        with suppress(OSError):
            self._file.unlink()
