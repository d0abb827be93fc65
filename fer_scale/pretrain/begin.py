"""What all ranks settle before the first step: whose start of the run this is, what they see, where they go on from.

Everything is decided by the main rank, or compared with what it has; a difference is named with its host and rank.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import checkpoint, config, ending, log, tee
from fer_scale.checkpoint import CheckpointError, Damaged
from fer_scale.ending import Attempt
from fer_scale.pretrain import setup, state
from fer_scale.pretrain.here import versions
from fer_scale.pretrain.layout import zero_layout
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.pretrain.world import World
from shards.errors import Broken, UserError

_LATE_S = 5  # a network file system may show another node's new folder so late


@dataclass(frozen=True, slots=True)
class Begun:
    attempt: Attempt
    log: Path  # in which all that this rank says stands as well
    writers: list[int]  # ranks that see the main rank's run.out: they can write and read checkpoints
    names: list[str]  # of all ranks
    hosts: list[str]


def begin(wanted: Pretrain, changes: list[str], us: World) -> Begun:
    """Claim the run for this start, keep what every rank says, and compare recipes, code and versions."""
    out = wanted.run.out
    claimed = us.tell(_claim(wanted, changes) if us.is_main else None)
    if isinstance(claimed, str):
        _refuse(claimed, us)
    sees = us.is_main or _sees(claimed)
    attempt = claimed if sees else replace(claimed, folder=claimed.folder.with_suffix(f".{claimed.nonce}"))
    file = attempt.folder / f"rank-{us.rank:0{len(str(us.ranks - 1))}}.log"
    told = us.collect((_kept(file, us), sees, us.name, us.host))
    if problem := next((problem for problem, *_ in told if problem), ""):
        if us.is_main:
            attempt.record("failed", us.rank, reason=problem, restart=False)
        _refuse(problem, us)
    apart = [name for _, sees, name, _ in told if not sees]
    if apart and us.is_main:
        more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
        log.say(
            f"note     run.out: {out} is another folder for {apart[0]}{more}: ranks that share it with rank 0 alone "
            "write checkpoints, and what the others say stays on their hosts"
        )
    writers = [rank for rank, (_, sees, *_) in enumerate(told) if sees]
    names = [name for *_, name, _ in told]
    return Begun(attempt, file, writers, names, sorted({host for *_, host in told}))


def _claim(wanted: Pretrain, changes: list[str]) -> Attempt | str:
    run = wanted.run
    alive = (run.out / "recipe.toml").exists() and not (run.out / "outcome.json").exists()
    try:
        if alive:  # perhaps: a slip must not end it, as the claim would
            setup.refuse_another(wanted, changes)
            if run.resume == "never":
                raise UserError(f"{run.out}: holds a run already and run.resume is never; use another run.out")
        return ending.claim(run.out)
    except UserError as error:
        return str(error)


def _refuse(problem: str, us: World) -> None:
    if not us.is_main:
        raise SystemExit(2)  # rank 0 says it
    raise UserError(problem)


def _sees(claimed: Attempt) -> bool:
    """Whether this host finds in run.out what the main rank wrote there: the same folder, not one of the same name."""
    until = time.monotonic() + _LATE_S
    while True:
        try:
            return json.loads((claimed.folder / "claim.json").read_text())["nonce"] == claimed.nonce
        except (OSError, ValueError):
            if time.monotonic() > until:
                return False
            time.sleep(0.1)


def _kept(file: Path, us: World) -> str:
    """What keeps this rank's output from being kept in `file`, or ""."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tee.keep(file)
    except OSError as error:
        return f"{us.name}: run.out: {file}: {error.strerror}"
    return ""


def is_ours(begun: Begun, us: World) -> None:
    """Superseded where the run is another start's by now: before anything in it is changed."""
    if us.tell(not begun.attempt.is_newest() if us.is_main else None):
        raise begun.attempt.superseded()


def same_everywhere(us: World, **facts: Any) -> None:
    """Refuse to train where a rank has another value than rank 0: all ranks raise, naming rank and difference."""
    told = us.collect((us.name, facts))
    _, wanted = told[0]
    for name, found in told[1:]:
        lines = [
            f"{what}{f' {key}' * bool(key)}: {a} there, {b} on rank 0"
            for what in wanted
            for key, a, b in _differences(found[what], wanted[what])
        ]
        if lines:
            raise UserError(
                f"{name} differs from rank 0 and would train something else:\n  " + "\n  ".join(lines[:10])
                + "\nmake all hosts alike (`fer-scale doctor` compares them) and start again"
            )  # fmt: skip


