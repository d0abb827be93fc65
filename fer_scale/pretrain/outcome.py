"""How a run ended: RUN/outcome.json, since a launcher's exit code says nothing (deepspeed: 0, 1, 143, 247, 255).

{"outcome": "done" | "preempted" | "failed", "step": ..., "reason": ..., "rank": ..., "host": ..., "time": ...}
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_scale.pretrain.world import World
from shards.errors import UserError


class Preempted(Exception):
    """The run was asked to end before its last step; everything is saved."""

    def __init__(self, reason: str, step: int):
        super().__init__(reason)
        self.reason, self.step = reason, step


@contextmanager
def recorded(out: Path, world: World) -> Iterator[None]:
    """Write down how what runs inside ends; of several ranks that fail, the first speaks and the others are silent."""
    file = out / "outcome.json"
    problem = ""
    if world.is_main:
        try:
            out.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        except OSError as error:
            problem = f"run.out: {error}"
    if problem := world.tell(problem):
        raise UserError(problem)
    try:
        yield
    except Preempted as stopped:
        if world.is_main:
            _write(file, outcome="preempted", step=stopped.step, reason=stopped.reason, rank=world.rank)
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        if not _write(file, outcome="failed", reason=reason, rank=world.rank):
            raise SystemExit(1) from error
        raise
    if world.is_main:
        _write(file, outcome="done", rank=world.rank)


def _write(file: Path, **facts: Any) -> bool:
    """Whether this rank was the first to say it. A full disk must not hide the error that is being reported."""
    facts |= {"host": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with file.open("x") as out:
            out.write(json.dumps(facts) + "\n")
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
