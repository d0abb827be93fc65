"""How long to wait for a peer that gives nothing, and when it is given up.

Most of what fails passes in seconds, so one tries again, ever less often. But a server that limits requests says itself
when to come again. The Hub counts them over five minutes: its pauses are waited for, which costs less than to start a
run again. A longer one is for a person to know of.
"""

import random
import sys
import time
from collections.abc import Callable

WINDOW_S = 310.0  # of pauses that the server names, since the last byte: with DEADLINE_S less than a step may take
_LONGEST_WAIT_S = 30.0  # that nobody asked for
_SPEAK_S = 2.0  # a wait that is longer is said
_SAY_S = 10.0  # so often, in a pause
_JITTER = random.Random()  # of our own: the global one belongs to whoever trains

Tell = Callable[[int, str], None]  # bytes there are, and what stands in the way


class MayPass(Exception):
    """What another try may mend."""

    def __init__(self, text: str, pause_s: float | None = None) -> None:
        super().__init__(text)
        self.pause_s = pause_s  # as the server asked

    @property
    def way_out(self) -> str:
        """What to do where it does not pass."""
        if self.pause_s:
            return f"the server limits requests: start again in {self.pause_s:.0f} s"
        return "look at network and proxy, and start again"


class Patience:
    """With one transfer: `seconds` without a byte, and on top of them the pauses that the server names."""

    def __init__(self, seconds: float, first_s: float) -> None:
        self._seconds, self._first_s = seconds, first_s
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._since, self._named_s, self._tries = time.monotonic(), 0.0, 0

    def pause_s(self, trouble: MayPass) -> float | None:
        """How long to wait before the next try; None: not any longer."""
        lost_s = time.monotonic() - self._since - self._named_s
        if trouble.pause_s:
            self._named_s += trouble.pause_s
            return trouble.pause_s if self._named_s <= WINDOW_S and lost_s <= self._seconds else None
        pause = min(self._first_s * 2**self._tries, _LONGEST_WAIT_S) * (0.5 + _JITTER.random() / 2)
        self._tries += 1
        return pause if lost_s + pause <= self._seconds else None


def rest(seconds: float, say: Callable[[], None]) -> None:
    """Sleep so long, and say now and then why."""
    while seconds > 0:
        say()
        time.sleep(min(seconds, _SAY_S))
        seconds -= _SAY_S


def said_once(what: str) -> Tell:
    """Says on stderr that `what` is waited for, once, and only where that takes longer than a moment."""
    began, said = time.monotonic(), list[str]()

    def tell(have: int, trouble: str) -> None:
        if trouble and not said and time.monotonic() - began > _SPEAK_S:
            said.append(trouble)
            print(f"waiting for {what}{trouble}", file=sys.stderr)

    return tell
