"""A run's training state as it travels to another cluster: one checkpoint, in a private repository of the Hub.

    checkpoint/state-00-of-02.safetensors ... manifest.json    the checkpoint as it is (checkpoint.py)
    metrics.json                                                the lines of metrics.jsonl up to its step
    README.md                                                   what this is, and how to go on from it

A run that goes on from it, `run.resume_from`, copies the checkpoint to its own folder, and is a run like any other.
"""

import json
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_scale import artifact, checkpoint, checkpoints, disk, hub, log, scratch
from fer_scale.checkpoint import CheckpointError
from fer_scale.ending import Attempt
from fer_scale.hub_held import STATE_FILES
from shards.errors import UserError

_PLACE, _METRICS = "checkpoint", "metrics.json"
_PIECE = 4 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class State:
    """A checkpoint that lies elsewhere: whole by its sizes."""

    folder: Path
    address: str  # with the commit, where it comes from the Hub
    progress: dict[str, Any]
    metrics: list[dict[str, Any]]


def push(source: Path, step: int | None, address: str) -> str:
    """Put a run's checkpoint, its newest or that of `step`, at hf://ORG/NAME; the address with its commit.

    The repository is made private, and a public one is refused: the state holds more of the faces than weights do.
    """
    if not hub.is_remote(address):
        raise UserError(f"{address}: a training state goes to a repository of its own, hf://ORG/NAME")
    place = checkpoints.find(source if step is None else checkpoint.folder_of(source, step))
    checkpoints.refuse_damaged(place, lambda _: None)
    step = checkpoint.progress_of(place)["step"]
    rows = [row for row in log.rows(place.parent.parent / "metrics.jsonl") if row["step"] <= step]
    with scratch.folder() as made:
        beside = {_METRICS: json.dumps(rows), artifact.CARD: _CARD.format(step=step, address=address)}
        for name, text in beside.items():
            (made / name).write_text(text)
        files = {f"{_PLACE}/{name}": place / name for name in [*checkpoint.listed(place), "manifest.json"]}
        files |= {name: made / name for name in beside}
        return hub.push_files(files, address, message=f"Training state, step {step:,}", private=True)


def pull(address: str) -> State:
    """The training state at hf://ORG/NAME[@REVISION], in a checkpoint's folder, or in that of a run: its newest."""
    if hub.is_remote(address):
        with log.progress(f"pulling {address}", "bytes") as tick:
            pulled = hub.pull_files(address, lambda name: bool(STATE_FILES.fullmatch(name)), progress=tick)
        folder, address = pulled.folder / _PLACE, pulled.address
        if not (folder / "manifest.json").is_file():
            raise CheckpointError(f"{address}: holds no training state; publish.state=true puts one there")
        metrics = pulled.folder / _METRICS
    else:
        folder = checkpoints.find(Path(address))
        metrics = folder.parent.parent / "metrics.jsonl"
    checkpoint.manifest(folder)
    try:
        return _understood(folder, address, metrics)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, FileNotFoundError):
        # What others wrote can be anything.
        raise CheckpointError(f"{address}: holds no training state that this program understands") from None


def _understood(folder: Path, address: str, metrics: Path) -> State:
    """The state, once what is read of it has the kinds that it must have."""
    progress = checkpoint.progress_of(folder)
    rows = json.loads(metrics.read_text()) if metrics.name == _METRICS else log.rows(metrics)
    model = tomllib.loads(progress["recipe"])["model"]
    kinds = ((progress["step"], int), (progress["adam_step"], int), (model, dict), (rows, list))
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise TypeError
    return State(folder, address, progress, [row for row in rows if row["step"] <= progress["step"]])


def adopt(state: State, attempt: Attempt) -> None:
    """Put the state into the run of this start, every byte checked on the way; the checkpoint counts last.

    Superseded, with nothing of the run touched, where another start has begun meanwhile.
    """
    run, folder = attempt.out, state.folder
    place = checkpoint.folder_of(run, state.progress["step"])
    part = checkpoint.part_of(place, attempt.number)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    listed = checkpoint.manifest(folder)
    files = []
    for name in checkpoint.state_files(folder):
        files.append(line := checkpoint.put(part / name, _pieces(folder / name)))
        if line["sha256"] != listed[name]:
            raise CheckpointError(f"{folder / name}: damaged (another sha256 than its manifest's); pull it again")
    if not attempt.is_newest():
        raise attempt.superseded()
    disk.put(run / "recipe.toml", state.progress["recipe"])
    disk.put(run / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in state.metrics))
    if not checkpoint.finish(part, place, files, state.progress, attempt.is_newest):
        raise attempt.superseded()


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            yield piece


_CARD = """\
---
library_name: fer_scale
tags:
- fer_scale
- training-state
---

# Training state of step {step:,}

This is no model. It is what a pre-training of fer_scale goes on from, on any cluster and any number of ranks: weights,
the moments of Adam, and where in the data it was. In a fresh folder, with the same recipe and the same shard sets:

    fer-scale pretrain RECIPE run.out=RUN run.resume_from={address}

Its recipe names folders of the machine that it was trained on. Keep this repository private.
"""
