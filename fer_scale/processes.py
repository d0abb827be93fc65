"""A launcher and what it starts, each known by its id and the time of its start: no other process is ever hit."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    began: int  # ticks since the machine started; an id that was given away again has another

    def lives(self) -> bool:
        return _began(self.pid) == self.began

    def send(self, number: int) -> None:
        if self.lives():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)


def children(pid: int) -> Iterator[Process]:
    """The living processes that `pid` started itself; none where there is no /proc."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for word in file.read_text().split():
                if (began := _began(int(word))) is not None:
                    yield Process(int(word), began)


def with_descendants(processes: Iterable[Process]) -> set[Process]:
    found, left = set[Process](), list(processes)
    while left:
        process = left.pop()
        if process not in found and process.lives():
            found.add(process)
            left += children(process.pid)
    return found


def _began(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for what is gone, or waits as a zombie to be counted."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(fields[18])


class Launched:
    """A launcher in a session of its own: Ctrl-C at a terminal is heard by us alone. It is told when we are killed."""

    def __init__(self, command: list[str]):
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(told_of_our_death, os.getpid()),
        )
        self.ranks: dict[Process, float] = {}  # what the launcher has started, and when it was first seen

    def code(self) -> int | None:
        """The exit code of the launcher, None while it runs."""
        return self._child.poll()

    def look(self) -> None:
        """Remember what the launcher has started by now."""
        for process in children(self._child.pid):
            self.ranks.setdefault(process, time.monotonic())

    def left(self) -> list[Process]:
        return [process for process in self.ranks if process.lives()]

    def tell(self, number: int) -> None:
        """A signal to each of the ranks, past the launcher."""
        for process in self.left():
            process.send(number)

    def end(self, patience_s: float, at_once: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM to the ranks; SIGKILL to them, to the launcher and all they started, where they stay longer.

        The launcher hears of SIGTERM only where it has no ranks: DeepSpeed's would make an end of all DeepSpeed jobs.
        """
        self.look()
        if not self.left() and self.code() is None:
            self._child.terminate()
        self.tell(signal.SIGTERM)
        until = time.monotonic() + patience_s
        while (self.code() is None or self.left()) and time.monotonic() < until and not at_once():
            time.sleep(_POLL_S)
            self.look()
        launcher = [] if self.code() is not None else [Process(self._child.pid, _began(self._child.pid) or 0)]
        for process in with_descendants([*launcher, *self.left()]):
            process.send(signal.SIGKILL)
        self._child.wait()

    def end_ranks_of_before(self, moment: float) -> int:
        """SIGKILL to the ranks that were there at this moment, with what they started. How many there were."""
        old = [process for process in self.left() if self.ranks[process] < moment]
        for process in with_descendants(old):
            process.send(signal.SIGKILL)
        return len(old)


def end_with(parent: int) -> None:
    """Let this process end within a second when `parent`, which started it, does; also if it is gone already."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def told_of_our_death(us: int) -> None:
    """In a child of process `us`, before it begins: SIGTERM when that is gone.

    torchrun and srun pass it on to the ranks. So does DeepSpeed's launcher, on all hosts, and to all other jobs of its
    kind as well.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != us:  # it was gone before
        os._exit(1)
