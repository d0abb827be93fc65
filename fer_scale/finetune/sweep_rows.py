"""What a sweep runs: rows (the ladder, recipes and their variants) times cells (draws of labels)."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer_scale import config
from fer_scale.finetune.recipe import Finetune
from shards.errors import UserError

_FROM_NONE = "model.start_from=none"
# A usual rate, for all layers, a plain cosine, views and guards: a recipe's are chosen for pre-trained layers.
# The CNN had 62.2 % with the last three, 57.8 % as few_labels.toml has them (2,129 labels, one run each, 2026-11-27).
SCRATCH = (
    _FROM_NONE, "supervised.lr=1e-3", "supervised.layer_decay=1.0",
    "supervised.start_lr=0.0", "supervised.end_lr=0.0", "supervised.decay_steps=0",
    "augment.labeled=weak", "facemix.smoothing=0.1", "model.drop_path=0.1",
)  # fmt: skip
CNN = ("model.architecture=resnet10t", "model.image_px=64", "model.pool=encoder")
# What the sweep itself gives. One table is of one encoder: its ladder, its line of views and the runs' names go by it.
_FIXED = ("data.shards", "data.split", "run.out", "run.seed", "model.start_from")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a sweep was given."""

    recipe: Path
    overrides: Sequence[str] = ()
    data: str
    start_from: str
    out: Path
    seeds: Sequence[int]
    labels: Sequence[str]
    vary: Sequence[str] = ()  # each "section.key=one,another"; their product is run
    more: Sequence[tuple[str, Path, tuple[str, ...]]] = ()  # further recipes: name, file, keys beside `overrides`
    test: str = "25%"
    test_seed: int = 0
    valid: str | None = None
    list_name: str = "test"
    jobs: int = 0  # at once; 0: as many as fit
    ladder: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a recipe with its overrides, or a baseline that is cut pictures as by this recipe."""

    name: str
    baseline: str = ""
    recipe: Path = Path()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A draw of labels, with its split file and the folder of its runs."""

    labels: str
    seed: int
    split: Path
    runs: Path


def rows_of(wish: Wish, begun: dict[str, Any]) -> list[Row]:
    """The ladder, then the recipes. `begun` is config.json of the encoder, empty where there is none."""
    _refuse_fixed(wish)
    overrides = tuple(wish.overrides)
    variants = [
        Row(name, recipe=wish.recipe, overrides=(*overrides, *more))
        for name, more in zip(names(wish), _products(wish), strict=True)
    ]
    variants += [Row(name, recipe=file, overrides=(*overrides, *own)) for name, file, own in wish.more]
    rows = [*(_ladder(wish, begun, variants[0]) if wish.ladder else ()), *variants]
    if len({row.name for row in rows}) < len(rows):
        raise UserError(f"--recipe: two rows have one name: {', '.join(row.name for row in rows)}")
    return rows


def _ladder(wish: Wish, begun: dict[str, Any], first: Row) -> list[Row]:
    """What the row `first` must be read against."""
    names = (("majority", "majority"), ("logistic regression on pixels", "pixels"))
    rungs = [replace(first, name=name, baseline=baseline) for name, baseline in names]
    none = (*first.overrides, *SCRATCH, "semi.steps=0")
    batch = load(wish, replace(first, overrides=none + CNN)).supervised.batch
    whole = f"batch.micro={batch + batch % 2}"
    rungs.append(replace(first, name="small CNN from scratch (resnet10t)", overrides=(*none, *CNN, whole)))
    recipe = load(wish, first)
    if begun:
        px = recipe.model.image_px or begun["pretrained_cfg"]["input_size"][-1]
        rungs.append(replace(first, name="the same network from scratch", overrides=(*none, *_same_network(begun, px))))
    if recipe.semi.steps:
        rungs.append(replace(first, name=f"{first.name}, stage 2", overrides=(*first.overrides, "semi.steps=0")))
    return rungs


def names(wish: Wish) -> list[str]:
    return [" ".join([wish.recipe.stem, *more]) for more in _products(wish)]


def _products(wish: Wish) -> list[tuple[str, ...]]:
    """The overrides of each variant: every value of the first --vary with every one of the next, and so on."""
    choices = []
    for text in wish.vary:
        key, equals, values = text.partition("=")
        if not (key and equals and values):
            raise UserError(f"--vary {text}: write section.key=ONE,ANOTHER, as semi.labeler=fixed,softmatch")
        choices.append([f"{key}={value}" for value in _apart(values)])
    return list(itertools.product(*choices))


def _apart(values: str) -> list[str]:
    """ "a,b" as a and b; commas within brackets do not part: "[0.2,1],[0.7,1]" are two."""
    return [value for value in re.split(r",(?![^\[]*\])", values) if value]


def _same_network(begun: dict[str, Any], px: int) -> tuple[str, ...]:
    """The keys that build the encoder's network anew, for images of `px`."""
    args = begun.get("model_args", {})
    if {"embed_dim", "depth", "num_heads", "patch_size"} <= args.keys():
        shape = f"{args['embed_dim']}x{args['depth']}x{args['num_heads']}"
        return (f"model.architecture={shape}", f"model.image_px={px}", f"model.patch_px={args['patch_size']}")
    return (f"model.architecture={begun['architecture']}", f"model.image_px={px}")


def _refuse_fixed(wish: Wish) -> None:
    for word in (*wish.overrides, *wish.vary, *(word for _, _, own in wish.more for word in own)):
        if (key := word.partition("=")[0]) in _FIXED and word != _FROM_NONE:
            raise UserError(f"{word}: a sweep gives {key} itself, by --data, --from, --seeds, --labels and --out")


def cell_of(wish: Wish, labels: str, seed: int) -> Cell:
    name = f"{labels.replace('%', 'pct').replace('/', '-per-')}-seed{seed}"
    return Cell(labels, seed, wish.out / "splits" / f"{name}.json", wish.out / "runs" / name)


def given(wish: Wish, row: Row, cell: Cell, folder: Path) -> tuple[str, ...]:
    """All overrides of a run; the row's own win."""
    paths = {"data.shards": wish.data, "data.split": str(cell.split), "model.start_from": wish.start_from}
    places = [config.as_override(key, value) for key, value in (paths | {"run.out": str(folder)}).items()]
    return (*places, f"run.seed={cell.seed}", "run.keep_checkpoints=1", *row.overrides)


def load(wish: Wish, row: Row, cell: Cell | None = None) -> Finetune:
    """The row's recipe, of any draw of labels where none is given."""
    cell = cell or cell_of(wish, wish.labels[0], wish.seeds[0])
    return config.load(Finetune, row.recipe, given(wish, row, cell, Path("run")))
