"""What a run left in its folder, read once: of pre-training or fine-tuning, running or ended, whole or killed.

    events.jsonl metrics.jsonl recipe.toml plan.json outcome.json    attempts/*/{claim,outcome}.json    checkpoints/*

Runs of before there was attempts/ have only their events, and the outcome of the last start.
"""

import json
import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fer_scale import ending, log
from fer_scale.processes import Process
from shards.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Times are seconds since 1970; what is not there is empty."""

    recipe: Row = field(default_factory=dict)
    steps: int = 0  # of the whole run; 0 where that is not known
    events: Sequence[Row] = ()
    metrics: Sequence[Row] = ()
    measured: float | None = None  # when metrics.jsonl was last written to
    claims: dict[int, Row] = field(default_factory=dict)  # of each start, by its number
    outcomes: dict[int, Row] = field(default_factory=dict)
    signs: dict[int, float] = field(default_factory=dict)  # when a start last wrote to its folder
    stacks: dict[int, list[str]] = field(default_factory=dict)  # files with what hung there
    outcome: Row = field(default_factory=dict)  # RUN/outcome.json
    saved: Sequence[int] = ()  # steps of the checkpoints that have a manifest, in order
    alive: bool | None = None  # whether the newest start's main process is there; None: it cannot be seen from here


def is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("events.jsonl", "attempts", "recipe.toml"))


def published(events: Iterable[Row]) -> list[Row]:
    """What a run has published of itself, but for what lay past a step that it later went on from, or began anew at."""
    found: list[Row] = []
    for row in events:
        if row["event"] in ("start", "resume"):
            found = [each for each in found if (each.get("step") or 0) <= (row.get("step") or 0)]
        elif row["event"] == "published":
            found.append(row)
    return found


def read(run: Path) -> Record:
    """What lies in the run's folder; UserError where its recipe is damaged."""
    try:
        recipe = tomllib.loads(_text(run / "recipe.toml"))
    except ValueError as error:
        raise UserError(f"{run / 'recipe.toml'}: {error}; put back a copy, there is one in every checkpoint") from None
    starts = {int(f.name): f for f in sorted((run / "attempts").glob("[0-9]*")) if f.name.isdecimal()}
    claims = {number: _json(folder / "claim.json") for number, folder in starts.items()}
    stages = [recipe.get(name, {}).get("steps", 0) for name in ("supervised", "semi")]
    # As checkpoint.complete has it, which needs torch.
    steps = (file.parent.name.removeprefix("step_") for file in run.glob("checkpoints/step_*/manifest.json"))
    metrics = run / "metrics.jsonl"
    return Record(
        recipe=recipe,
        steps=_json(run / "plan.json").get("steps", sum(stages)),
        events=log.rows(run / "events.jsonl"),
        metrics=log.rows(metrics),
        measured=metrics.stat().st_mtime if metrics.exists() else None,
        claims=claims,
        outcomes={number: _json(folder / "outcome.json") for number, folder in starts.items()},
        signs={number: _last_sign(folder) for number, folder in starts.items()},
        stacks={number: sorted(file.name for file in folder.glob("*.stacks")) for number, folder in starts.items()},
        outcome=_json(run / "outcome.json"),
        saved=sorted(int(step) for step in steps if step.isdecimal()),
        alive=_is_alive(claims[max(claims)]) if claims else None,
    )


def seconds_of(iso: str) -> float:
    """A time as a run writes it, in seconds since 1970."""
    return datetime.fromisoformat(iso).timestamp()


def _last_sign(folder: Path) -> float:
    """When something was last written in a start's folder; hidden files come and go."""
    return max(file.stat().st_mtime for file in (folder, *folder.glob("[!.]*")))


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _json(file: Path) -> Row:
    """A file that may be missing, or half written by a start that was killed over it."""
    try:
        return dict(json.loads(_text(file) or "{}"))
    except ValueError:
        return {}


def _is_alive(claim: Row) -> bool | None:
    """None where it cannot be seen from here: another machine's, another container's, or hidden from this user."""
    here = ending.this_process()
    if not here or any(claim.get(key) != here[key] for key in ("boot", "pid_namespace")):
        return None
    if Process(claim["pid"], claim["began"]).lives():
        return True
    try:
        os.kill(claim["pid"], 0)
    except PermissionError:
        return None
    except ProcessLookupError:
        pass
    return False
