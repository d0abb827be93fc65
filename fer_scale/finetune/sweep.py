"""`fer-scale sweep`: recipes and their variants over label counts and seeds, the ladder beside them, and one table.

    DIR/sweep.json              which set, test faces and encoder all of it is about; another sweep needs another DIR
    DIR/splits/5pct-seed0.json  the labels of a seed; the list test is the same in all of them
    DIR/runs/5pct-seed0/...     a run of `fer-scale finetune`, evaluation/ in it, and said.txt, all that it said
    DIR/table.md  table.json    see sweep_table.py
    DIR/seconds.md              what they took, apart: it is another time every time; seconds.jsonl, each process

A seed is that of the draw of labels and of training. A run's folder is named by a hash of the values that make it what
it is, so what is there is not made again, whichever sweep asks for it, and a sweep may grow by seeds, labels and rows.
Runs that differ only in `semi.*` have the same stage 2: it is trained once, as a run of its own, and each goes on from
a copy of it, to the same numbers as one that went all the way (a test says so).
"""

import hashlib
import itertools
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fer_scale import artifact, config, disk, encoder, hub, log
from fer_scale.finetune import jobs, protocols, split, sweep_table
from fer_scale.finetune.jobs import Job
from fer_scale.finetune.recipe import Finetune, Semi
from fer_scale.finetune.sweep_rows import Cell, Row, Wish, cell_of, given, load, names, rows_of
from shards.errors import UserError
from shards.remote import is_far, open_set


def sweep(wish: Wish) -> dict[str, Any]:
    """Run what is not there yet, write the table; its content, and what failed under "failed"."""
    _refuse_list(wish)
    whole, begun = _places(wish)
    facts = _facts(whole, begun)
    cells = [cell_of(whole, labels, seed) for labels in whole.labels for seed in whole.seeds]
    rows = rows_of(whole, begun)
    _claim(whole, facts, write=False)
    plans = {(row, cell): _plan(whole, row, cell) for cell in cells for row in rows}  # all mistakes before any work
    _refuse_twice([(row.name, plans[row, cells[0]][-1].makes) for row in rows[-len(names(whole)) - len(whole.more) :]])
    whole.out.mkdir(parents=True, exist_ok=True)
    with jobs.alone(whole.out):
        _claim(whole, facts, write=True)
        planned = itertools.chain([_draw(whole, cell) for cell in cells], *plans.values())
        work: dict[Path, Job] = {}
        for job in planned:
            work.setdefault(job.makes, job)  # what several rows need is one job
        failed = jobs.do(list(work.values()), whole.jobs, whole.out / "seconds.jsonl")
        made = {(row.name, cell.labels, cell.seed): plan[-1].makes for (row, cell), plan in plans.items()}
        splits = {(cell.labels, cell.seed): cell.split for cell in cells}
        titles = [row.name for row in rows]
        facts |= {"votes": [row.name for row in rows if _votes(whole, row)]}
        table = sweep_table.write(whole.out, titles, names(whole)[0], made, splits, facts)
        sweep_table.seconds(whole.out, table, made)
    return table | {"failed": failed}


def _refuse_list(wish: Wish) -> None:
    lists = [name for name in split.LISTS if name != "excluded" and (name != "valid" or wish.valid)]
    if wish.list_name not in lists:
        hint = "; draw one with --valid" if wish.list_name == "valid" else ""
        raise UserError(f"--list {wish.list_name}: the splits of this sweep hold {', '.join(lists)}{hint}")


def _refuse_twice(recipes: list[tuple[str, Path]]) -> None:
    for (one, made), (other, again) in itertools.combinations(recipes, 2):
        if made == again:
            raise UserError(f"{one} and {other} compute the same; leave one of them out")


