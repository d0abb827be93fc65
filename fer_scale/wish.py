"""The wish that a run may stop, as its supervisor hears it and passes it on: signals, and the file RUN/stop.

stop_file.py says what RUN/stop is. A supervisor's is for the run that is on, never for the next one: the main rank
removes it when it has seen it, or whoever wrote it when that run has ended. Of what stands there when a supervisor
begins, only a person's that counts is heeded; the rest is removed by the supervisor of the main node, without which no
run of this group can be on.
"""

import json
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_scale import disk, stop_file
from fer_scale.starts import ask_anew

_SAME_S = 1.0  # signals of a kind within it are one, as in ending.py
_POLL_S = 0.25


@dataclass
class Wish:
    """Whether the run is to stop: by a signal to us, or RUN/stop, whoever wrote it."""

    file: Path
    asked: str = ""
    signalled: bool = False
    at_once: bool = False
    wrote: bool = False
    seen: bool = False  # RUN/stop was there, for this run
    by_a_person: bool = False  # who wants it to end for good
    _first: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ignored = None if stop_file.refusal(self.file) else self._print()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._heard)

    def _print(self) -> tuple[int, int] | None:
        ask_anew(self.file.parent)
        with suppress(OSError):
            found = self.file.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def _heard(self, number: int, _: Any) -> None:
        now = time.monotonic()
        self.at_once |= now - self._first.setdefault(number, now) > _SAME_S
        self.signalled, self.asked = True, self.asked or f"signal {signal.Signals(number).name}"

    def is_there(self) -> bool:
        """Whether RUN/stop is there, for this run."""
        there = self._print()
        if there is None or there == self._ignored:
            return False
        # What is gone already, the main rank has judged.
        self.by_a_person |= not stop_file.word(self.file) and self.file.exists()
        self.asked = self.asked or f"file {self.file}"
        self.seen = True
        return True

    def write(self) -> bool:
        """Whether the main rank will find it, where it looks into this folder."""
        if self.is_there() and not self.at_once:  # a person's stays what it is
            return True
        self.wrote = self.seen = True
        word = {"why": self.asked, "host": socket.gethostname()} | ({"at_once": True} if self.at_once else {})
        try:  # by all nodes' supervisors; whole at once, since by what it says, it is not a person's
            disk.put(self.file, json.dumps(word) + "\n", alone=False)
        except OSError:  # as on a full disk
            return False
        return True

    def withdraw(self) -> None:
        with suppress(OSError):
            self.file.unlink()

    def pause(self, seconds: float) -> bool:
        """Whether nobody asked to stop in this time."""
        until = time.monotonic() + seconds
        while not self.is_there() and not self.asked and time.monotonic() < until:
            time.sleep(_POLL_S)
        return not self.asked
