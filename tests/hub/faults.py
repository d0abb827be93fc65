"""What can go wrong between a client and the Hub, one fault at a time.

On the way there:
    reset      the connection is reset before anything is done
    torn       it is reset in the middle of the request's body
    silent     nothing is done and nothing is answered, for `seconds`
    slow       all goes well, `seconds` later
Instead of an answer:
    status     the Hub answers `status` instead of doing what was asked, with `headers`
    portal     a page of HTML with 200, as a hotel's network gives it
    loop       a redirect to the same place
On the way back:
    lost       the Hub does it, and the connection is reset before the response arrives
    cut        half of the body arrives, then the connection ends
    broken     half of the body arrives, then the connection is reset
    stall      half of the body arrives, then nothing for `seconds`
    trickle    the body arrives in drops, so that no pause is ever long
    short      half of the body arrives, and the head says that it is all
    damaged    the body arrives with one byte changed
    rangeless  what was asked for from the middle arrives from its beginning
    dressed    the answer comes with `headers`, in place of its own of the same names
And:
    meanwhile  all goes well; but `act` is called first, as it is for every kind: somebody else's commit, or a kill
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

KINDS = (
    "reset", "torn", "silent", "slow", "status", "portal", "loop",
    "lost", "cut", "broken", "stall", "trickle", "short", "damaged", "rangeless", "dressed", "meanwhile",
)  # fmt: skip


@dataclass
class Fault:
    kind: str
    method: str  # "" is any
    path: str  # a regular expression, looked for in the path
    times: int = 1
    skip: int = 0  # as many requests go well before
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 30
    act: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


class Faults:
    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self.fired = 0

    def add(self, kind: str, method: str, path: str, **more: object) -> None:
        self._pending.append(Fault(kind, method, path, **more))  # type: ignore[arg-type]

    def clear(self) -> None:
        """Nothing goes wrong from here on."""
        self._pending, self.fired = [], 0

    def next_for(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, if any; it is spent by that."""
        for fault in self._pending:
            if fault.times > 0 and fault.method in (method, "") and re.search(fault.path, path):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                self.fired += 1
                return fault
        return None
