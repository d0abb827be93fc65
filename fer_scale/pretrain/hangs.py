"""What a rank that hangs was doing, and whose hang it is: without a clock, a thread or a file.

In a run whose ranks step together all of them hang when one does. It is the one that says nothing, or the one that is
not in a collective: the others are, and wait for it.
"""

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

_COLLECTIVE = ("/torch/distributed/", "/deepspeed/comm/", "/deepspeed/runtime/zero/")
_READING = ("/torch/utils/data/", "/fer_scale/loader.py", "/fer_scale/readers.py")
_FOREIGN = ("/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")
_NAMED = 3  # ranks, in one line

WAITS, READS, WORKS = "waiting for the others in", "waiting for images in", "in"


@dataclass(frozen=True, slots=True)
class Report:
    """What a rank says of itself; the first line of its stacks."""

    rank: int
    host: str
    pid: int
    phase: str
    step: int
    seconds: float  # that the phase has lasted
    doing: str  # WAITS, READS or WORKS ...
    place: str  # ... where


def doing(frame: FrameType) -> tuple[str, str]:
    """What the thread of this frame does, and where: a collective's name, or "file:line function"."""
    # Lines of source stay unread: their files may lie on what hangs.
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)[::-1]
    innermost = stack[-1]
    if any(part in innermost.filename for part in _COLLECTIVE):
        return WAITS, next((f.name for f in reversed(stack) if f.name not in ("wrapper", "<lambda>")), innermost.name)
    own = [f for f in stack if not any(part in f.filename for part in _FOREIGN)] or [innermost]
    where = f"{own[-1].filename.rpartition('/')[2]}:{own[-1].lineno} {own[-1].name}"
    reads = any(part in f.filename for f in stack for part in _READING)
    return READS if reads else WORKS, where


def blame(reports: Iterable[Report], names: dict[int, str]) -> str:
    """Whose hang it is, as well as the reports of these ranks and the silence of the others of `names` tell."""
    told = {report.rank: report for report in sorted(reports, key=lambda report: report.rank)}
    if silent := [rank for rank in names if rank not in told]:
        return (
            f"{_listed(silent, names)} said nothing: stopped, cut off, its host lost, or in a call that keeps Python's "
            "lock (then its log ends with its stacks)"
        )
    alone = {rank: report for rank, report in told.items() if report.doing != WAITS}
    if alone and len(alone) < len(told):
        return _places(alone, names) + "; the others wait for it in a collective" * (len(alone) == 1)
    return _places(told, names) + "; is the network between them cut?" * (not alone)


def _places(reports: dict[int, Report], names: dict[int, str]) -> str:
    at: dict[str, list[int]] = {}
    for rank, report in reports.items():
        at.setdefault(f"{report.doing} {report.place}", []).append(rank)
    return "; ".join(f"{_listed(ranks, names)}: {what}" for what, ranks in at.items())


def _listed(ranks: list[int], names: dict[int, str]) -> str:
    more = len(ranks) - _NAMED
    return ", ".join(names[rank] for rank in ranks[:_NAMED]) + (f" and {more} more" if more > 0 else "")