def _places(wish: Wish) -> tuple[Wish, dict[str, Any]]:
    """The wish with places that hold wherever it is started again, and config.json of its encoder."""
    data = wish.data if is_far(wish.data) else str(Path(wish.data).resolve())
    file, mark, name = wish.test.rpartition("#")
    test = f"{Path(file).resolve()}#{name}" if mark else wish.test
    labels = [one for asked in wish.labels for one in (_published(data) if asked == "published" else [asked])]
    wish = replace(wish, data=data, test=test, labels=labels, recipe=wish.recipe.resolve(), out=wish.out.resolve())
    if wish.start_from == "none":
        return wish, {}
    address = wish.start_from if hub.is_remote(wish.start_from) else str(Path(wish.start_from).resolve())
    with log.progress(f"pulling {address}", unit="bytes") as tick:
        pulled = hub.pull(address, progress=tick)
    known = {"sha256": artifact.sha256(pulled.folder / artifact.WEIGHTS), "hours": _hours(pulled.folder)}
    return replace(wish, start_from=pulled.address), encoder.config_of(pulled.folder) | known


def _hours(folder: Path) -> str | None:
    """The hours of pre-training, as the encoder's card says them."""
    card = folder / artifact.CARD
    said = (
        re.search(r"^\| device-hours in training steps \| ([^|]+?) \|", card.read_text(), re.M)
        if card.exists()
        else None
    )
    return said[1] if said else None


def _published(data: str) -> list[str]:
    if (protocol := protocols.protocol_of(open_set(data))) is None:
        raise UserError(f"--labels published: no protocol is known of {data}; write numbers, as 284,1064")
    return [f"{count}" for count in protocol.labels.values()]


def _facts(wish: Wish, begun: dict[str, Any]) -> dict[str, Any]:
    """What all runs of a folder have in common."""
    shard_set = open_set(wish.data)
    sizes, frozen = split.sizes_of(wish.test, wish.valid, wish.labels[0], shard_set)
    protocol, block = protocols.protocol_of(shard_set), begun.get("fer_scale", {})
    return {
        "set": shard_set.name,
        "fingerprint": shard_set.fingerprint,
        "source": shard_set.index["source"],
        "protocol": shard_set.index["protocol"],
        "known_as": protocol.name if protocol else None,
        "test": sizes["test"],
        "test_seed": None if frozen else wish.test_seed,
        "valid": wish.valid,
        "list": wish.list_name,
        "encoder": {name: begun.get(name, block.get(name)) for name in ("sha256", "views", "hours")} if begun else None,
    }


def _votes(wish: Wish, row: Row) -> bool:
    return not row.baseline and load(wish, row).supervised.target == "votes"


def _claim(wish: Wish, facts: dict[str, Any], *, write: bool) -> None:
    """Make DIR this sweep's; refuse to mix it with what is about other faces or another encoder."""
    file = wish.out / "sweep.json"
    encoder = facts["encoder"] and facts["encoder"]["sha256"]
    facts = {name: facts[name] for name in ("set", "fingerprint", "test", "test_seed", "valid")} | {"encoder": encoder}
    if not file.exists():
        there = wish.out.iterdir() if wish.out.is_dir() else ()
        if found := [path.name for path in there if path.name != jobs.LOCK]:
            raise UserError(f"{wish.out}: holds {found[0]}, and is no sweep's; give another --out")
        if write:
            disk.put(file, json.dumps(facts, indent=2) + "\n")
        return
    try:
        was = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); give another --out") from None
    if differ := [name for name in facts if was.get(name) != facts[name]]:
        name = differ[0]
        raise UserError(f"{wish.out}: holds a sweep with {name} {was.get(name)}, not {facts[name]}; give another --out")


def _draw(wish: Wish, cell: Cell) -> Job:
    seed = [] if split.is_given(wish.test) else ["--test-seed", str(wish.test_seed)]
    valid = ["--valid", wish.valid] if wish.valid else []
    where = ["--seed", str(cell.seed), "--out", str(cell.split)]
    command = ("split", wish.data, "--labels", cell.labels, "--test", wish.test, *seed, *valid, *where)
    said = cell.split.with_suffix(".txt")
    return Job("split", f"{cell.labels} seed {cell.seed}", cell.split, (command,), said)


