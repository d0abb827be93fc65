"""What a run goes on from: the newest checkpoint that verifies, the same on all ranks. Both loops use it.

The main rank chooses, and is the only one whose word counts on what is damaged. Nothing is changed in the run until it
is clear that it goes on, or begins, as was asked for; then the damaged ones are set aside.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import checkpoint, checkpoints, log
from fer_scale.checkpoint import CheckpointError, Damaged
from fer_scale.ending import Attempt
from fer_scale.peers import Peers, by_main
from fer_scale.starts import ask_anew
from shards.errors import Broken, UserError

_LATE_S = 5  # a network file system may show another host's new folder so late


@dataclass(frozen=True, slots=True)
class Found:
    """What a run goes on from; without a folder it begins."""

    folder: Path | None
    state: dict[str, Tensor]
    progress: dict[str, Any]
    passed: list[Damaged]  # newer ones, on the main rank


def is_ours(attempt: Attempt, us: Peers) -> None:
    """Superseded where the run is another start's by now: before anything in it is changed."""
    if us.tell(not attempt.is_newest() if us.is_main else None):
        raise attempt.superseded()


def as_seen_here(claimed: Attempt) -> Attempt:
    """The main rank's claim; where this host's run.out is another folder of the same name, with a folder of its own."""
    until = time.monotonic() + _LATE_S
    while time.monotonic() < until:
        ask_anew(claimed.folder.parent)
        try:
            if json.loads((claimed.folder / "claim.json").read_text())["nonce"] == claimed.nonce:
                return claimed
            break
        except (OSError, ValueError):
            time.sleep(0.1)
    return replace(claimed, folder=claimed.folder.with_suffix(f".{claimed.nonce}"))


def find(out: Path, us: Peers, readers: list[int]) -> Found:
    """The newest checkpoint of the run in `out` that verifies, on all ranks, each file read once.

    CheckpointError where there are some and all are damaged. `readers` are the ranks that see the main rank's `out`.
    """
    passed = list[Damaged]()
    while True:
        folder = by_main(us, lambda: _newest(out, passed))
        if folder is None:
            return Found(None, {}, {"step": 0}, passed)
        try:
            state, progress = load(folder, us, readers)
        except CheckpointError as damaged:
            if us.tell(_verifies(folder) if us.is_main else None):  # another host sees it late, or had a bad moment
                raise Broken(f"{damaged}, but on rank 0's host it is whole; nothing was set aside") from None
            passed.append(Damaged(folder, str(damaged)))
            continue
        return Found(folder, state, progress, passed)


def _newest(out: Path, passed: list[Damaged]) -> Path | None:
    """Where to go on from, None for a fresh start. Adds to `passed` what is damaged by its sizes."""
    checkpoint.sweep(out)
    found, damaged = checkpoint.newest(out, but=[folder for folder, _ in passed])
    passed += damaged
    if passed and not found:  # a fresh start would write over what may still be mended
        lines = "".join(f"\n  {line}" for line in passed)
        raise CheckpointError(
            f"{out}: every checkpoint is damaged, none is left to go on from:{lines}\n"
            f"put back a copy of one, or remove {out / 'checkpoints'} to start anew"
        )
    return found


def _verifies(folder: Path) -> bool:
    """Whether the main rank finds nothing wrong with it."""
    return not any(checkpoints.damages(folder, lambda _: None, values=False))


def load(folder: Path, us: Peers, readers: list[int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors on every rank, and the progress. Each file is read and hashed once, by one rank, then broadcast.

    CheckpointError on all ranks where one of the `readers`, ranks that see the folder, finds damage.
    """
    files, progress = us.tell(_listing(folder) if us.is_main else None)
    if isinstance(files, str):
        raise CheckpointError(files)
    state: dict[str, Tensor] = {}
    for number, name in enumerate(files):
        owner = readers[number % len(readers)]
        tensors, shapes, problem = {}, None, ""
        if us.rank == owner:
            try:
                tensors = checkpoint.read_state(folder, name)
                shapes = [(key, tuple(value.shape), value.dtype) for key, value in tensors.items()]
            except (UserError, OSError) as error:
                problem = str(error)
        shapes, problem = us.tell((shapes, problem), of=owner)
        if problem:
            raise CheckpointError(problem)
        for key, shape, dtype in shapes or ():
            tensor = tensors[key] if us.rank == owner else Tensor(0).to(dtype).new_empty(shape)
            state[key] = us.broadcast(tensor, of=owner)
    return state, progress


def _listing(folder: Path) -> tuple[list[str] | str, dict[str, Any]]:
    try:
        return checkpoint.state_files(folder), checkpoint.progress_of(folder)
    except (UserError, OSError) as error:
        return str(error), {}


def set_aside(found: Found, journal: log.Journal) -> None:
    """Give the damaged ones, if the run goes on from an older one, names by which they are not taken again."""
    for folder, why in found.passed:
        aside = checkpoint.set_aside(folder)
        log.say(f"damaged, set aside as {aside.name}: {why}")
        journal.event("set_aside", checkpoint=str(aside), why=why)
    if found.folder:
        log.say(f"goes on from {found.folder}")
