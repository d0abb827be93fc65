"""How the starts of a run ended, read from its folder (ending.py writes it), and what follows from that."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_scale import log

DONE, GAVE_UP, MISTAKE, PREEMPTED = 0, 1, 2, 75  # how launch/node.sh ends


@dataclass(frozen=True, slots=True)
class Start:
    """The newest start of a run, as it stands on disk. Number 0: there was none."""

    number: int = 0
    outcome: dict[str, Any] | None = None
    shared: bool = True  # False: this host's run.out is another folder than the main rank's

    def is_as(self, before: "Start") -> bool:
        return (self.number, self.outcome is None) == (before.number, before.outcome is None)


def starts(out: Path) -> list[Start]:
    """All starts of the run, in order."""
    folders = {f.name: f for f in (out / "attempts").glob("[0-9]*")}
    numbers = {name: int(name.partition(".")[0]) for name in folders if name.partition(".")[0].isdecimal()}
    names = sorted(numbers, key=lambda name: (numbers[name], name))
    return [Start(numbers[name], _read(folders[name] / "outcome.json"), "." not in name) for name in names]


def newest(out: Path) -> Start:
    return next(reversed(starts(out)), Start())


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return None


def fruitless(out: Path) -> int:
    """How many starts in a row, up to the newest, failed as machines do and wrote no checkpoint.

    0 where run.out is another folder than the main rank's: what was saved stands there.
    """
    fruitful, number = set[int](), 0
    for row in log.rows(out / "events.jsonl"):
        if row.get("event") in ("start", "resume"):
            number = row.get("attempt", 0)
        elif row.get("event") == "checkpoint":
            fruitful.add(number)
    count = 0
    for start in reversed([start for start in starts(out) if start.shared]):
        failed = start.outcome is None or (start.outcome["outcome"] == "failed" and start.outcome.get("restart"))
        if not failed or start.number in fruitful:
            break
        count += 1
    return count


def judge(before: Start, now: Start, code: int, asked: str) -> tuple[int | None, str]:
    """(exit code, why) of what a launcher left; None for a failure after which another start may help.

    `code` is the launcher's, and asks for trust only where there is nothing else. `asked`: why it was to stop, or "".
    """
    if now.is_as(before):
        if asked or code == 0:
            return (PREEMPTED if asked else DONE), asked
        return None, f"the launcher ended with {code} before a run was begun; above: why"
    name, outcome = f"start {now.number}", now.outcome
    if outcome is None:
        if code == 0 and not now.shared:  # its outcome stands in the folder of the main rank
            return (PREEMPTED if asked else DONE), asked
        return (PREEMPTED if asked else None), f"{name} ended without a word: killed?"
    reason = str(outcome.get("reason", "")).partition("\n")[0]
    why = f"{name} {outcome['outcome']}" + f": {reason}" * bool(reason)
    why += f" (rank {outcome.get('rank')} on {outcome.get('host')})" * (outcome["outcome"] == "failed")
    if outcome["outcome"] == "done" or not outcome.get("restart"):
        return (MISTAKE if outcome["outcome"] == "failed" else DONE), why
    return (PREEMPTED if asked or outcome["outcome"] == "preempted" else None), why
