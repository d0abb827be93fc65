"""How the starts of a run ended, read from its folder (ending.py writes it), and what follows from that."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fer_scale import disk, log

DONE, GAVE_UP, MISTAKE, PREEMPTED = 0, 1, 2, 75  # how launch/node.sh ends


@dataclass(frozen=True, slots=True)
class Start:
    """The newest start of a run, as it stands on disk. Number 0: there was none."""

    number: int = 0
    outcome: dict[str, Any] | None = None
    shared: bool = True  # False: this host's run.out is another folder than the main rank's
    folder: Path | None = None

    def is_as(self, before: "Start") -> bool:
        return (self.number, self.outcome is None) == (before.number, before.outcome is None)


def _folders(out: Path) -> list[Path]:
    """Those of all starts of the run, in order."""
    found = [f for f in (out / "attempts").glob("[0-9]*") if _number(f).isdecimal()]
    return sorted(found, key=lambda folder: (int(_number(folder)), folder.name))


def _number(folder: Path) -> str:
    return folder.name.partition(".")[0]


def _start(folder: Path) -> Start:
    return Start(int(_number(folder)), outcome_of(folder), not folder.suffix, folder)


def newest(out: Path) -> Start:
    folders = _folders(out)
    return _start(folders[-1]) if folders else Start()


def outcome_of(folder: Path) -> dict[str, Any] | None:
    """How the start in this folder ended, None where it has not, or nobody said so."""
    ask_anew(folder)
    try:
        return dict(json.loads((folder / "outcome.json").read_text()))
    except (OSError, ValueError):
        return None


def ask_anew(folder: Path) -> None:
    """Have a network file system see what other hosts have made in a folder.

    NFS answers from what it saw up to a minute ago (acdirmax of nfs(5)), but asks the server where a folder is opened.
    """
    with suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY))


def fruitless(out: Path, since: int) -> int:
    """How many starts in a row, from number `since` + 1 up to the newest, failed as machines do without a checkpoint.

    0 where run.out is another folder than the main rank's: what was saved stands there.
    """
    fruitful, number = set[int](), 0
    for row in log.rows(out / "events.jsonl"):
        if row.get("event") in ("start", "resume"):
            number = row.get("attempt", 0)
        elif row.get("event") == "checkpoint":
            fruitful.add(number)
    count = 0
    for start in filter(lambda start: start.shared, map(_start, reversed(_folders(out)))):
        failed = start.outcome is None or (start.outcome["outcome"] == "failed" and start.outcome.get("restart"))
        if start.number <= since or not failed or start.number in fruitful:
            break
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Launches:
    """What the main node's supervisor notes in RUN/attempts/launches.json, for other nodes and the one after it."""

    since: int = 0  # the newest start when a person began this; what failed before that, they have seen
    after: int = 0  # the newest start at the newest launch; is there a newer one, that launch has begun it
    count: int = 0  # launches in a row after that start

    def one_more(self, out: Path) -> "Launches":
        """With a launch that is now to begin, noted."""
        number = newest(out).number
        noted = Launches(self.since, number, 1 + (self.count if self.after == number else 0))
        try:
            disk.put(_launches_file(out), json.dumps(asdict(noted)) + "\n")
        except OSError:  # as on a full disk: better none than an old one
            with suppress(OSError):
                _launches_file(out).unlink()
        return noted


def launches(out: Path) -> Launches | None:
    """None where there are none, as where run.out is another folder than the main node's."""
    with suppress(OSError, ValueError, TypeError):
        return Launches(**json.loads(_launches_file(out).read_text()))
    return None


def _launches_file(out: Path) -> Path:
    return out / "attempts" / "launches.json"


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
        if now.number > before.number + 1:  # ours came before it
            return MISTAKE, f"{name}, of another launch, has the run"
        if code == 0 and not now.shared:  # "done" stands in the folder of the main rank alone
            return DONE, f"{name} done"
        return (PREEMPTED if asked else None), f"{name} ended without a word: killed?"
    reason = str(outcome.get("reason", "")).partition("\n")[0]
    why = f"{name} {outcome['outcome']}" + f": {reason}" * bool(reason)
    why += f" (rank {outcome.get('rank')} on {outcome.get('host')})" * (outcome["outcome"] == "failed")
    if outcome["outcome"] == "done" or not outcome.get("restart"):
        return (MISTAKE if outcome["outcome"] == "failed" else DONE), why
    return (PREEMPTED if asked or outcome["outcome"] == "preempted" else None), why
