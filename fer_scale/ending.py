"""How a run is asked to end, and how it ended. Both loops use it.

RUN/outcome.json says how, since a launcher's exit code says nothing (deepspeed answers 0, 1, 143, 247 and 255):

    {"outcome": "done" | "preempted" | "failed", "step": ..., "reason": ..., "rank": ..., "host": ..., "time": ...}

RUN/first_failure.json names the host and rank that were the first to fail, with the traceback: in what hundreds of
ranks say on screen it is hard to find, and most of them only miss the first.

RUN/logs/attempt-K/rank-N.log holds all that rank N said, and its own traceback, in the K-th start of the run. Those of
earlier starts stay: they are small.
"""

import itertools
import json
import signal
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Preempted(Exception):
    """The run was asked to end before its last step; everything is saved."""

    def __init__(self, reason: str, step: int):
        super().__init__(reason)
        self.reason, self.step = reason, step


class StopSignal:
    """Whether this rank was asked to stop: by a signal, by the file RUN/stop, or by the clock of rank 0.

    Signals are heard inside `with`; what comes after training is not to be stopped by a flag that nobody looks at.
    """

    def __init__(self, out: Path, *, max_hours: float | None, rank: int):
        self.reason = "another rank was asked to stop"
        self._set, self._main = False, rank == 0
        self._file, self._began = out / "stop", time.monotonic()
        self._seconds = max_hours * 3600 if max_hours else None

    def __enter__(self) -> None:
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._heard) for number in signals}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _: Any) -> None:
        """Only a flag: saving needs all ranks, and they meet at the end of the step."""
        self._set, self.reason = True, f"signal {signal.Signals(number).name}"

    def asked(self) -> bool:
        if self._main and not self._set:
            if self._file.exists():
                self._set, self.reason = True, f"file {self._file}"
                self._file.unlink()
            elif self._seconds is not None and time.monotonic() - self._began > self._seconds:
                self._set, self.reason = True, "run.max_hours"
        return self._set


def claim(out: Path) -> str:
    """Make the run's folder ready for a new outcome; what is in the way, or "". The main rank calls it, before all."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("outcome.json", "first_failure.json"):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        return f"run.out: {out}: {error.strerror}; give another folder"
    return ""


def attempt(out: Path) -> Path | str:
    """Claim the run's folder, and make one in it for this start's logs, or say what is in the way. The main rank."""
    if problem := claim(out):
        return problem
    try:
        (out / "logs").mkdir(exist_ok=True)
        taken = [int(p.name[8:]) for p in (out / "logs").glob("attempt-*") if p.name[8:].isdecimal()]
        for number in itertools.count(max(taken, default=0) + 1):
            with suppress(FileExistsError):  # two starts at one time
                (place := out / "logs" / f"attempt-{number}").mkdir()
                break
    except OSError as error:
        return f"run.out: {out / 'logs'}: {error.strerror}; give another folder"
    return place


@contextmanager
def recorded(out: Path, rank: int, log: Path | None = None) -> Iterator[None]:
    """Write down how what runs inside ends.

    Of several ranks that fail, the first speaks; the others are silent, but for `log`, a file of their own.
    """
    file = out / "outcome.json"
    try:
        yield
    except Preempted as stopped:
        if rank == 0:
            _write(file, outcome="preempted", step=stopped.step, reason=stopped.reason, rank=rank)
        raise
    except BaseException as error:
        told = "".join(traceback.format_exception(error))
        if not _write(out / "first_failure.json", rank=rank, traceback=told):
            if log:
                _add(told, log)
            raise SystemExit(1) from error
        _write(file, outcome="failed", reason=f"{type(error).__name__}: {error}", rank=rank)
        raise
    if rank == 0:
        _write(file, outcome="done", rank=rank)


def _add(text: str, file: Path) -> None:
    with suppress(OSError), file.open("a") as out:
        out.write(text)


def _write(file: Path, **facts: Any) -> bool:
    """Whether this rank was the first to say it. A full disk must not hide the error that is being reported."""
    facts |= {"host": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with file.open("x") as out:
            out.write(json.dumps(facts) + "\n")
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
