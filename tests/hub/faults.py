"""What can go wrong between a client and the Hub, one fault at a time.

status   the Hub answers `status` instead of doing what was asked
reset    the connection is reset before anything is done
lost     the Hub does it, and the connection is reset before the response arrives
silent   nothing is done and nothing is answered, for `seconds`
cut      half of the body arrives, then the connection ends
damaged  the body arrives with one byte changed
meanwhile  `act` is called first (somebody else's commit), then all goes well
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    kind: str
    method: str
    path: str  # a regular expression, looked for in the path
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 30
    act: Callable[[], object] = lambda: None


class Faults:
    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self.fired = 0

    def add(self, kind: str, method: str, path: str, **more: object) -> None:
        self._pending.append(Fault(kind, method, path, **more))  # type: ignore[arg-type]

    def next_for(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, if any; it is spent by that."""
        for fault in self._pending:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                self.fired += 1
                return fault
        return None