def _plan(wish: Wish, row: Row, cell: Cell) -> list[Job]:
    """The jobs that end in the row's figures for a draw of labels, the last one in the metrics.json itself."""
    of = f"{cell.labels} seed {cell.seed}"
    if row.baseline:
        crop_of = load(wish, row, cell).augment.crop_of
        folder = cell.runs / (row.baseline if crop_of == "picture" else f"{row.baseline}-{crop_of}")
        measure = (*_measure(wish, f"baseline:{row.baseline}", cell, folder), "--crop-of", crop_of)
        makes = _evaluation(wish, folder) / "metrics.json"
        return [Job(row.name, of, makes, (measure,), folder / "said.txt", needs=(cell.split,))]
    recipe = load(wish, row, cell)
    before = replace(row, overrides=(*row.overrides, *_semi(Semi(steps=0))))  # the same of all that share it
    first = load(wish, before, cell)
    trunk = cell.runs / f"stage2-{_hash(wish, first)}"
    tune = _finetune(wish, before, cell, trunk)
    job = Job(f"{row.name}: stage 2", of, _model(trunk), (tune,), trunk / "said.txt", needs=(cell.split,))
    _refuse_another(trunk, first)
    folder, copy, spent = trunk, None, None
    commands: tuple[tuple[str, ...], ...] = ()
    if recipe.semi.steps:
        folder = cell.runs / f"stage3-{_hash(wish, recipe)}"
        spent = folder / "checkpoints"  # those of stage 2 stay: another variant may go on from there
        changes = [word for change in _changes(first, recipe) for word in ("--change", change)]
        _refuse_another(folder, recipe)
        if not _model(folder).exists():  # it may be there, and be asked for another list
            commands, copy = ((*_finetune(wish, before, cell, folder), *changes),), (trunk, folder)
    measure = _measure(wish, str(folder / "model"), cell, folder)
    makes = _evaluation(wish, folder) / "metrics.json"
    last = Job(row.name, of, makes, (*commands, measure), folder / "said.txt", (job.makes,), copy, spent)
    return [job, last]


def _model(run: Path) -> Path:
    """The file that is there when the run is done."""
    return run / "model" / artifact.MANIFEST


def _refuse_another(run: Path, recipe: Finetune) -> None:
    """UserError where the run was done with other values: a default has changed since, which the name does not tell."""
    if _model(run).exists():
        config.refuse_another(run / "recipe.toml", recipe, ())


def _finetune(wish: Wish, row: Row, cell: Cell, folder: Path) -> tuple[str, ...]:
    return ("finetune", str(row.recipe), *given(wish, row, cell, folder))


def _changes(old: Finetune, new: Finetune) -> list[str]:
    """The keys of `semi` in which `new` differs from `old`, as --change takes them."""
    return sorted({*_semi(new.semi)} - {*_semi(old.semi)})


def _semi(section: Semi) -> list[str]:
    """The section as overrides."""
    return [config.as_override(f"semi.{key}", value) for key, value in asdict(section).items()]


def _hash(wish: Wish, recipe: Finetune) -> str:
    """Eight digits for what the recipe computes: its `maths` keys that are not as the schema has them.

    So a key that is new in the schema, with a default under which all is as before, leaves the name as it was. Where
    a default is changed, `finetune` finds the run's recipe.toml to be another, and refuses it.
    """
    said = {}
    for name, field in config.keys(Finetune):
        section, key = name.split(".")
        value = getattr(getattr(recipe, section), key)
        usual = wish.start_from if name == "model.start_from" else field.default
        if field.metadata["kind"] == "maths" and name != "run.seed" and value != usual:
            said[name] = str(value)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def _evaluation(wish: Wish, folder: Path) -> Path:
    return folder / ("evaluation" if wish.list_name == "test" else f"evaluation-{wish.list_name}")


def _measure(wish: Wish, model: str, cell: Cell, folder: Path) -> tuple[str, ...]:
    where = ("--split", str(cell.split), "--list", wish.list_name, "--out", str(_evaluation(wish, folder)))
    return ("evaluate", model, wish.data, *where)
