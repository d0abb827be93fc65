"""How a run is asked to end, and how it ended: RUN/outcome.json.

{"outcome": "done" | "preempted" | "failed", "step": ..., "reason": ..., "host": ..., "time": ...}
"""

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.steps import Processes
from shards.errors import UserError


class Preempted(Exception):
    """The run was asked to end before its last step; everything is saved."""

    def __init__(self, reason: str, step: int):
        super().__init__(reason)
        self.reason, self.step = reason, step


class StopSignal:
    """Whether this process was asked to stop: by a signal, by the file RUN/stop, or by the clock of process 0."""

    def __init__(self, recipe: Finetune, here: Processes):
        self.reason = "another process was asked to stop"
        self._set, self._main = False, here.rank == 0
        self._file, self._began = recipe.run.out / "stop", time.monotonic()
        self._seconds = recipe.run.max_hours * 3600
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._heard) for number in signals}

    def _heard(self, number: int, _: Any) -> None:
        """Only a flag: all processes must meet at the end of the step."""
        self._set, self.reason = True, f"signal {signal.Signals(number).name}"

    def asked(self) -> bool:
        if self._main and not self._set:
            if self._file.exists():
                self._set, self.reason = True, f"file {self._file}"
                self._file.unlink()
            elif self._seconds and time.monotonic() - self._began > self._seconds:
                self._set, self.reason = True, "run.max_hours"
        return self._set

    def restore(self) -> None:
        """Give the signals back to whom they belonged: what comes after training is not to be stopped by a flag."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def recorded(out: Path, here: Processes) -> Iterator[None]:
    """Write down how what runs inside ends; process 0 speaks of success, the first that fails of failure."""
    file = out / "outcome.json"
    if here.rank == 0:
        try:
            out.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"run.out: {out}: {error.strerror}; give another folder") from None
    try:
        yield
    except Preempted as stopped:
        if here.rank == 0:
            _write(file, outcome="preempted", step=stopped.step, reason=stopped.reason)
        raise
    except BaseException as error:
        _write(file, outcome="failed", reason=f"{type(error).__name__}: {error}")
        raise
    if here.rank == 0:
        _write(file, outcome="done", reason="")


def _write(file: Path, **facts: Any) -> None:
    """The first to write is heard. A full disk must not hide the error that is being reported."""
    facts |= {"host": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with file.open("x") as out:
            out.write(json.dumps(facts) + "\n")
    except OSError:
        pass