def _differences(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """(where, in `a`, in `b`) for every part that is not the same."""
    if a == b:
        return []
    if isinstance(a, dict) and isinstance(b, dict):
        return [(key, a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return [("", a, b)]


def code_and_recipe(wanted: Pretrain) -> dict[str, Any]:
    """For `same_everywhere`, before anything is read: what decides what a rank computes."""
    recipe = {}
    for key, field in config.keys(Pretrain):
        section, _, _ = key.partition(".")
        recipe[key] = str(getattr(getattr(wanted, section), field.name))
    layout = zero_layout(wanted.run.deepspeed)
    return {"version of": versions(), "recipe:": recipe, f"{wanted.run.deepspeed}:": layout}


def describe(begun: Begun, us: World, *, stage: int) -> dict[str, Any]:
    """What the event of this start says of it, and in what it differs from the start before."""
    facts = {"ranks": us.ranks, "hosts": begun.hosts, "stage": stage, "versions": versions()}
    starts = [row for row in log.rows(begun.attempt.out / "events.jsonl") if row["event"] in ("start", "resume")]
    before = starts[-1] if starts else {}
    changed = {key: [before[key], value] for key, value in facts.items() if before.get(key, value) != value}
    return {"attempt": begun.attempt.number} | facts | {"changed": changed}


@dataclass(frozen=True, slots=True)
class Found:
    """What a run goes on from; without a folder it begins."""

    folder: Path | None
    state: dict[str, Tensor]
    progress: dict[str, Any]


def resume(wanted: Pretrain, changes: list[str], prints: list[str], us: World, readers: list[int]) -> Found:
    """The newest checkpoint that verifies, on all ranks, each file read once; damaged ones are named and set aside.

    Nothing is written to the run before it is clear that it goes on, or begins, as was asked for.
    """
    passed = list[Damaged]()
    while True:
        found = us.tell(_newest(wanted, changes, passed) if us.is_main else None)
        if isinstance(found, str):
            raise CheckpointError(found)
        if found is None:
            return Found(None, {}, {"step": 0})
        try:
            saved, progress = state.load(found, us, readers)
        except CheckpointError as damaged:
            if us.tell(_verifies(found) if us.is_main else None):  # another host sees it late, or had a bad moment
                raise Broken(f"{damaged}, but on rank 0's host it is whole; nothing was set aside") from None
            passed.append(Damaged(found, str(damaged)))
            continue
        if refusal := us.tell(_refusal(wanted, progress, prints, changes, found) if us.is_main else None):
            raise CheckpointError(refusal)
        if us.is_main:
            _set_aside(passed, log.Journal(wanted.run.out))
            log.say(f"goes on from {found}")
        return Found(found, saved, progress)


def _newest(wanted: Pretrain, changes: list[str], passed: list[Damaged]) -> Path | str | None:
    """Where to go on from, None for a fresh start, or what is wrong. Adds to `passed` what is damaged by its sizes."""
    run = wanted.run
    checkpoint.sweep(run.out)
    try:
        found, damaged = checkpoint.newest(run.out, but=[folder for folder, _ in passed])
    except CheckpointError as error:
        return str(error)
    passed += damaged
    if passed and not found:  # a fresh start would write over what may still be mended
        lines = "".join(f"\n  {line}" for line in passed)
        return (
            f"{run.out}: every checkpoint is damaged, none is left to go on from:{lines}\n"
            f"put back a copy of one, or remove {run.out / 'checkpoints'} to start anew"
        )
    if run.resume == "never" and found:
        return f"{run.out}: holds a run already ({found.name}) and run.resume is never; use another run.out"
    if run.resume == "must" and not found:
        return f"{run.out}: no complete checkpoint to go on from, and run.resume is must"
    if not found and (run.out / "recipe.toml").exists():
        try:  # killed before its first save; where there is a save, `_refusal` asks
            setup.refuse_another(wanted, changes)
        except UserError as error:
            return str(error)
    return found


def _verifies(folder: Path) -> bool:
    """Whether the main rank finds nothing wrong with it."""
    try:
        for name, sha256 in checkpoint.manifest(folder).items():
            checkpoint.read_file(folder, name, sha256)
        return bool(checkpoint.progress_of(folder))
    except (CheckpointError, OSError):
        return False


def _refusal(wanted: Pretrain, progress: dict[str, Any], prints: list[str], changes: list[str], found: Path) -> str:
    """Why the checkpoint `found` is not one of this run, or ""."""
    try:
        setup.same_run(wanted, progress, prints, changes, found)
    except UserError as error:
        return str(error)
    return ""


def _set_aside(passed: list[Damaged], journal: log.Journal) -> None:
    for folder, why in passed:
        aside = checkpoint.set_aside(folder)
        log.say(f"damaged, set aside as {aside.name}: {why}")
        journal.event("set_aside", checkpoint=str(aside), why=why)
