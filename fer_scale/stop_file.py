"""The file RUN/stop, by which a run is asked to save and end: who wrote it, and whether it still counts.

A supervisor writes JSON into it, for the run that is on: a signal came, and the run may be started again. A person
makes it with `touch`: the run is to end for good. The main rank removes it when it has seen it.

Where none sees it, it stays, and one rule says what becomes of it. What is older than the end of the newest start (than
its beginning, where it was killed without a word) is left of that start: the next one removes it and says so. What is
newer counts: while a person's is there, no start begins. Times are compared as the file system gives them.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from fer_scale import log
from fer_scale.starts import newest
from shards.errors import UserError


def word(file: Path) -> dict[str, Any]:
    """What a supervisor wrote: "why", "host" and, where nothing is to be saved any more, "at_once". {}: a person's."""
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) and {"why", "host"} <= said.keys() else {}


def refusal(file: Path) -> str:
    """Why no start may begin: a person's RUN/stop that counts is there. "": none may not."""
    if word(file) or is_left_over(file) or (written := _time(file)) is None:  # last: it may go at any moment
        return ""
    since = datetime.fromtimestamp(written).astimezone().isoformat(" ", "seconds")
    return f"{file} is there since {since}: the run is not to begin; remove that file to go on"


def is_left_over(file: Path) -> bool:
    """Whether it is older than the end of the newest start."""
    start, written = newest(file.parent), _time(file)
    if written is None or start.folder is None:
        return False
    ends = (_time(start.folder / "outcome.json"), _time(start.folder / "claim.json"), _time(start.folder))
    return written < next((time for time in ends if time is not None), 0.0)


def heed(file: Path) -> None:
    """Before a start claims the run: UserError where it is not to begin; what is left over is removed."""
    if why := refusal(file):
        raise UserError(why)
    if is_left_over(file):
        file.unlink(missing_ok=True)
        log.say(f"note     {file} was older than the end of the last start: removed")
    elif "at_once" in (said := word(file)):  # its supervisor has gone, and reaches these ranks in no other way
        file.unlink(missing_ok=True)
        raise UserError(f"{said['why']} on {said['host']} for the second time: the run is not begun")


def _time(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None
