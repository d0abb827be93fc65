"""The one command of a researcher: a folder of labeled faces in, an evaluated expression model out.

    RUN/set/          the shard set, and RUN/set_made_of.json     (where DIR is one already, it is used as it is)
    RUN/split.json    test, labeled, unlabeled
    RUN/model/        the expression model          RUN/evaluation/    what it is worth on the list `test`

Nothing here that the single commands do not do; each is printed, so that one can go on from there by hand. Started
again, it goes on.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_scale import config, disk, log
from fer_scale.finetune import evaluate as evaluation
from fer_scale.finetune import loop, split
from shards import pack
from shards.errors import UserError
from shards.index import INDEX, ShardSet
from shards.remote import is_far, open_set
from shards.unfinished import Unfinished
from shards.walk import walk

_GIVEN = {"data.shards": "--data", "data.split": "--labels", "model.start_from": "--from", "run.out": "--out"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the one command was given."""

    data: Path | str
    out: Path
    source: str | None = None  # this, protocol and licence: None where `data` is a shard set
    labels: str = "100%"
    start_from: str = "none"
    test: str = "25%"
    valid: str | None = None
    seed: int = 0
    protocol: str | None = None
    licence: str | None = None


def oneshot(recipe_file: Path, overrides: list[str], wish: Wish, changes: list[str] | None = None) -> dict[str, Any]:
    """Pack, split, run both stages and evaluate; what `evaluate` found, or how the run ended before its end."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--data packs and splits, which one process does; do these first, then finetune on several")
    if wish.out.exists() and not wish.out.is_dir():
        raise UserError(f"{wish.out}: is a file; give a folder for the run")
    for word in (*overrides, *(changes or ())):
        if (key := word.partition("=")[0]) in _GIVEN:
            raise UserError(f"{word}: --data gives {key} itself; use {_GIVEN[key]}")
    set_path = _packed(wish)
    split_file = wish.out / "split.json"
    if not _drawn(split_file, set_path, wish):
        more = "".join(f" --{n} {v}" for n, v in (("test", wish.test), ("valid", wish.valid)) if v)
        log.say(f"+ fer-scale split {set_path} --labels {wish.labels} --seed {wish.seed}{more} --out {split_file}")
        split.split(set_path, labels=wish.labels, seed=wish.seed, out=split_file, test=wish.test, valid=wish.valid)
    keys = {"data.shards": set_path, "data.split": split_file, "model.start_from": wish.start_from, "run.out": wish.out}
    given = [*(config.as_override(key, value) for key, value in keys.items()), *overrides]
    more = "".join(f" --change {change}" for change in changes or ())
    log.say(f"+ fer-scale finetune {recipe_file} {' '.join(given)}{more}")
    ended = loop.finetune(recipe_file, given, changes)
    if ended["outcome"] != "done" or not ended["main"]:
        return ended
    model, out = wish.out / "model", wish.out / "evaluation"
    log.say(f"+ fer-scale evaluate {model} {set_path} --split {split_file} --out {out}")
    return ended | {"evaluation": evaluation.evaluate(str(model), set_path, out, split_file=split_file)}


def _packed(wish: Wish) -> Path | str:
    """The shard set of the data, packed now if it is not one and was not packed by this run before.

    One packed of something else, or of the same as it was before, is an error.
    """
    if is_far(wish.data) or (Path(wish.data) / INDEX).exists():
        for name in ("source", "protocol", "licence"):
            if getattr(wish, name) is not None:
                raise UserError(f"--{name}: {wish.data} is a shard set, which was packed with its own; leave it out")
        return wish.data
    if wish.source is None:
        raise UserError(f"{wish.data}: is no shard set; say how its faces lie with --source, as --source ferplus")
    place, made_of = wish.out / "set", wish.out / "set_made_of.json"
    how: dict[str, Any] = {"source": wish.source, "name": pack.name_of(Path(wish.data))}
    how |= {"protocol": wish.protocol or "argmax", "licence": wish.licence or "unknown"}
    folder = Path(wish.data).resolve()
    now = how | {"folder": str(folder), "files": _files(Path(wish.data))}
    packed = (place / INDEX).exists()
    if packed or any(Unfinished(place).rows.glob("*")):
        _check_same(now, made_of, place)
    elif now["files"] and folder not in place.resolve().parents:  # or pack says what is wrong, and nothing is written
        wish.out.mkdir(parents=True, exist_ok=True)
        disk.put(made_of, json.dumps(now, indent=1) + "\n")  # before it, so that what changes meanwhile is noticed
    if not packed:
        log.say(f"+ fer-scale pack {wish.data} {place} --source {wish.source} --protocol {how['protocol']}")
        with log.progress(f"packing {place}") as tick:
            pack.pack(wish.data, place, **how, progress=tick)
    return place


def _check_same(now: dict[str, Any], made_of: Path, place: Path) -> None:
    """UserError where `place` is made of something else than what is there `now`."""
    packed = (place / INDEX).exists()
    if made_of.exists():
        was = json.loads(made_of.read_text())
    else:  # of a run from before this file
        index = ShardSet.open(place).index if packed else {}
        was = {what: index.get(what) for what in ("source", "name", "protocol", "licence")}
    for what, value in now.items():
        if value is None or was.get(what) in (None, value):
            continue
        if what != "files":
            raise UserError(f"{place}: was packed with {what} {was[what]!r}, not {value!r}; use another --out")
        way = f"go on with --data {place}" if packed else f"remove {Unfinished(place).folder} to begin anew"
        raise UserError(f"{now['folder']}: has changed since {place} was packed; use another --out, or {way}")


def _files(src: Path) -> str | None:
    """A digest of the names, sizes and times of all files at `src`; None where nothing is there any more.

    As sources find them: what is hidden does not count.
    """
    lines = [_line(src, "")] if src.is_file() else []
    for path, file in walk(src, lambda _: None):  # of what cannot be looked into, the packer tells
        with suppress(FileNotFoundError):  # a link that leads nowhere
            lines.append(_line(file, f"/{path}"))
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest() if lines else None


def _line(file: os.PathLike[str], name: str) -> str:
    status = os.stat(file)
    return f"{name} {status.st_size} {status.st_mtime_ns}"


def _drawn(file: Path, set_path: Path | str, wish: Wish) -> bool:
    """Whether the run has its split already; one drawn for another wish is an error."""
    if not file.exists():
        return False
    shard_set = open_set(set_path)
    facts = split.read(file, shard_set).facts
    wanted = {"test": wish.test, "valid": wish.valid, "labels": wish.labels, "seed": wish.seed}
    if not split.drawn_as(facts, wanted, shard_set):
        raise UserError(f"{file}: was drawn with {facts['sizes']}, seed {facts['seed']}; use another --out")
    return True
